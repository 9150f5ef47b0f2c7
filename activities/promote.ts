import { ApplicationFailure, Context } from '@temporalio/activity';
import { parseDuration } from '../src/plan/duration.js';
import type { TableName } from '../src/plan/table-name.js';
import type { TableInfo } from '../src/postgres/catalog.js';
import { tableFilter } from '../src/postgres/catalog-pattern.js';
import { readFencedTables } from '../src/postgres/fenced-tables.js';
import { lookAtSchema, readNewTables, rememberClosedGreen } from '../src/postgres/ddl/schema-watch.js';
import { feedName } from '../src/postgres/feed.js';
import { dropSlots } from '../src/postgres/feed-objects.js';
import type { Run } from '../src/postgres/ownership.js';
import { beginTries, endTries, type Tries } from '../src/postgres/ended-tries.js';
import { finishPromotion } from '../src/postgres/finish-promotion.js';
import { feedGoesOn, noteForced, wasForced } from '../src/postgres/forced-way-back.js';
import { refuseFullIdentity } from '../src/postgres/full-identity.js';
import { promotionBlocked } from '../src/postgres/hold.js';
import { describeMissingRights, inTheWay, missingRights } from '../src/postgres/missing-rights.js';
import { preparePromotion, refuseChangedSchema, withdrawOpening } from '../src/postgres/prepare-promotion.js';
import type { ClientPool } from '../src/pgbouncer/client-pools.js';
import { poolsOf, type Heard } from '../src/pgbouncer/from-plan.js';
import { PoolerAwaited, PoolerTaken, releaseAll, type Pools } from '../src/postgres/pools.js';
import { notOpened, promote as moveWrites, refuseLate } from '../src/postgres/promote.js';
import { askDecision, readDecision, readDecisionAsActor, type Decision } from '../src/postgres/promotion-decision.js';
import { keptSessions, openActors } from '../src/postgres/promotion-sessions.js';
import { describeLoss } from '../src/postgres/standby-loss.js';
import { whyFeedIsDead } from '../src/postgres/standby.js';
import {
  comparedPartitions,
  firstPartitions,
  maybeEmptied,
  readPartitionFiles,
  rememberedFiles,
  rememberFiles,
} from '../src/postgres/partition-files.js';
import { SHORT_STATEMENTS, type Session } from '../src/postgres/session.js';
import { LOCK_NOT_AVAILABLE, SCHEMA_IN_CHANGE, sqlState } from '../src/postgres/sqlstate.js';
import { whoLocksReadersOut } from '../src/postgres/locks.js';
import { retryOnLock } from '../src/postgres/retry.js';
import { readRoute, recordMove } from '../src/postgres/state.js';
import { refuseUnmovedContents, unmovedOnGreen } from '../src/postgres/unmoved-contents.js';
import { readLastPass, type Since } from '../src/postgres/verify/last-pass.js';
import { whereWritesAre, type WritesAt } from '../src/postgres/where-writes-are.js';
import { writesOfGreen, type WritesOfGreen } from '../src/postgres/writes-of-green.js';
import { VerdigrisError } from '../src/errors.js';
import { NEXT_STEP, reasonOf } from '../src/failure-text.js';
import { otherSide, type Side } from '../src/side.js';
import { within } from '../src/timing.js';
import type { Environment } from '../src/worker/connections.js';
import type { Redact } from '../src/worker/redact.js';
import { isHelpedByLoss } from '../workflows/lib/loss.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import {
  failureOf,
  perform,
  tellThatItWaits,
  watching,
  type ActivityDependencies,
  type StagePatience,
  type Work,
} from './context.js';
import { flagsFollowRouteOrTell, type FlagsOwed } from './flags.js';
import { refuseCutOff, refuseOtherFollowers, refuseUndeployed } from './instances.js';
import { readsGoFirst, weightsFollowRouteOrWarn } from './haproxy.js';
import { movedTables, publishedBackward } from './run-tables.js';
import { STAGE_PATIENCE } from './stage-opening.js';
import { failedMeanwhile, refusedByGates } from './stage-watch.js';
import { clockOfActivity, onThisMachine } from './temporal-clock.js';

