import { isPostgresGate } from '../src/gates/decide-postgres.js';
import { readPostgres } from '../src/gates/postgres-source.js';
import type { Confirmed } from '../src/gates/instances.js';
import type { Stage } from '../src/plan/schema.js';
import { formatDuration } from '../src/plan/duration.js';
import { VerdigrisError } from '../src/errors.js';
import { isInForce, setGreenReads } from '../src/postgres/green-reads.js';
import { writeProgress, type ProgressKey } from '../src/postgres/migrate/progress-row.js';
import { inTransaction, type Session } from '../src/postgres/session.js';
import { readRoute, type Route } from '../src/postgres/state.js';
import type { Environment } from '../src/worker/connections.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { StagePatience, Work } from './context.js';
import { flagsFollowRoute, flagsFollowRouteOrTell, type FlagsOwed } from './flags.js';
import { blueBeforeStage } from './prometheus-before.js';
import { refuseAbsentHaproxies, weightsFollowRoute, weightsFollowRouteOrWarn } from './haproxy.js';
import { followerReader, refuseUndeployed, untilFollowed, type FollowerReader } from './instances.js';
import type { StageBaseline } from './stage-measurements.js';
import { transactionVolume } from './transaction-volume.js';

export const STAGE_PATIENCE: StagePatience = { readMs: 10_000, followMs: 5_000, confirmMs: 10_000, lookMs: 45_000 };

/** What is told with the error of a stage that could not be opened. Plain data. */
export interface NotOpen {
  /** The share in force now. */
  readonly greenReadPercent: number;
  /** What flagd's file does not say yet, where reads were taken back. */
  readonly flagsOwed: FlagsOwed | null;
}

/** An opening in progress, and the route that it has read or made. */
interface Opening {
  readonly work: Work;
  readonly ref: RunRef;
  readonly stage: Stage;
  readonly environment: Environment;
  readonly blue: Session;
  readonly follow: FollowerReader;
  readonly patience: StagePatience;
  inForce: Confirmed;
}

/**
 * Sends the reads of a stage's users to green. Where that does not come into effect they are taken back, since nothing
 * watches them yet: the error says so (see NotOpen).
 *
 * @throws VerdigrisError GateFailed, which names the instances that are too old, or have not confirmed the stage
 * @throws VerdigrisError FlagsNotWritten, WeightsNotSet, StaleEpoch
 */
export async function openStage(
  work: Work,
  ref: RunRef,
  stage: Stage,
  environment: Environment,
  patience: StagePatience = STAGE_PATIENCE,
): Promise<{ routers: number }> {
  const migration = ref.plan.name;
  const begun = performance.now();
  const blue = await work.session('blue', 'stage');
  const route = await readRoute(blue, migration);
  if (route === undefined || route.writesOn !== 'blue') throw notBeforePromotion(route);
  if (performance.now() - begun > patience.readMs) throw routeChanged(stage, 'this worker was held up');
  const { epoch, generation, greenReadPercent } = route;
  const opening: Opening = {
    ...{ work, ref, stage, environment, patience, blue, inForce: { migration, epoch, generation } },
    follow: followerReader(blue, ref.plan, environment, work.signal),
  };
  try {
    const measured = await prepare(opening, greenReadPercent);
    await move(opening);
    return await confirm(opening, measured);
  } catch (error) {
    // An opening that was broken off, by a worker that died, may have moved the reads already.
    const hasMoved = opening.inForce.generation !== generation || greenReadPercent === stage.percent;
    // Whoever has ended this one takes the reads back, or opens the stage himself.
    if (work.signal.aborted) throw error;
    const details: NotOpen = hasMoved ? await takeBack(opening) : { greenReadPercent, flagsOwed: null };
    throw error instanceof VerdigrisError ? error.withDetails(details) : error;
  }
}

interface Measured {
  readonly green: Session | undefined;
  readonly volumeBefore: number | undefined;
  readonly prometheusBefore: StageBaseline['prometheusBefore'];
}

