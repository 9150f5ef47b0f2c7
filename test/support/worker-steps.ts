import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import type { Side } from '../../src/side.js';
import { isTaken } from './fault-points.js';
import { FaultRun, type Ending } from './fault-run.js';
import { STEP_POINTS, trapAt, type StepPoint } from './move-points.js';
import { recordOutcome } from './outcome-table.js';

const { promotion: THERE, 'way back': BACK } = STEP_POINTS;

/** Where the worker of one run is struck: at each point of a way in turn. */
interface Strikes {
  readonly there: readonly StepPoint[];
  readonly back: readonly StepPoint[];
}

type NamedStrikes = readonly [string, string, Strikes];

/**
 * Boundaries between two steps, `eachWay` of the promotion and as many of the way back for each run: every n-th run by default.
 * The second of a way lies half the way behind the first, so that whoever goes on comes by it.
 */
export function strikesOfSteps(everyByDefault: number, eachWay: 1 | 2): NamedStrikes[] {
  const runs = Math.ceil(Math.max(THERE.length, BACK.length) / eachWay);
  const along = (points: readonly StepPoint[], n: number): readonly StepPoint[] =>
    (eachWay === 1 ? [points[n % points.length]] : [points[n], points[n + runs]]).filter((one) => one !== undefined);
  return Array.from({ length: runs }, (_, n) => ({ there: along(THERE, n), back: along(BACK, n) }))
    .filter((_, n) => isTaken(n, everyByDefault))
    .map((strikes) => [namesOf(strikes.there), namesOf(strikes.back), strikes]);
}

function namesOf(points: readonly StepPoint[]): string {
  return points.map(({ name }) => name).join(', then when ');
}

/** A whole run whose worker is struck on its way there and on its way back. */
export async function strikeWorker(fault: 'kill' | 'freeze', { there, back }: Strikes): Promise<void> {
  const run = await FaultRun.create({ purpose: `${fault} worker` });
  const started = performance.now();
  let part = 'promotion';
  let points = there;
  let outcome = 'wrong';
  const told = (): void => {
    const seconds = (performance.now() - started) / 1_000;
    for (const { name } of points)
      recordOutcome({ fault: `worker ${fault}`, point: `${part}: ${name}`, outcome, seconds });
    const where = `${part}: ${namesOf(points)}`;
    process.stdout.write(`worker ${fault}, ${where}: ${outcome}, ${seconds.toFixed(0)} s ${run.notes.join(', ')}\n`);
  };
  try {
    const inPromotion = aim(run, there, 'blue');
    await run.start();
    await run.prepareWorker();
    await run.inTraffic();
    await strike(run, fault, inPromotion, () => run.inStandby());
    expect(await run.audit('green', 'follows')).toEqual([]);
    outcome = 'right';
    told();

    [part, points, outcome] = ['way back', back, 'wrong'];
    const onTheWayBack = aim(run, back, 'green');
    await run.prepareWorker();
    await run.rollBack();
    const ending = run.ended();
    const { outcome: ended } = await strike(run, fault, onTheWayBack, () => ending);
    expect(ended).toBe('rolledBack');
    expect(await run.audit('blue', 'is not followed')).toEqual([]);
    expect(await run.refusesWrites('green')).toBe(true);
    expect([...(run.writers?.failures ?? []), ...(run.writers?.unknown ?? [])]).toEqual([]);
    expect(run.looks).toBeGreaterThan(50);
    // Another worker goes on with the same approval.
    if (fault === 'kill') expect(run.notes).toEqual([]);
    outcome = 'right';
  } finally {
    told();
    await run.close();
  }
}

/**
 * Kills the worker of a run at each point in turn, as the run does what `asks` has it do; another one goes on each time.
 *
 * @param from the side that `on: 'from'` means
 * @returns how the run ends
 */
export async function killInTurn(
  run: FaultRun,
  points: readonly StepPoint[],
  from: Side,
  asks: () => Promise<unknown>,
): Promise<Ending> {
  return killInTurnUntil(run, points, from, asks, () => run.ended());
}

/** The same until `goesOn` says that the run has got where it should. @returns what it says */
export async function killInTurnUntil<T>(
  run: FaultRun,
  points: readonly StepPoint[],
  from: Side,
  asks: () => Promise<unknown>,
  goesOn: () => Promise<T>,
): Promise<T> {
  const at = aim(run, points, from);
  await run.prepareWorker();
  await asks();
  const going = goesOn();
  going.catch(() => undefined);
  return strike(run, 'kill', at, () => going);
}

type Held = Awaited<ReturnType<FaultRun['stopWhere']>>;

/** The next point where the worker is stopped; `next` is the same for those behind it. */
interface Aim {
  readonly held: Promise<Held>;
  readonly next: (() => Aim) | undefined;
}

function aim(run: FaultRun, [first, ...others]: readonly StepPoint[], from: Side): Aim {
  if (first === undefined) throw new Error('there is no point to strike at');
  return {
    held: run.stopWhere(...trapAt(first, from)),
    next: others.length === 0 ? undefined : () => aim(run, others, from),
  };
}

/** Strikes the worker at each point, has another one go on, and wakes the frozen one when that has been done. */
async function strike<T>(run: FaultRun, fault: 'kill' | 'freeze', at: Aim, goesOn: () => Promise<T>): Promise<T> {
  const held = await Promise.race([at.held, sleep(400_000, undefined, { ref: false })]);
  if (held === undefined) throw new Error('the worker did not come to the point');
  const struck = run.worker;
  if (fault === 'kill') {
    // What it was about to send is never sent, what it was about to be told never arrives.
    await struck.kill();
    const next = at.next?.();
    await run.replaceWorker();
    const going = goesOn();
    if (next === undefined) return going;
    // It answers what the run asks meanwhile.
    going.catch(() => undefined);
    return strike(run, fault, next, () => going);
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
