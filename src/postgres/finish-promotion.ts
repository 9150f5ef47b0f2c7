import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import { otherSide, type Side } from '../side.js';
import { dropSlots, dropSubscriptions, findSlots, findSubscriptions } from './feed-objects.js';
import { directionTo, feedName } from './feed.js';
import { disarmFence } from './fence.js';
import type { LockRetryOptions } from './retry.js';
import { asActor } from './ownership.js';
import { hasState, readRoute, ROUTE_IS_STILL, type Route } from './state.js';
import { waitUntilInactive } from './replication-slot.js';
import {
  SHORT_STATEMENTS,
  withSession,
  type Database,
  type Databases,
  type Session,
  type SessionOptions,
} from './session.js';
import { streamsOfRun } from './streams.js';
import { disableSubscriptions, enableSubscriptionWhere } from './subscription.js';
import { openingLost } from './where-writes-are.js';

/**
 * After the decision: the old feed ends, and only then the reverse one begins. Never both: a loop would bring the new
 * side's updates back to it as old values. Looks before it acts, so it can be run again after a crash at any point.
 *
 * @returns which tables of the new side are still armed, and who is in the way: the feeds are as they should be all the
 * same. Null when none is, and where the fence was to be kept
 * @throws VerdigrisError ReplicationBroken (retryable) while a worker of the old feed still runs; LockNotHad (retryable);
 * NotOpened (retryable) where the new side has been replaced by one that lacks its opening; StaleEpoch
 */