export interface PromotionResult {
  /** How long writes waited; null when that is not known: an earlier attempt had decided, and its worker died. */
  readonly holdMs: number | null;
  readonly attempts: number;
  readonly epoch: number;
  readonly at: string;
  /** What stayed behind on green, in words: only where a loss was accepted. */
  readonly lost: string | null;
  /** What green, which is closed now, holds that is not replicated to blue; undefined where that is not known, and to green. */
  readonly unmoved?: readonly string[];
  /** Clients of poolers that may be refused after the move, as seen before it. */
  readonly mayBeRefused?: readonly string[];
  /** Clients of poolers that got no connection to the new side. */
  readonly unserved?: readonly string[];
  /** The same, to be looked at again. */
  readonly unservedPools?: readonly ClientPool[];
}

/** Activities of phase 6 and of the way back: see src/postgres/promote.ts for the order and why it is so. */
export function promoteActivities(dependencies: ActivityDependencies) {
  const patience = { ...STAGE_PATIENCE, ...dependencies.patience };
  return {
    /**
     * Moves writes from `from` to the other side. Begun again after a crash, it first asks what has been decided.
     *
     * @param epoch the one in which it is asked for
     * @param acceptLoss only from green, and only when a person has said so: what blue does not have stays behind
     * @param notAfter ISO 8601: what has not been decided is not begun later than that. Default: no limit
     * @throws ApplicationFailure ConnectionFailed, PromotionBlocked (both retryable) while a pooler is away, or in another
     * promotion, and `notAfter` has not come; PromotionBlocked when `attempts` tries did not go through, or it is too late;
     * GateFailed when a gate of the last stage has failed meanwhile. Nothing has happened then. NotOpened (retryable) when it
     * has been decided: nobody takes writes until the new side is open. PoolNotReleased, for good only when it
     * is too late: clients of a pooler may wait (withdrawPromotion). PartitionEmptied and ServerReplaced when rows
     * are to be compared again first.
     */
    promote: (
      ref: RunRef,
      from: Side,
      epoch: number,
      acceptLoss = false,
      notAfter?: string,
    ): Promise<PromotionResult> =>
      perform(
        dependencies,
        ref,
        (work) =>
          withClientsTold(work, from, (heard) =>
            withPools(
              dependencies,
              ref,
              work,
              (pools) =>
                promote(work, ref, pools, {
                  from,
                  epoch,
                  acceptLoss,
                  notAfter,
                  patience,
                  environment: dependencies.environment,
                  redact: dependencies.redact,
                }).catch(async (error: unknown) => {
                  throw await awaited(error, work.signal, dependencies.redact, notAfter);
                }),
              heard,
            ),
          ),
        (error) => waitsUntil(error, notAfter),
      ),

    /**
     * Ends the feed to the side that takes writes now and begins the one back. A fence that can't be switched off there, since
     * somebody locks a table, is left to `switchFenceOff`, or to `removeFence` on the way back.
     *
     * @param goesBack writes are about to leave that side again: its fence is kept. Default: false
     * @returns what flagd's file does not say yet; null when nothing is missing
     */
    finishPromotion: (ref: RunRef, from: Side, goesBack = false): Promise<FlagsOwed | null> =>
      perform(dependencies, ref, async (work) => {
        const { databases, signal } = work;
        await weightsFollowRouteOrWarn(ref, dependencies.environment, () =>
          work.session(otherSide(from), 'weights', SHORT_STATEMENTS),
        );
        // A pooler that was out of reach at the promotion still has its clients wait, or leads to the old side: neither of
        // these waits for what is in the way of the other one.
        const after = { feedBack: from === 'blue', keepFence: goesBack, signal };
        const [released, finished] = await Promise.allSettled([
          withPools(dependencies, ref, work, (pools) => releaseAll(pools, signal)),
          finishPromotion(databases, ref.plan.name, from, after),
        ]);
        if (released.status === 'rejected') throw released.reason;
        if (finished.status === 'rejected') throw finished.reason;
        if (finished.value !== null) work.report({ stillArmed: finished.value });
        return flagsFollowRouteOrTell(ref, () => work.session(otherSide(from), 'flags', SHORT_STATEMENTS));
      }),

    /**
     * Where writes are, by the databases alone.
     *
     * @param known the epoch that the run has seen: a blue that knows less has been restored. Default: 0
     * @throws ApplicationFailure WritesUncertain when the two sides, or the run, contradict each other
     */
    whereWritesAre: (ref: RunRef, known = 0): Promise<WritesAt> =>
      perform(dependencies, ref, ({ databases, run }) => whereWritesAre(databases, run, known)),

    /**
     * Looks, before writes go back, for partitions of green that may have been emptied since rows were compared: TRUNCATE of
     * one is not replicated. What comes later stops the move of the writes.
     *
     * @returns the first of them
     */
    maybeEmptied: (ref: RunRef): Promise<readonly string[]> =>
      perform(dependencies, ref, async ({ session, run }) => {
        const green = await session('green', 'emptied partitions', SHORT_STATEMENTS);
        const { partitions, files } = await maybeEmptied(green, run.runId, tableFilter(ref.plan.tables));
        await rememberFiles(green, run.runId, 'looked at', files);
        return firstPartitions(partitions);
      }),

    /** What green holds that is not replicated to blue, asked before writes go back, in words; empty when it is nothing. */
    unmovedOnGreen: (ref: RunRef): Promise<readonly string[]> =>
      perform(dependencies, ref, async ({ session }) =>
        contentsOf(await session('green', 'unmoved contents', SHORT_STATEMENTS), ref),
      ),

    /** Whether green still has the writes that it has got in this epoch: asked before a way back is given up. */
    writesOfGreen: (ref: RunRef, epoch: number): Promise<WritesOfGreen> =>
      perform(dependencies, ref, ({ databases, run }) => writesOfGreen(databases, run.migration, epoch)),

    /**
     * Ends the tries of a promotion that has not been decided.
     *
     * @param goesOn the run does, and is to promote later: what a try has left on green keeps no WAL until then. Default:
     * false, as in a rollback, which removes it with everything else
     * @returns which poolers could not be released for a minute, and why; null when all are
     * @throws ApplicationFailure WritesOnGreen where a try of a worker that Temporal has not heard of has decided meanwhile;
     * not where the run goes on: its next promotion finishes that
     */
    withdrawPromotion: (ref: RunRef, goesOn = false): Promise<string | null> =>
      perform(dependencies, ref, async (work) => {
        const sinceAsked = clockOfActivity();
        const blue = await work.session('blue', 'withdraw promotion', SHORT_STATEMENTS);
        const route = await readRoute(blue, ref.plan.name);
        if (route === undefined) return null;
        await endTries(blue, await beginTries(blue, work.run));
        if (!goesOn) await refuseDecided(work);
        await withdrawOpening(blue, ref.plan.name, 'blue', route.epoch);
        let left: string | null = null;
        try {
          await withPools(dependencies, ref, work, (pools) => releaseAll(pools, work.signal));
        } catch (error) {
          // Nothing else that is to be undone needs a pooler.
          if (!isOfPoolers(error) || work.signal.aborted || sinceAsked() < POOLERS_WITHIN_MS) throw error;
          left = error.message.replace(NEXT_STEP, '; ');
        }
        if (goesOn) await dropSlotsOfGivenUp(work, 'blue').catch(() => undefined);
        return left;
      }),
  };
}

