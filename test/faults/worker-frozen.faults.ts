import { describe, it } from 'vitest';
import { strikesOfSteps, strikeWorker } from '../support/worker-steps.js';

/*
 * The worker of a whole run is frozen, and woken when another one has gone on, at boundaries between two steps of the
 * promotion and of the way back: one of each in a run. VERDIGRIS_FAULT_POINTS=n takes every n-th (default: 3).
 */

describe('freeze the worker', () => {
  it.each(strikesOfSteps(3, 1))(
    'when %s, and on the way back when %s: the run goes on, no write is lost or doubled, never are both sides open',
    { timeout: 1_200_000 },
    (_, __, strikes) => strikeWorker('freeze', strikes),
  );
});