export async function finishPromotion(
  databases: Databases,
  migration: string,
  from: Side,
  options: {
    readonly feedBack: boolean;
    /** The new side is about to give the writes away: its fence stays as it is. Default false. */
    readonly keepFence?: boolean;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<string | null> {
  const to = otherSide(from);
  const oldFeed = feedName(migration, directionTo(to));
  await sleep(WRITERS_FIRST_MS, undefined, { signal: options.signal });
  const limits = { ...SHORT_STATEMENTS, ...(options.signal === undefined ? {} : { cutOn: options.signal }) };
  const patience = { forMs: LOCKS_WITHIN_MS, signal: options.signal };
  // What has the names of this feed may be another one's by the time at which a frozen worker wakes up: whoever moves the
  // writes, undoes the run, or claims its databases takes these locks first, and ends the sessions by that.
  const asOne = { limits, signal: options.signal };
  const onNewSide = async (newSide: Session): Promise<Route> => {
    const found = await readRoute(newSide, migration);
    if (found?.writesOn !== to) throw await notServing(databases, found, from, migration, limits);
    // An old side that is away must not bring anything when it comes back. Again in endFeed(), where the answer counts.
    await stopSubscriptions(newSide, oldFeed, patience);
    const onOldSide = async (oldSide: Session): Promise<void> => {
      await endFeed(newSide, oldSide, oldFeed, to, patience);
      // Whoever waited for this has gone on, and may have moved the writes back.
      options.signal?.throwIfAborted();
      if (options.feedBack) await beginFeedBack(oldSide, from, found, patience);
    };
    await asActor(databases[from], PURPOSE, onOldSide, asOne);
    return found;
  };
  const route = await asActor(databases[to], PURPOSE, onNewSide, asOne);
  if (options.keepFence === true) return null;
  return withSession(databases[to], { purpose: PURPOSE, ...limits }, (newSide) =>
    disarmFence(
      newSide,
      { migration, epoch: route.epoch, writesOn: to },
      { ...patience, restAfterMs: DISARMED_WITHIN_MS },
    ),
  );
}

const PURPOSE = 'finish promotion';

/**
 * Switches the fence of the side off that takes writes, where finishPromotion() could not. Nothing is left to be done when
 * the writes have been moved since.
 *
 * @param forMs how long to go on trying, ms
 * @returns which of its tables are still armed, and who is in the way; null when none is
 */
export async function switchFenceOff(
  database: Database,
  migration: string,
  { forMs, signal }: { readonly forMs: number; readonly signal: AbortSignal },
): Promise<string | null> {
  const { side } = database;
  return withSession(database, { purpose: 'switch fence off', ...SHORT_STATEMENTS, cutOn: signal }, async (session) => {
    const route = await readRoute(session, migration);
    if (route?.writesOn !== side) return null;
    return disarmFence(session, { migration, epoch: route.epoch, writesOn: side }, { forMs, signal });
  });
}

/** The writers that have waited catch up first: for as long they have the processors of both servers to themselves. */
const WRITERS_FIRST_MS = 150;

/** Of the same minute: the rest is left to switchFenceOff(). Writers pay a little for each fence that is on. */
const DISARMED_WITHIN_MS = 20_000;

/** Of the minute that the run waits for the finish: who is in the way is told within it, and it is tried again. */
const LOCKS_WITHIN_MS = 10_000;

/**
 * A worker that was frozen since an earlier promotion must not begin it in a later one, whose feed still runs the other
 * way. So it is begun by who holds the actor's lock, as does who promotes, and only in the epoch of this promotion: the
 * old side's row stays so until it is begun.
 */
async function beginFeedBack(
  actor: Session,
  oldSide: Side,
  { migration, writesOn, epoch }: Route,
  patience: LockRetryOptions,
): Promise<void> {
  for (const name of await streamsOfRun(actor, feedName(migration, directionTo(oldSide)))) {
    const isSo = { text: ROUTE_IS_STILL, values: [migration, writesOn, epoch] };
    if (!(await enableSubscriptionWhere(actor, name, isSo, patience))) throw movedSince(oldSide, epoch);
  }
}

/** All streams of the old feed have stopped, on both servers, before the first of them is dropped. */
async function endFeed(
  newSide: Session,
  oldSide: Session,
  feed: string,
  to: Side,
  patience: LockRetryOptions,
): Promise<void> {
  const stopped = await stopSubscriptions(newSide, feed, patience);
  const slots = await findSlots(oldSide, feed);
  const idle = await Promise.all(slots.map((name) => waitUntilInactive(oldSide, name, 30_000)));
  if (!stopped || idle.includes(false)) throw stillRunning(feed, to);
  await dropSubscriptions(newSide, feed, patience);
  await dropSlots(oldSide, feed);
}

/** @returns whether all have stopped */
async function stopSubscriptions(newSide: Session, feed: string, patience: LockRetryOptions): Promise<boolean> {
  return disableSubscriptions(newSide, await findSubscriptions(newSide, feed), patience);
}

/** The new side's own row does not give it the writes: they were moved on, or it has lost the row that did. */
async function notServing(
  databases: Databases,
  found: Route | undefined,
  from: Side,
  migration: string,
  limits: Omit<SessionOptions, 'purpose'>,
): Promise<VerdigrisError> {
  const to = otherSide(from);
  const decided = await withSession(databases[from], { purpose: PURPOSE, ...limits }, async (oldSide) =>
    (await hasState(oldSide)) ? readRoute(oldSide, migration) : undefined,
  );
  const lost = decided?.writesOn === to ? openingLost(databases, to, found, decided.epoch) : undefined;
  return lost ?? notPromoted(to);
}

function notPromoted(side: Side): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `writes are not on ${side}: there is no promotion to be finished`,
    nextStep: 'nothing: whoever moved the route goes on',
  });
}

function movedSince(oldSide: Side, epoch: number): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `${oldSide}: its route is not the one of epoch ${epoch} any more, so the feed to it is not begun for that`,
    nextStep: 'nothing: writes have been moved since, and whoever moved them goes on',
  });
}

function stillRunning(feed: string, side: Side): VerdigrisError {
  return new VerdigrisError({
    type: 'ReplicationBroken',
    message: `${side}: a worker of the feed ${feed} has not stopped, so the reverse feed must not begin`,
    nextStep: 'it is tried again; see what the worker waits for in pg_stat_activity',
    retryable: true,
  });
}
