import { decideGate, worstOutcome, type GateOutcome } from '../src/gates/decide.js';
import type { RouterSnapshots } from '../src/gates/router-snapshot.js';
import { windowBetween } from '../src/gates/window.js';
import type { Gate, Stage } from '../src/plan/schema.js';
import type { Evidence } from '../workflows/lib/evidence.js';

export interface Verdict {
  readonly outcome: GateOutcome;
  readonly evidence: readonly Evidence[];
  readonly lagSeconds: number | null;
}

/** What a stage's gates say about all the traffic since it opened. A stage of 0 % sends nobody to green: nothing to judge. */
export function judge(
  gates: readonly Gate[],
  stage: Stage,
  baseline: RouterSnapshots,
  now: RouterSnapshots,
  lagMs: readonly number[],
): Verdict {
  const window = windowBetween(baseline, now);
  const asked = stage.percent === 0 ? gates.filter((gate) => gate.metric === 'lag') : gates;
  const decisions = asked.map((gate) => decideGate(gate, { window, lagMs }));
  const last = lagMs.at(-1);
  return {
    outcome: decisions.length === 0 ? 'pass' : worstOutcome(decisions),
    evidence: decisions.map((decision) => ({ at: now.at, where: `stage ${stage.percent} %`, ...decision })),
    lagSeconds: last !== undefined && Number.isFinite(last) ? last / 1_000 : null,
  };
}
