import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import { reasonOf } from '../failure-text.js';
import type { TableName } from '../plan/table-name.js';
import { otherSide, type Side } from '../side.js';
import { readCarriedSequences } from './carried-sequences.js';
import type { TablePatterns } from './catalog-pattern.js';
import { describeDifferences } from './ddl/compare-facts.js';
import type { SchemaChange } from './ddl/schema-watch.js';
import { dropSubscriptions, findSubscriptions } from './feed-objects.js';
import { directionTo, feedName } from './feed.js';
import { armFence } from './fence.js';
import { promotionBlocked } from './hold.js';
import { readKnownTables } from './known-tables.js';
import { isLockNotHad } from './lock-watch.js';
import { longWriters, whoLocksReadersOut } from './locks.js';
import { probePeer } from './peer-probe.js';
import { lookUpTables, type PublishedTable } from './publication.js';
import { majorVersion, type LockRetryOptions } from './retry.js';
import { withoutSecrets } from './scrub.js';
import { refuseWithheldSequences } from './sequence-rights.js';
import { SHORT_STATEMENTS, withSession, type Database, type Databases, type Session } from './session.js';
import { readRoute, readStreamCount, ROUTE_CHANNEL, ROUTE_IS_STILL } from './state.js';
import { dropUnused, ensurePublications, publishesOther, readStreams, streamNames, streamsOfRun } from './streams.js';
import {
  disableSubscriptionWhere,
  ensureSubscription,
  readSubscription,
  redirectSubscription,
  runAsOwnerWhereNeeded,
} from './subscription.js';