/**
 * The gates are not watched while a promotion is tried: what its worker lacks is waited for no longer than a server that is
 * away. Whether an earlier try has decided is asked by whoever hears of it.
 */
async function waitsUntil(error: VerdigrisError, notAfter: string | undefined): Promise<VerdigrisError> {
  if (notAfter === undefined) return error.tryingAgain();
  const { told, at } = await onThisMachine(notAfter);
  if (performance.now() <= at) return error.tryingAgain();
  return promotionBlocked(`it could not begin before ${told}: ${error.what}; ${error.nextStep}`);
}

/** A pooler that is away is asked again after so long, ms: a restart takes a second or two. */
const POOLER_AGAIN_MS = 1_000;
/** And one that another promotion is at, ms: between these, so that two that have met there do not meet again. */
const TURN_AGAIN_MS = [200, 1_000] as const;

/**
 * A pooler that is away, or that another promotion is at, before anybody waits is waited for until it is too late, and the
 * status says so. Each look judges the gates and the route anew.
 */
export async function awaited(
  error: unknown,
  signal: AbortSignal,
  redact: Redact,
  notAfter: string | undefined,
): Promise<unknown> {
  if (notAfter === undefined || !(error instanceof PoolerAwaited)) return releasedUntil(error, notAfter);
  const { told, at } = await onThisMachine(notAfter);
  const why = error.cause instanceof VerdigrisError ? error.cause : error;
  const [from, to] = TURN_AGAIN_MS;
  const restMs = error instanceof PoolerTaken ? Math.round(from + Math.random() * (to - from)) : POOLER_AGAIN_MS;
  // The last one to know what is in the way says it.
  if (performance.now() + restMs > at) return promotionBlocked(`it could not begin before ${told}: ${why.what}`);
  if (signal.aborted) return why.tryingAgain();
  const message = redact(why.message);
  tellThatItWaits('a pooler', message);
  return ApplicationFailure.create({ type: why.type, message, nonRetryable: false, nextRetryDelay: restMs });
}

