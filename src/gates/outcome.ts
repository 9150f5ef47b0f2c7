export type GateOutcome = 'pass' | 'fail' | 'inconclusive' | 'error';

const SEVERITY: readonly GateOutcome[] = ['pass', 'inconclusive', 'error', 'fail'];

/** The outcome of all gates together is the worst of them; without a gate nothing has been shown. */
export function worstOutcome(decisions: readonly { readonly outcome: GateOutcome }[]): GateOutcome {
  if (decisions.length === 0) return 'inconclusive';
  const worst = Math.max(...decisions.map((decision) => SEVERITY.indexOf(decision.outcome)));
  return SEVERITY[worst] ?? 'error';
}
