import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { Side } from '../../src/side.js';
import { isTaken } from '../support/fault-points.js';
import { FaultRun } from '../support/fault-run.js';
import { STEP_POINTS, trapAt, type StepPoint } from '../support/move-points.js';
import { recordOutcome } from '../support/outcome-table.js';

/*
 * The worker of a whole run is killed, or frozen and woken when another one has gone on, at every boundary between two
 * steps of the promotion and of the way back: one of each in a run. VERDIGRIS_FAULT_POINTS=n takes every n-th
 * (default: each for the kill, every second for the freeze).
 */

const { promotion: THERE, 'way back': BACK } = STEP_POINTS;

const PAIRS = Array.from({ length: Math.max(THERE.length, BACK.length) }, (_, n) => ({
  there: THERE[n % THERE.length] ?? THERE[0],
  back: BACK[n % BACK.length] ?? BACK[0],
}));

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
    expect(missed(THERE, 'blue')).toEqual([]);
    await run.rollBack();
    expect((await run.ended()).outcome).toBe('rolledBack');
    expect(missed(BACK, 'green')).toEqual([]);
  } finally {
    await run.close();
  }
});

describe.each(['kill', 'freeze'] as const)('%s the worker', (fault) => {
  it.each(
    PAIRS.filter((_, n) => isTaken(n, fault === 'kill' ? 1 : 2)).map(
      (pair) => [pair.there?.name, pair.back?.name, pair] as const,
    ),
  )(
    'when %s, and on the way back when %s: the run goes on, no write is lost or doubled, never are both sides open',
    { timeout: 1_200_000 },
    async (_, __, { there, back }) => {
      if (there === undefined || back === undefined) throw new Error('there are no points');
      const run = await FaultRun.create({ purpose: `${fault} worker` });
      const started = performance.now();
      let part = `promotion: ${there.name}`;
      let outcome = 'wrong';
      const told = (): void => {
        const seconds = (performance.now() - started) / 1_000;
        recordOutcome({ fault: `worker ${fault}`, point: part, outcome, seconds });
        process.stdout.write(`worker ${fault}, ${part}: ${outcome}, ${seconds.toFixed(0)} s ${run.notes.join(', ')}\n`);
      };
      try {
        const inPromotion = run.stopWhere(...trapAt(there, 'blue'));
        await run.start();
        await run.prepareWorker();
        await run.inTraffic();
        await strike(run, fault, inPromotion, () => run.inStandby());
        expect(await run.audit('green', 'follows')).toEqual([]);
        outcome = 'right';
        told();

        part = `way back: ${back.name}`;
        outcome = 'wrong';
        const onTheWayBack = run.stopWhere(...trapAt(back, 'green'));
        await run.prepareWorker();
        await run.rollBack();
        const ending = run.ended();
        const { outcome: ended } = await strike(run, fault, onTheWayBack, () => ending);
        expect(ended).toBe('rolledBack');
        expect(await run.audit('blue', 'is not followed')).toEqual([]);
        expect(await run.refusesWrites('green')).toBe(true);
        expect([...(run.writers?.failures ?? []), ...(run.writers?.unknown ?? [])]).toEqual([]);
        expect(run.looks).toBeGreaterThan(50);
        outcome = 'right';
      } finally {
        told();
        await run.close();
      }
    },
  );
});

/** Strikes the worker at the point, has another one go on, and wakes the frozen one when that has been done. */
async function strike<T>(
  run: FaultRun,
  fault: 'kill' | 'freeze',
  at: ReturnType<FaultRun['stopWhere']>,
  goesOn: () => Promise<T>,
): Promise<T> {
  const held = await Promise.race([at, sleep(400_000, undefined, { ref: false })]);
  if (held === undefined) throw new Error('the worker did not come to the point');
  const struck = run.worker;
  if (fault === 'kill') {
    // What it was about to send is never sent, what it was about to be told never arrives.
    await struck.kill();
    await run.replaceWorker();
    return goesOn();
  }
  struck.freeze();
  await run.replaceWorker();
  const done = await goesOn();
  held.release();
  struck.thaw();
  // It goes on with what it was about to do, in an epoch that is over.
  await sleep(1_500);
  await struck.kill();
  return done;
}
