import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import { isTaken } from './fault-points.js';
import { FaultRun } from './fault-run.js';
import { STEP_POINTS, trapAt, type StepPoint } from './move-points.js';
import { recordOutcome } from './outcome-table.js';

const { promotion: THERE, 'way back': BACK } = STEP_POINTS;

interface Pair {
  readonly there: StepPoint;
  readonly back: StepPoint;
}

const PAIRS = Array.from({ length: Math.max(THERE.length, BACK.length) }, (_, n) => ({
  there: THERE[n % THERE.length],
  back: BACK[n % BACK.length],
})).filter((pair): pair is Pair => pair.there !== undefined && pair.back !== undefined);

/** Boundaries between two steps, one of the promotion and one of the way back for each run: every n-th by default. */
export function pairsOfSteps(everyByDefault: number): (readonly [string, string, Pair])[] {
  return PAIRS.filter((_, n) => isTaken(n, everyByDefault)).map((pair) => [pair.there.name, pair.back.name, pair]);
}

/** A whole run whose worker is struck once on its way there and once on its way back. */
export async function strikeWorker(fault: 'kill' | 'freeze', { there, back }: Pair): Promise<void> {
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
}

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