/**
 * Nor are they while a pooler is out of reach whose clients may wait: it is tried again no longer than the promotion is,
 * and then left to the run, which goes on with it while it watches the gates.
 */
export async function releasedUntil(error: unknown, notAfter: string | undefined): Promise<unknown> {
  if (notAfter === undefined || !(error instanceof VerdigrisError) || error.type !== 'PoolNotReleased') return error;
  const { at } = await onThisMachine(notAfter);
  return performance.now() <= at ? error : error.asLastWord();
}

/** Behind the lock of blue's actor: a try that had begun is over then, and what it has decided shows. */
async function refuseDecided({ databases, run, signal }: Work): Promise<void> {
  const { decided, epoch } = await askDecision(databases.blue, run.migration, { signal });
  if (!decided) return;
  throw new VerdigrisError({
    type: 'WritesOnGreen',
    message: `green has been given the writes meanwhile (epoch ${epoch}), by a worker that Temporal has not heard of`,
    nextStep: 'nothing: the way back begins anew, and finishes what was decided first',
  });
}

/** How long a pooler that is out of reach keeps the next compensation from being begun. */
const POOLERS_WITHIN_MS = 60_000;

/** One that is out of reach, or that this worker does not know. */
function isOfPoolers(error: unknown): error is VerdigrisError {
  return error instanceof VerdigrisError && (error.type === 'PoolNotReleased' || error.type === 'ConnectionUnknown');
}

/** How long the side that has given the writes away may take to write that down. */
const OLD_SIDE_MS = 2_000;

/** Blue serves by then, and whoever is to be led there hears of it after the look; a green that is lost now says nothing, ms. */
const LAST_LOOK_MS = 3_000;
/** How long tables of green alone are looked through, ms: the way back is decided by the answer. */
const LOOKED_THROUGH_MS = 5_000;

interface Asked {
  readonly from: Side;
  readonly epoch: number;
  readonly acceptLoss: boolean;
  readonly notAfter: string | undefined;
  readonly environment: Environment;
  readonly redact: Redact;
  readonly patience: StagePatience;
}