/** What is made before writers are asked to wait. */
export interface Preparation {
  readonly databases: Databases;
  readonly migration: string;
  /** The side that will give writes away. */
  readonly from: Side;
  /** Tables of `from` that get a fence. */
  readonly fenced: readonly TableName[];
  /** What the plan moves: a table among it that is not fenced is new. Default: every table that is there is known. */
  readonly patterns?: TablePatterns | undefined;
  /** What the reverse feed will publish on the new side; undefined when no way back is wanted. */
  readonly wayBack: readonly PublishedTable[] | undefined;
  /** What the other side does not have stays behind: its feed is not asked for everything, and ends in the tries. */
  readonly acceptLoss?: boolean | undefined;
  /** How long to go on trying for each lock of a subscription, or that the way back needs, ms. Default: LOCKS_WITHIN_MS. */
  readonly locksWithinMs?: number;
  /** Told how many tables are armed, after each one that was not. */
  readonly onArmed?: ((armed: number, of: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Proves the way back, arms the fence of the side that gives writes away, and records that a promotion is near.
 * Looks before it acts, so it can be run again.
 *
 * @returns the tables (oid) that are there now: a table that is new in the hold stops the promotion.
 * @throws VerdigrisError PromotionBlocked
 */
export async function preparePromotion(preparation: Preparation): Promise<number[]> {
  const { databases, migration, from, signal } = preparation;
  const to = otherSide(from);
  return withSession(databases[from], { purpose: 'prepare promotion', ...SHORT_STATEMENTS }, async (session) => {
    const route = await readRoute(session, migration);
    if (route?.writesOn !== from) throw promotionBlocked(`writes are not on ${from}`);
    const announced = performance.now();
    await announceOpening(session, migration, from, route.epoch);
    if (preparation.wayBack !== undefined) {
      await refuseWithheld(preparation, session);
      await proveWayBack(preparation, preparation.wayBack, route.epoch);
    }
    await refuseLongWriters(session, from);
    await withSession(databases[to], { purpose: 'prepare promotion', ...SHORT_STATEMENTS }, async (other) => {
      await refuseLongWriters(other, to);
      if (preparation.acceptLoss === true) return;
      const feed = feedName(migration, directionTo(to));
      for (const name of await streamsOfRun(other, feed)) await refuseUnfinishedSync(other, name, to);
    });
    const known = await readKnownTables(session, preparation);
    const guard = { migration, epoch: route.epoch, writesOn: from };
    await armFence(session, preparation.fenced, { signal, guard, onArmed: preparation.onArmed });
    if (await hasRouters(session, migration)) await sleep(left(announced), undefined, { signal });
    return known;
  });
}

/** Writes would come back with their sequences. A GRANT that the preflight has seen may be gone, and sequences are new. */
async function refuseWithheld({ databases, from, patterns }: Preparation, session: Session): Promise<void> {
  const options = { purpose: 'way back', ...SHORT_STATEMENTS };
  const carried = await withSession(databases[otherSide(from)], options, (there) =>
    readCarriedSequences(session, there, patterns),
  );
  await refuseWithheldSequences(
    session,
    from,
    carried.map(({ name }) => name),
  );
}

/**
 * Publications on the new side, disabled subscriptions on the old one, which is seen to reach the new one each time.
 * Their slots are made in the hold, not here.
 */
async function proveWayBack(preparation: Preparation, tables: readonly PublishedTable[], epoch: number): Promise<void> {
  const { databases, migration, from } = preparation;
  const to = otherSide(from);
  const direction = directionTo(from);
  const patience = patienceOf(preparation);
  const { streams, forward } = await withSession(
    databases[from],
    { purpose: 'way back', ...SHORT_STATEMENTS },
    async (session) => {
      const count = await readStreamCount(session);
      return { streams: count, forward: await readStreams(session, migration, directionTo(to), count) };
    },
  );
  const spec = { migration, direction, tables, streams, like: forward };
  const dropStale = async (old: Session): Promise<void> => {
    const feed = feedName(migration, direction);
    for (const name of await findSubscriptions(old, feed)) await keepDisabled(old, name, preparation, epoch);
    await refuseMoved(old, preparation, epoch);
    await dropSubscriptions(old, feed, patience);
  };
  const published: string[] = [];
  const publisherVersion = await unlessLockedOut(databases[to], async (session) => {
    // An earlier try has made it, and tables have changed on both sides since. The subscriptions go first: they are made
    // anew for as long as the publications are.
    if (await publishesOther(session, spec)) {
      await unlessLockedOut(databases[from], dropStale);
      await dropUnused(session, spec, patience);
    }
    await ensurePublications(session, spec, patience);
    for (const name of streamNames(migration, direction, streams)) {
      if ((await lookUpTables(session, name, patience)).length > 0) published.push(name);
    }
    return majorVersion(session);
  });
  const conninfo = databases[to].peerConninfo;
  try {
    await withSession(
      databases[from],
      { purpose: 'way back', statementTimeoutMs: REACH_WITHIN_MS, ...SHORT_STATEMENTS },
      async (session) => {
        // Subscriptions that an earlier approval has left prove nothing about today.
        await probePeer(session, conninfo, patience, published[0]);
        for (const name of streamNames(migration, direction, streams)) {
          const known = { name, conninfo, publisherVersion, tables: tables.map(({ table }) => table) };
          const options = { ...known, copyData: false, enabled: false };
          await ensureSubscription(session, options, patience);
          await keepDisabled(session, name, preparation, epoch);
          await redirectSubscription(session, name, conninfo, patience);
        }
        // Of those that an earlier approval has left.
        await runAsOwnerWhereNeeded(session, patience);
      },
    );
  } catch (error) {
    preparation.signal?.throwIfAborted();
    if (error instanceof VerdigrisError && error.type === 'PromotionBlocked') throw error;
    if (isLockNotHad(error)) throw await lockedOut(databases[from], error);
    throw promotionBlocked(
      `${from} can't subscribe to ${to}, so there would be no way back: ${withoutSecrets(error, [databases.blue, databases.green])}`,
      error,
    );
  }
}

/**
 * Somebody may have enabled one that an earlier try has left: it would begin in the hold, beside the feed there. A worker
 * that comes too late meets the feed that another one has begun, and leaves it on.
 *
 * @throws VerdigrisError PromotionBlocked
 */
async function keepDisabled(session: Session, name: string, preparation: Preparation, epoch: number): Promise<void> {
  const { from } = preparation;
  const isSo = { text: ROUTE_IS_STILL, values: stillRoute(preparation, epoch) };
  const options = { ...patienceOf(preparation), stopWithinMs: STOPS_WITHIN_MS };
  const is = await disableSubscriptionWhere(session, name, isSo, options);
  if (is === 'not so') throw hasMoved(from);
  if (is === 'still runs') throw promotionBlocked(`${from}: a worker of the subscription ${name} does not stop`);
}

/** @throws VerdigrisError PromotionBlocked where another worker has moved writes since this one has begun */
async function refuseMoved(session: Session, preparation: Preparation, epoch: number): Promise<void> {
  const { rowCount } = await session.query(ROUTE_IS_STILL, stillRoute(preparation, epoch));
  if (rowCount === 0) throw hasMoved(preparation.from);
}

function stillRoute({ migration, from }: Preparation, epoch: number): unknown[] {
  return [migration, from, epoch];
}

function hasMoved(from: Side): VerdigrisError {
  return promotionBlocked(`writes are not on ${from} any more`);
}

/** Then people are told who is in the way: as long as for the fence, ms. */
const LOCKS_WITHIN_MS = 15_000;

function patienceOf({ locksWithinMs = LOCKS_WITHIN_MS, signal }: Preparation): LockRetryOptions {
  return { forMs: locksWithinMs, signal };
}

/** Does what needs locks of a side. @throws VerdigrisError PromotionBlocked, with who is in the way, where one is not had */
async function unlessLockedOut<T>(database: Database, work: (session: Session) => Promise<T>): Promise<T> {
  try {
    return await withSession(database, { purpose: 'way back', ...SHORT_STATEMENTS }, work);
  } catch (error) {
    throw isLockNotHad(error) ? await lockedOut(database, error) : error;
  }
}

/**
 * CREATE SUBSCRIPTION looks at every table of its publication, so it waits behind whoever wants one of them alone, and who
 * is waited for by them is told, too.
 */
async function lockedOut(database: Database, lockNotHad: VerdigrisError): Promise<VerdigrisError> {
  const who = await withSession(database, { purpose: 'way back', ...SHORT_STATEMENTS }, whoLocksReadersOut);
  const what = `${database.side}: the way back can't be proven: ${reasonOf(lockNotHad)}`;
  return promotionBlocked(who === null ? what : `${what}. ${who}`, lockNotHad);
}

/** A worker of a subscription whose slot is not there yet ends by itself all the time, ms. */
const STOPS_WITHIN_MS = 10_000;

/** An address that swallows packets must not keep the promotion waiting for minutes. */
const REACH_WITHIN_MS = 10_000;

/** Age above which an open transaction that has written counts as being in the way, seconds. */
const LONG_WRITER_SECONDS = 5;

/** The lock waits for every transaction that has written, and a slot for every transaction with an xid. */
async function refuseLongWriters(session: Session, side: Side): Promise<void> {
  const who = await longWriters(session, { olderThanSeconds: LONG_WRITER_SECONDS, everywhere: false });
  if (who !== null) throw promotionBlocked(`${side}: ${who} would keep writers waiting`);
}

async function refuseUnfinishedSync(session: Session, subscription: string, side: Side): Promise<void> {
  const state = await readSubscription(session, subscription);
  if (state?.enabled === true && state.tablesNotReady === 0) return;
  throw promotionBlocked(
    state === undefined
      ? `${side} has no subscription ${subscription}`
      : `${side}: the feed ${subscription} is ${state.enabled ? `not through with ${state.tablesNotReady} tables` : 'disabled'}`,
  );
}

/** Routers open connections to the new side when they see this, and a crashed try is known to have been running. */
async function announceOpening(session: Session, migration: string, from: Side, epoch: number): Promise<void> {
  await session.query(
    `UPDATE verdigris.route SET opening = $3, generation = generation + 1, updated_at = clock_timestamp()
      WHERE migration = $1 AND writes_on = $2 AND epoch = $4 AND opening IS DISTINCT FROM $3`,
    [migration, from, otherSide(from), epoch],
  );
  await session.query(`SELECT pg_notify('${ROUTE_CHANNEL}', '')`);
}

/**
 * From the announcement on, routers open connections to the new side and have them read what they will need: a moment of
 * that costs nobody anything, while twenty connections that do it when writes move take a quarter of a second.
 */
const ROUTERS_NEED_MS = 1_000;

function left(announced: number): number {
  return Math.max(0, announced + ROUTERS_NEED_MS - performance.now());
}

/** Whether an application's router has told lately that it lives. */
async function hasRouters(session: Session, migration: string): Promise<boolean> {
  const { rowCount } = await session.query(
    `SELECT FROM verdigris.router WHERE migration = $1 AND seen_at > clock_timestamp() - interval '10 s' LIMIT 1`,
    [migration],
  );
  return rowCount === 1;
}

/**
 * Takes the announcement back: the promotion was given up for now. Only that of its own epoch: a late worker must not make a
 * later promotion, which may be about to decide, look like none.
 */
export async function withdrawOpening(session: Session, migration: string, from: Side, epoch: number): Promise<void> {
  await session.query(
    `UPDATE verdigris.route SET opening = NULL, generation = generation + 1, updated_at = clock_timestamp()
      WHERE migration = $1 AND writes_on = $2 AND epoch = $3 AND opening IS NOT NULL`,
    [migration, from, epoch],
  );
  await session.query(`SELECT pg_notify('${ROUTE_CHANNEL}', '')`);
}

/** @throws VerdigrisError PromotionBlocked with what DDL has changed on blue's tables since the run relies on them. */
export function refuseChangedSchema({ differences }: Pick<SchemaChange, 'differences'>): void {
  if (differences.length === 0) return;
  throw new VerdigrisError({
    type: 'PromotionBlocked',
    message: `blue's schema has changed: ${describeDifferences(differences).slice(0, 10).join('; ')}`,
    nextStep: 'undo that change on blue, or make it on green as well; resume the run, then approve the promotion again',
  });
}
