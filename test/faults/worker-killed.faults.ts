import { describe, expect, it } from 'vitest';
import type { Side } from '../../src/side.js';
import { FaultRun } from '../support/fault-run.js';
import { STEP_POINTS, trapAt, type StepPoint } from '../support/move-points.js';
import { strikesOfSteps, strikeWorker } from '../support/worker-steps.js';

/*
 * The worker of a whole run is killed at every boundary between two steps of the promotion and of the way back: two of
 * each in a run, so the one that goes on is killed as well. VERDIGRIS_FAULT_POINTS=n takes every n-th.
 */

it('every point lies on the way of a run there and back', { timeout: 1_200_000 }, async () => {
  const run = await FaultRun.create({ purpose: 'points' });
  try {
    await run.start();
    await run.inTraffic();
    await run.inStandby();
    const missed = (points: readonly StepPoint[], from: Side): string[] =>
      points
        .filter((point) => {
          const [side, isHere] = trapAt(point, from);
          return !run.seen[side].some(isHere);
        })
        .map((point) => point.name);
    expect(missed(STEP_POINTS.promotion, 'blue')).toEqual([]);
    await run.rollBack();
    expect((await run.ended()).outcome).toBe('rolledBack');
    expect(missed(STEP_POINTS['way back'], 'green')).toEqual([]);
  } finally {
    await run.close();
  }
});

describe('kill the worker', () => {
  it.each(strikesOfSteps(1, 2))(
    'when %s, and on the way back when %s: the run goes on, no write is lost or doubled, never are both sides open',
    { timeout: 1_200_000 },
    (_, __, strikes) => strikeWorker('kill', strikes),
  );
});
