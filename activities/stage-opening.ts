import { CancelledFailure } from '@temporalio/activity';
import { isPostgresGate } from '../src/gates/decide-postgres.js';
import { readPostgres } from '../src/gates/postgres-source.js';
import type { Confirmed } from '../src/gates/instances.js';
import type { Stage } from '../src/plan/schema.js';
import { formatDuration } from '../src/plan/duration.js';
import { VerdigrisError } from '../src/errors.js';
import { isInForce, setGreenReads } from '../src/postgres/green-reads.js';
import type { NotAfter } from '../src/postgres/promotion.js';
import { serverClock } from '../src/postgres/server-clock.js';
import { writeProgress } from '../src/postgres/migrate/progress-row.js';
import { inTransaction, type Session } from '../src/postgres/session.js';
import { readRoute, type Route } from '../src/postgres/state.js';
import type { Environment } from '../src/worker/connections.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { StagePatience, Work } from './context.js';
import { flagsFollowOrTell, flagsFollowRoute, type FlagsOwed } from './flags.js';
import { blueBeforeStage } from './prometheus-before.js';
import {
  haproxiesStartedAnew,
  refuseAbsentHaproxies,
  weightsFollowRoute,
  weightsFollowRouteOrWarn,
} from './haproxy.js';
import { followerReader, refuseUndeployed, untilFollowed, type FollowerReader } from './instances.js';
import type { StageBaseline } from './stage-measurements.js';
import { failedMeanwhile, refusedByGates, stageKey } from './stage-watch.js';
import { onThisMachine } from './temporal-clock.js';
import type { ReadsOwed } from './traffic.js';
import { transactionVolume, type VolumeBefore } from './transaction-volume.js';

export const STAGE_PATIENCE: StagePatience = {
  readMs: 10_000,
  followMs: 5_000,
  confirmMs: 10_000,
  lookMs: 45_000,
  watchedMs: 15_000,
  prometheusEveryMs: 5_000,
};

/** What is told with the error of a stage that could not be opened. Plain data. */
export interface NotOpen {
  /** The share in force now. */
  readonly greenReadPercent: number;
  /** What flagd's file does not say yet, where reads were taken back. */
  readonly flagsOwed: FlagsOwed | null;
  /** Who does not follow yet, where reads were taken back. Left out when nobody is missing, and by older workers. */
  readonly readsOwed?: ReadsOwed;
  /** A gate of the stage in force until now has failed, whatever share is in force. Left out when none has. */
  readonly gateFailed?: true;
}

/** What is told by an opening that was cancelled. Plain data. */
export interface BrokenOff {
  /** Whether the share of this stage may be in force: then nobody watches it. */
  readonly hasMoved: boolean;
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
  readonly notAfter: NotAfter | undefined;
  /** The one that was read. */
  readonly route: Route;
  inForce: Confirmed;
  /** From the moment in which blue is told to move the reads: its answer may be lost. */
  mayHaveMoved: boolean;
}

interface OpeningLimits {
  readonly patience?: StagePatience;
  /** By Temporal's clock, ISO 8601: later than that no reads are moved. Default: no limit. */
  readonly notAfter?: string | undefined;
  /** The stage whose gates must not have failed. Default: none. */
  readonly before?: Stage | undefined;
}

/**
 * Sends the reads of a stage's users to green, unless a gate of the stage before has failed. Where that does not come into effect they are taken back, since nothing
 * watches them yet: the error says so (see NotOpen). One that is cancelled stops, and says what it has done (BrokenOff).
 *
 * @throws VerdigrisError GateFailed, when it is too late, or which names the instances that are too old, or have not confirmed the stage
 * @throws VerdigrisError FlagsNotWritten, WeightsNotSet, StaleEpoch
 */
export async function openStage(
  work: Work,
  ref: RunRef,
  stage: Stage,
  environment: Environment,
  { patience = STAGE_PATIENCE, notAfter: told, before }: OpeningLimits = {},
): Promise<{ routers: number }> {
  const migration = ref.plan.name;
  const notAfter = told === undefined ? undefined : await onThisMachine(told);
  const begun = performance.now();
  const blue = await work.session('blue', 'stage');
  const route = await readRoute(blue, migration);
  if (route === undefined || route.writesOn !== 'blue') throw notBeforePromotion(route);
  if (performance.now() - begun > patience.readMs) throw routeChanged(stage, 'this worker was held up');
  const { epoch, generation, greenReadPercent } = route;
  const opening: Opening = {
    ...{ work, ref, stage, environment, patience, notAfter, blue, route, inForce: { migration, epoch, generation } },
    // An opening that was broken off, by a worker that died, may have moved the reads already.
    mayHaveMoved: greenReadPercent === stage.percent,
    follow: followerReader(blue, ref.plan, environment, work.signal),
  };
  try {
    await refuseFailed(opening, before);
    refuseLate(opening);
    const measured = await prepare(opening, greenReadPercent);
    await move(opening);
    return await confirm(opening, measured);
  } catch (error) {
    const hasMoved = opening.mayHaveMoved;
    // Whoever has ended this one takes the reads back, or opens the stage himself.
    if (work.signal.aborted) throw brokenOff(error, { hasMoved });
    if (error instanceof FailedBefore) throw error.told;
    const details: NotOpen = hasMoved ? await takeBack(opening) : { greenReadPercent, flagsOwed: null };
    throw error instanceof VerdigrisError ? error.withDetails(details) : error;
  }
}