async function promote(
  work: Work,
  ref: RunRef,
  pools: Pools,
  { from, epoch, acceptLoss, notAfter, environment, redact, patience }: Asked,
): Promise<PromotionResult> {
  const { databases, run, signal } = work;
  const session = await work.session(from, 'promote', SHORT_STATEMENTS);
  let tries: Tries | undefined;
  try {
    if (from === 'blue') tries = await beginTries(session, run);
    const { decided, epoch: now } = await decidedByEarlierAttempt(work, session, from);
    // A worker that was killed in its hold has left them paused.
    if (!decided) await releaseAll(pools, signal);
    // Tried again for as long as a server was away, it must not move writes hours after it was asked to.
    const begins = decided || notAfter === undefined ? {} : { notAfter: await onThisMachine(notAfter) };
    if (!decided && from === 'blue') await refuseFailed(work, ref, environment, patience);
    refuseLate(begins);
    const isMoved = tableFilter(ref.plan.tables);
    const relied = decided ? undefined : await rememberedFiles(session, run.runId, reliedOn(from));
    const partitions = await comparedPartitions(session, from, relied, isMoved);
    const fenced = decided ? [] : await readFencedTables(session, ref.plan.tables);
    const known = decided ? [] : await prepare(work, ref, { from, epoch, acceptLoss, fenced });
    if (!decided) await pools.prepare(from, epoch);
    // Blue is close behind green: what it lacks would only be missed where a loss was accepted.
    if (!decided && from === 'green' && !acceptLoss) await readsGoFirst(ref, environment, session, epoch);
    const { attempts: of, maxHold, sequenceGap } = ref.plan.promote;
    const promoted = await moveWrites(
      {
        ...{ databases, migration: run.migration, from, epoch, tries, fenced, knownTables: known, sequenceGap, signal },
        ...begins,
        patterns: ref.plan.tables,
        comparedPartitions: partitions,
        ...(decided || from === 'green' ? {} : { comparedOn: await comparedServers(work) }),
        ...(from === 'blue' ? { lastLook: () => refuseDdl(work, ref, session) } : {}),
        maxHoldMs: parseDuration(maxHold),
        feedBack: from === 'blue',
        acceptLoss,
        pools,
      },
      { attempts: of, onBlocked: (attempt, blocked) => work.report({ attempt, of, blocked }) },
    ).catch((error: unknown) => {
      throw decided ? notOpened(now, error) : error;
    });
    const { steps, holdMs, attempts, unreleased } = promoted;
    if (unreleased.length > 0) work.report({ attempt: attempts, notReleased: unreleased.map(({ pooler }) => pooler) });
    const result = {
      ...{ holdMs, attempts, epoch: promoted.epoch, at: new Date().toISOString() },
      lost: from === 'green' ? await whatWasLost(session, run, promoted.epoch) : null,
    };
    const moved = { ...result, steps };
    await recordMove(await work.session(otherSide(from), 'event', SHORT_STATEMENTS), run.runId, from, moved);
    // Of a rollback green's record alone is left: blue's goes with its schema. Nothing waits for a side that is away by now.
    await within(recordMove(session, run.runId, from, moved), OLD_SIDE_MS, undefined).catch(() => undefined);
    // What came after the run had looked.
    const unmoved = from === 'green' ? await lastLook(work, ref) : undefined;
    return { ...result, ...(unmoved === undefined ? {} : { unmoved }) };
  } catch (error) {
    // An earlier attempt that Temporal has not heard of may be between two tries: nobody waits for it any more.
    if (tries !== undefined && isLastWord(error, signal, redact)) await endTries(session, tries).catch(() => undefined);
    // Whatever ended it: unless it has been decided, nobody is about to open anything any more.
    await withdrawOpening(session, run.migration, from, epoch).catch(() => undefined);
    let isUndecided = false;
    try {
      isUndecided = await releaseUndecided(work, pools, from);
    } finally {
      if (from === 'green') {
        // What is still owed then, the next try does.
        if (acceptLoss && !signal.aborted) await feedGoesOn(databases, run, session, signal).catch(() => undefined);
        await weightsFollowRouteOrWarn(ref, environment, () => work.session('green', 'weights', SHORT_STATEMENTS));
      }
    }
    if (from === 'green' && !acceptLoss) throw await withLossNamed(error, session, run);
    throw acceptLoss && isUndecided ? asLastWord(error, signal, redact) : error;
  }
}

/**
 * What an earlier attempt has decided. Where its try is announced still, its worker may have been killed in it: then
 * whoever acts is ended, so that writers need not wait for the answer.
 */
async function decidedByEarlierAttempt(
  { databases, run, signal }: Work,
  session: Session,
  from: Side,
): Promise<Decision> {
  const route = await readRoute(session, run.migration);
  if (route === undefined || route.opening === null) return readDecision(session, run.migration, from);
  return askDecision(databases[from], run.migration, { signal });
}

