import type { Gate, Stage } from '../plan/schema.js';
import { isRequestGate } from './decide-requests.js';

/**
 * The gates that are asked while a stage runs. A stage of 0 % sends nobody to green: nothing is there to count. Rows are
 * compared once, when the stage's time is over.
 */
export function askedIn(gates: readonly Gate[], stage: Stage): Gate[] {
  return gates.filter(
    (gate) =>
      gate.metric !== 'rowDifferences' &&
      // Only blue's reads are mirrored, and it has none any more.
      !(gate.metric === 'mismatchRate' && stage.percent >= 100) &&
      (stage.percent > 0 || (!isRequestGate(gate) && gate.metric !== 'prometheus')),
  );
}