/** A gate of the stage before has failed: the reads are where that has left them, and no business of the opening. */
class FailedBefore extends Error {
  constructor(readonly told: VerdigrisError) {
    super(told.message);
  }
}

/** Reads that have moved already were let by an opening that had looked: its stage is watched as soon as it is open. */
async function refuseFailed(
  { work, ref, stage, environment, blue, patience, mayHaveMoved }: Opening,
  before?: Stage,
): Promise<void> {
  const isThere = mayHaveMoved && before?.percent !== stage.percent;
  if (before === undefined || isThere) return;
  const evidence = await failedMeanwhile(work, ref, before, environment, patience);
  if (evidence === undefined) return;
  const route = await readRoute(blue, ref.plan.name);
  const told: NotOpen = { greenReadPercent: route?.greenReadPercent ?? 0, flagsOwed: null, gateFailed: true };
  throw new FailedBefore(refusedByGates(`stage ${stage.percent} %`, before, evidence, true).withDetails(told));
}

interface Measured {
  readonly green: Session | undefined;
  readonly volumeBefore: VolumeBefore | undefined;
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
  const { work, ref, stage, environment, blue, notAfter } = opening;
  const blueNow = notAfter === undefined ? undefined : await serverClock(blue);
  refuseLate(opening);
  work.signal.throwIfAborted();
  const limit = notAfter === undefined || blueNow === undefined ? null : blueNow() + notAfter.at - performance.now();
  const { mayHaveMoved } = opening;
  opening.mayHaveMoved = true;
  const generation = await setGreenReads(blue, opening.inForce, stage.percent, limit);
  opening.mayHaveMoved = mayHaveMoved || generation !== undefined;
  if (generation === undefined) refuseLate(opening);
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
    ...(volumeBefore === undefined ? {} : { volumeBefore: volumeBefore.perSecond }),
    ...(volumeBefore?.atMs === undefined ? {} : { volumeBeforeAtMs: volumeBefore.atMs }),
    ...(prometheusBefore === undefined ? {} : { prometheusBefore }),
  };
  await inTransaction(blue, async () => {
    if (!(await isInForce(blue, inForce))) throw routeChanged(stage, 'somebody else has changed it meanwhile');
    await writeProgress(blue, stageKey(work, stage), baseline, true);
  });
  return { routers: live.length };
}

/** Where the route is still this opening's, the reads go back to blue: all of them, as nobody has judged the stage. */
async function takeBack({ work, ref, environment, inForce, route }: Opening): Promise<NotOpen> {
  // Of its own: what has failed may have been the session.
  const blue = await work.session('blue', 'reads to blue');
  const generation = await setGreenReads(blue, inForce, 0);
  if (generation === undefined) {
    return { greenReadPercent: (await readRoute(blue, inForce.migration))?.greenReadPercent ?? 0, flagsOwed: null };
  }
  const unconfirmed = await weightsFollowRouteOrWarn(ref, environment, () => Promise.resolve(blue));
  const inForceNow = { ...route, generation, greenReadPercent: 0 };
  const flagsOwed = await flagsFollowOrTell(ref, inForceNow);
  const warnings = await haproxiesStartedAnew(ref, environment, blue);
  const back: NotOpen = { greenReadPercent: 0, flagsOwed };
  if (unconfirmed.length === 0 && warnings.length === 0) return back;
  return { ...back, readsOwed: { route: inForceNow, unconfirmed, ...(warnings.length === 0 ? {} : { warnings }) } };
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

/** The approval of now may not be one later, and its window may have closed. */
function refuseLate({ stage, notAfter }: Opening): void {
  if (notAfter === undefined || performance.now() <= notAfter.at) return;
  throw new VerdigrisError({
    type: 'GateFailed',
    message: `stage ${stage.percent} %: it could not be opened before ${notAfter.told}, when its window or its approval ended`,
    nextStep: 'nothing: the stage waits for the next window, and is asked for again',
    retryable: true,
  });
}

/** What it has found that nobody can try again is news all the same. */
function brokenOff(error: unknown, told: BrokenOff): unknown {
  if (error instanceof VerdigrisError && !error.retryable) return error;
  return new CancelledFailure('the opening was broken off', [told]);
}

function notConfirmed({ percent }: Stage, behind: readonly string[], what: string): VerdigrisError {
  return new VerdigrisError({
    type: 'GateFailed',
    message: `stage ${percent} %: these instances ${what}: ${behind.slice(0, 10).join(', ')}`,
    nextStep: 'see whether they reach blue; an instance that has ended is forgotten after a few seconds',
    retryable: true,
  });
}