/**
 * What a try with a loss has met, which would not be begun again (refuseAgain): so it is for the run to tell, in its own
 * words. Only where nothing has been decided: what has is gone on with.
 */
function asLastWord(error: unknown, signal: AbortSignal, redact: Redact): unknown {
  const failure = failureOf(error, signal, redact);
  if (!(failure instanceof ApplicationFailure) || isLastWord(failure, signal, redact)) return error;
  return ApplicationFailure.nonRetryable(failure.message, failure.type, ...(failure.details ?? []));
}

/** Whether Temporal begins the activity no more after it. */
function isLastWord(error: unknown, signal: AbortSignal, redact: Redact): boolean {
  const failure = failureOf(error, signal, redact);
  return failure instanceof ApplicationFailure && failure.nonRetryable === true;
}

/** Where a loss may be accepted for it, it says how much that would be now: no more than that is accepted. */
async function withLossNamed(error: unknown, green: Session, { runId, migration }: Run): Promise<unknown> {
  if (!(error instanceof VerdigrisError) || error.type !== 'PromotionBlocked') return error;
  if (!isHelpedByLoss(error.type, error.message)) return error;
  const loses = await describeLoss(green, runId, feedName(migration, 'to_blue')).catch(() => null);
  if (loses === null) return error;
  const message = `${error.what.replace(/\.$/, '')}; forced now, a rollback would lose ${loses}`;
  return new VerdigrisError({ type: error.type, message, nextStep: error.nextStep, cause: error });
}

/**
 * Null where green had been closed by a try without a loss, whatever was accepted when blue was opened. Green is closed
 * now, so this is the last count.
 */
async function whatWasLost(green: Session, { runId, migration }: Run, epoch: number): Promise<string | null> {
  return (await wasForced(green, runId, epoch)) ? describeLoss(green, runId, feedName(migration, 'to_blue')) : null;
}

/**
 * Nobody waits for a promotion that is not tried any more. One that is decided goes on, and opens the new side first.
 *
 * @returns whether it is known that nothing has been decided
 */
async function releaseUndecided(work: Work, pools: Pools, from: Side): Promise<boolean> {
  try {
    const { decided } = await readDecision(
      await work.session(from, 'promotion given up', SHORT_STATEMENTS),
      work.run.migration,
      from,
    );
    if (decided) return false;
  } catch (error) {
    // Without an answer nobody knows. But a writer who holds the lock has not met a closed fence.
    if (sqlState(error) !== LOCK_NOT_AVAILABLE) return false;
  }
  await releaseAll(pools, work.signal);
  await dropSlotsOfGivenUp(work, from).catch(() => undefined);
  return true;
}

/** A slot that a try has left would keep green's WAL until the next one, which may wait for an approval for days. */
async function dropSlotsOfGivenUp({ databases, run, signal }: Work, from: Side): Promise<void> {
  if (from !== 'blue') return;
  const { keep, closeAll } = keptSessions();
  try {
    // A late attempt must not take away what another one of the same epoch is about to need: behind the locks of both actors
    // nobody decides any more, and no COMMIT is on its way. What was decided meanwhile needs its slots.
    const actors = await openActors(databases, 'blue', keep, signal);
    const { decided } = await readDecisionAsActor(actors.main, run.migration, 'blue');
    if (!decided) await dropSlots(actors.to, feedName(run.migration, 'to_blue'), 0);
  } finally {
    await closeAll();
  }
}

/** Adds what the poolers tell of their clients during the move. */
async function withClientsTold(
  { report }: Work,
  from: Side,
  move: (heard: Heard) => Promise<PromotionResult>,
): Promise<PromotionResult> {
  const mayBeRefused: string[] = [];
  const unserved: string[] = [];
  const unservedPools: ClientPool[] = [];
  const result = await move({
    mayBeRefused: (what) => {
      mayBeRefused.push(what);
      report({ mayBeRefused });
    },
    unserved: (what, side, pools) => {
      if (side === from) return;
      unserved.push(what);
      unservedPools.push(...pools);
    },
  });
  return {
    ...result,
    ...(mayBeRefused.length === 0 ? {} : { mayBeRefused }),
    ...(unserved.length === 0 ? {} : { unserved, unservedPools }),
  };
}