/** What must be so before anything moves: all that has to follow can, and every live instance does now. */
async function prepare(opening: Opening, greenReadPercent: number): Promise<Measured> {
  const { work, ref, stage, environment, blue, follow } = opening;
  if (stage.percent > 0) {
    await refuseUndeployed(blue, ref.plan, {
      ...{ name: `stage ${stage.percent} %`, type: 'GateFailed', retryable: true },
      nextStep: 'deploy the application with the code that works with both schemas; the stage waits for it',
    });
  }
  await flagsFollowRoute(ref, blue);
  await refuseAbsentHaproxies(ref, environment);
  const { behind } = await untilFollowed(follow, opening.inForce, opening.patience.followMs, work);
  if (behind.length > 0) throw notConfirmed(stage, behind, 'do not follow the route in force');
  const asksServers = ref.plan.traffic.gates.some(isPostgresGate);
  const green = asksServers ? await work.session('green', 'stage') : undefined;
  const volumeBefore =
    green === undefined ? undefined : await transactionVolume(work, { blue, green }, ref.plan, greenReadPercent);
  const prometheusBefore = await blueBeforeStage(work, blue, ref.plan, greenReadPercent, environment);
  return { green, volumeBefore, prometheusBefore };
}

/** Only from the route that was read before the slow work: a worker that was frozen since then is refused. */
async function move(opening: Opening): Promise<void> {
  const { work, ref, stage, environment, blue } = opening;
  work.signal.throwIfAborted();
  const generation = await setGreenReads(blue, opening.inForce, stage.percent);
  if (generation === undefined) throw routeChanged(stage, 'somebody else has changed it meanwhile');
  opening.inForce = { ...opening.inForce, generation };
  await flagsFollowRoute(ref, blue);
  await weightsFollowRoute(ref, environment, blue);
}

async function confirm(opening: Opening, measured: Measured): Promise<{ routers: number }> {
  const { work, ref, stage, blue, follow, inForce, patience } = opening;
  const { green, volumeBefore, prometheusBefore } = measured;
  work.report({ percent: stage.percent });
  const { behind, routers } = await untilFollowed(follow, inForce, patience.confirmMs, work);
  if (behind.length > 0) {
    throw notConfirmed(stage, behind, `have not taken it over within ${formatDuration(patience.confirmMs)}`);
  }
  const { at, live, stale, unreadable } = routers;
  const baseline: StageBaseline = {
    openedAt: at,
    sample: { at, live, stale, unreadable },
    route: { epoch: inForce.epoch, generation: inForce.generation },
    ...(green === undefined ? {} : { postgres: await readPostgres({ blue, green }, ref.plan.name) }),
    ...(volumeBefore === undefined ? {} : { volumeBefore }),
    ...(prometheusBefore === undefined ? {} : { prometheusBefore }),
  };
  await inTransaction(blue, async () => {
    if (!(await isInForce(blue, inForce))) throw routeChanged(stage, 'somebody else has changed it meanwhile');
    await writeProgress(blue, stageKey(work, stage), baseline, true);
  });
  return { routers: live.length };
}

/** Where the route is still this opening's, the reads go back to blue: all of them, as nobody has judged the stage. */
async function takeBack({ work, ref, environment, inForce }: Opening): Promise<NotOpen> {
  // Of its own: what has failed may have been the session.
  const blue = await work.session('blue', 'reads to blue');
  if ((await setGreenReads(blue, inForce, 0)) === undefined) {
    return { greenReadPercent: (await readRoute(blue, inForce.migration))?.greenReadPercent ?? 0, flagsOwed: null };
  }
  await weightsFollowRouteOrWarn(ref, environment, () => Promise.resolve(blue));
  return { greenReadPercent: 0, flagsOwed: await flagsFollowRouteOrTell(ref, () => Promise.resolve(blue)) };
}

/** The row of a stage that is open. */
export function stageKey({ run }: Work, stage: Stage): ProgressKey {
  return { runId: run.runId, step: 'stage', object: String(stage.percent) };
}

/** Reads follow writes once these have moved. */
export function notBeforePromotion(route: Route | undefined): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `reads can't be shifted: ${route === undefined ? 'there is no route' : 'writes are on green already'}`,
    nextStep: 'see who moved the route; roll the run back',
  });
}

function routeChanged({ percent }: Stage, why: string): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `stage ${percent} %: the route is not the one that was read, ${why}`,
    nextStep: 'nothing: the stage is opened again from the route in force',
    retryable: true,
  });
}

function notConfirmed({ percent }: Stage, behind: readonly string[], what: string): VerdigrisError {
  return new VerdigrisError({
    type: 'GateFailed',
    message: `stage ${percent} %: these instances ${what}: ${behind.slice(0, 10).join(', ')}`,
    nextStep: 'see whether they reach blue; an instance that has ended is forgotten after a few seconds',
    retryable: true,
  });
}
