import { askedIn } from '../src/gates/asked-in.js';
import { decideGate, worstOutcome, type GateInput, type GateOutcome } from '../src/gates/decide.js';
import type { Plan, Stage } from '../src/plan/schema.js';
import type { Evidence } from '../workflows/lib/evidence.js';

export interface Verdict {
  readonly outcome: GateOutcome;
  readonly evidence: readonly Evidence[];
  readonly lagSeconds: number | null;
}

/**
 * What a stage's gates say about all the traffic since it opened. A gate that is a dry run is shown and does not count.
 *
 * @param at when the numbers were read, ISO 8601
 */
export function judge(traffic: Plan['traffic'], stage: Stage, at: string, input: GateInput): Verdict {
  const decided = askedIn(traffic.gates, stage).map((gate) => {
    const evidence: Evidence = {
      at,
      where: `stage ${stage.percent} %`,
      ...decideGate(gate, input),
      onFail: gate.onFail ?? traffic.onFail,
      ...(gate.dryRun === true ? { dryRun: true } : {}),
    };
    return evidence;
  });
  const counting = decided.filter((one) => one.dryRun !== true);
  const last = input.lagMs.at(-1);
  return {
    outcome: counting.length === 0 ? 'pass' : worstOutcome(counting),
    evidence: decided,
    lagSeconds: last !== undefined && Number.isFinite(last) ? last / 1_000 : null,
  };
}