/** The poolers of the plan, for as long as the work lasts. */
async function withPools<T>(
  { environment }: ActivityDependencies,
  { plan }: RunRef,
  { databases }: Work,
  work: (pools: Pools) => Promise<T>,
  heard?: Heard,
): Promise<T> {
  const pools = poolsOf(plan, databases, environment, heard);
  try {
    return await work(pools);
  } finally {
    await pools.close();
  }
}

async function prepare(
  work: Work,
  ref: RunRef,
  {
    from,
    epoch,
    acceptLoss,
    fenced,
  }: Pick<Asked, 'from' | 'epoch' | 'acceptLoss'> & {
    readonly fenced: readonly TableName[];
  },
): Promise<number[]> {
  const { databases, run, signal } = work;
  // Before anything is made, and whether or not a stage has asked: an old version may have been deployed since.
  if (from === 'blue') {
    const blue = await work.session('blue', 'instances', SHORT_STATEMENTS);
    await refuseCutOff(blue, run.migration);
    await refuseOtherFollowers(blue, ref.plan);
    await refuseUndeployed(blue, ref.plan, {
      ...{ name: 'the promotion', type: 'PromotionBlocked', retryable: false },
      nextStep: 'deploy the application with the code that works with both schemas, then approve the promotion again',
    });
  }
  const onBlue = await work.session('blue', 'catalog', SHORT_STATEMENTS);
  const onGreen = await work.session('green', 'catalog', SHORT_STATEMENTS);
  const blue = await movedTables(onBlue, ref.plan);
  const green = await movedTables(onGreen, ref.plan);
  const published = publishedBackward(blue, green);
  if (from === 'blue') {
    await refuseDdl(work, ref, onBlue);
    await refuseUnmovedContents(onBlue, onGreen, { runId: run.runId, patterns: ref.plan.tables });
    await refuseMissingRights(onBlue, onGreen);
    refuseFullIdentity(published, green);
    await rememberFilesOfGreen(onGreen, ref);
    await rememberGreen(work, ref, blue);
  } else if (acceptLoss) {
    refuseAgain();
    await noteForced(onGreen, onBlue, run, epoch);
  } else {
    await feedGoesOn(databases, run, onGreen, signal);
    await refuseLostWayBack(work);
  }
  return preparePromotion({
    databases,
    migration: run.migration,
    from,
    fenced,
    patterns: ref.plan.tables,
    wayBack: from === 'blue' ? published : undefined,
    acceptLoss,
    onArmed: (armed, of) => work.report({ fence: from, armed, of }),
    signal,
  });
}

/** What green holds that is not replicated to blue, also in tables that nobody has been told of yet. */
async function contentsOf(green: Session, { plan, runId }: RunRef): Promise<string[]> {
  const untold = await readNewTables({ session: green, side: 'green', runId, patterns: plan.tables });
  return unmovedOnGreen(green, runId, { untold, withinMs: LOOKED_THROUGH_MS, rest: 'count' });
}

/** Undefined where green, which is closed now, does not say. A look that is cut off is at its statement still: its session is its own. */
function lastLook({ session }: Work, ref: RunRef): Promise<string[] | undefined> {
  const look = async (): Promise<string[]> => contentsOf(await session('green', 'last look', SHORT_STATEMENTS), ref);
  return within(look(), LAST_LOOK_MS, undefined).catch(() => undefined);
}

/** Until green is open, only the feed empties something there. A worker that was frozen wakes up with what it has read before. */
async function rememberFilesOfGreen(green: Session, { plan, runId }: RunRef): Promise<void> {
  const files = await readPartitionFiles(green, tableFilter(plan.tables));
  if ((await readRoute(green, plan.name))?.writesOn === 'green') return;
  await rememberFiles(green, runId, 'compared', files);
}

/** How long one statement may take that describes all tables, ms: thousands of them take some seconds. */
const DESCRIBED_WITHIN_MS = 60_000;
/** And how long somebody's DDL there is waited for, as for the way back: then people are told who it is. */
const GREEN_IS_LOCKED_MS = 15_000;

/** Until green is open nobody makes or fills there what the way back would have to bring to blue. */
async function rememberGreen(
  { session, run, signal }: Work,
  { plan }: RunRef,
  blue: readonly TableInfo[],
): Promise<void> {
  const green = await session('green', 'schema watch', watching(signal, DESCRIBED_WITHIN_MS));
  const watched = { session: green, side: 'green', runId: run.runId, patterns: plan.tables } as const;
  try {
    const remember = (): Promise<void> => rememberClosedGreen(watched, run.migration, blue);
    await retryOnLock(remember, { forMs: GREEN_IS_LOCKED_MS, signal, codes: SCHEMA_IN_CHANGE });
  } catch (error) {
    if (!SCHEMA_IN_CHANGE.has(sqlState(error) ?? '')) throw error;
    const who = await whoLocksReadersOut(green).catch(() => null);
    const what = `green: its tables can't be described: ${reasonOf(error)}`;
    throw promotionBlocked(who === null ? what : `${what}. ${who}`, error);
  }
}

/** Green's record of it goes back with green: an older comparison tells other servers as well. */
async function comparedServers({ run, session }: Work): Promise<Since | undefined> {
  const green = await session('green', 'compared', SHORT_STATEMENTS);
  return (await readLastPass(green, run.runId))?.began;
}

/** What a side must not have emptied since: the way back names what it has, and somebody accepts it. */
function reliedOn(from: Side): 'compared' | 'looked at' {
  return from === 'blue' ? 'compared' : 'looked at';
}

/**
 * A try with a loss whose worker has died, or that has lost a connection, is begun again by Temporal, maybe hours later:
 * by then it may lose nothing, or much more than was accepted. The run tries it without a loss first, and compares.
 */
function refuseAgain(): void {
  if (Context.current().info.attempt === 1) return;
  throw new VerdigrisError({
    type: 'PromotionBlocked',
    message: 'the try with the loss that was accepted was interrupted: what it would lose now is looked at first',
    nextStep:
      'nothing: the run tries it without a loss, and asks again where it would lose much more than was accepted',
  });
}

/** What led here (an approval, a window) may have come while no worker watched the last stage. */
async function refuseFailed(work: Work, ref: RunRef, environment: Environment, patience: StagePatience): Promise<void> {
  const last = ref.plan.traffic.stages.at(-1);
  if (last === undefined) return;
  const evidence = await failedMeanwhile(work, ref, last, environment, patience);
  if (evidence !== undefined) throw refusedByGates('the promotion', last, evidence, false);
}

/** Asked at first, and once more right before writers are asked to wait: minutes may lie between. */
async function refuseDdl({ run }: Work, { plan }: RunRef, blue: Session): Promise<void> {
  refuseChangedSchema(await lookAtSchema({ session: blue, side: 'blue', runId: run.runId, patterns: plan.tables }));
}

/** The application would meet "permission denied" with its first request on green, or fewer rows. */
async function refuseMissingRights(blue: Session, green: Session): Promise<void> {
  const missing = describeMissingRights(inTheWay(await missingRights(blue, green)));
  if (missing.length > 0) throw promotionBlocked(missing.join('; '));
}

/** Going back without the reverse feed loses what was written on green since it died: somebody must accept that. */
async function refuseLostWayBack({ session, run, signal }: Work): Promise<void> {
  const [green, blue] = [
    await session('green', 'way back', SHORT_STATEMENTS),
    await session('blue', 'way back', SHORT_STATEMENTS),
  ];
  const why = await whyFeedIsDead(green, () => Promise.resolve(blue), run, signal);
  if (why === undefined) return;
  const loses = await describeLoss(green, run.runId, feedName(run.migration, 'to_blue'));
  throw new VerdigrisError({
    type: 'RollbackUnsafe',
    message: `${why}; a rollback would lose ${loses}`,
    nextStep:
      'mend the feed, and the rollback goes on by itself; or accept the loss (rollback with "acceptLoss": true); or stay on green (retire)',
  });
}
