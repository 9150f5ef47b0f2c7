import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import { formatTableName } from '../plan/table-name.js';
import { otherSide } from '../side.js';
import { ALL_TABLES, tableFilter } from './catalog-pattern.js';
import { dropSlots, enabledSubscriptionsSql, findSubscriptions } from './feed-objects.js';
import { directionTo, feedName } from './feed.js';
import { TAKE_FENCE_LOCK, unarmedTablesSql } from './fence.js';
import { promotionBlocked, StandsInTheWay, type Hold } from './hold.js';
import { readCarriedSequences } from './carried-sequences.js';
import { literal, qualified } from './identifier.js';
import { isMoved, newTablesSql, type NewTable } from './known-tables.js';
import { whoBlocksApply, whoChanges, whoHasWritten, whoHoldsAdvisoryLock } from './locks.js';
import { markerArrived, writeMarker } from './marker.js';
import { ofMoved, partitionFilesSql, refuseEmptied, type PartitionFile } from './partition-files.js';
import type { Promotion, PromotionTry } from './promotion.js';
import { wayBack, type Sessions } from './promotion-sessions.js';
import { refuseWithheldSequences } from './sequence-rights.js';
import {
  beyondBounds,
  carriedPosition,
  gapAtItsRate,
  isSamePosition,
  leastGap,
  planReads,
  positionWithGap,
  readPositions,
  setPositions,
  type SequencePosition,
  type SequenceShape,
} from './sequences.js';
import { BEGIN_READ_COMMITTED, type Session } from './session.js';
import { LOCK_NOT_AVAILABLE, sqlState } from './sqlstate.js';
import { FENCE_LOCK } from './state.js';
import { readSubscription } from './subscription.js';
import { systemIdentifier } from './system-identifier.js';
import type { PlannedRead } from './uncalled-sequences.js';
import { byClients, describeChange, LOCKS_OF_CHANGES, unfencedChanges, type LockRow } from './unfenced-changes.js';

/* What is done while writers wait, in the order of promote.ts. Who stood in the way is asked when they go on. */

/** Where the sequences that both sides have stood before the hold, by qualified name. */
export interface SequencesBefore {
  readonly shapes: readonly SequenceShape[];
  readonly from: ReadonlyMap<string, SequencePosition>;
  /** The new side's, which have been moved on already. */
  readonly to: ReadonlyMap<string, SequencePosition>;
  /** How those that have given no value yet are read again on the session `aside`. */
  readonly planned: readonly PlannedRead[];
  /** performance.now() */
  readonly at: number;
}

/**
 * Moves all sequences of the new side beyond the old one's. In the hold only those are moved again that have gone on
 * since: a database may have thousands.
 *
 * @throws VerdigrisError PromotionBlocked
 */
export async function prepareSequences({ aside, to }: Sessions, promotion: Promotion): Promise<SequencesBefore> {
  const shapes = await readCarriedSequences(aside, to, promotion.patterns);
  const names = shapes.map(({ name }) => name);
  await refuseWithheldSequences(to, otherSide(promotion.from), names);
  const at = performance.now();
  const from = byName(await readPositions(aside, shapes));
  const refused = beyondBounds(shapes, from, otherSide(promotion.from));
  if (refused.length > 0) throw promotionBlocked(refused.slice(0, 10).join('; '));
  const there = byName(await readPositions(to, shapes));
  const moved = shapes.flatMap((shape) => {
    const name = qualified(shape.name);
    const [position, other] = [from.get(name), there.get(name)];
    if (position === undefined) return [];
    const gap = leastGap(shape, position, promotion.sequenceGap);
    const further = carriedPosition(shape, positionWithGap(shape, position, gap), other);
    return isSamePosition(further, other) ? [] : [further];
  });
  await setPositions(to, moved);
  return { shapes, at, from, to: new Map([...there, ...byName(moved)]), planned: await planReads(aside, shapes, from) };
}

function byName(positions: readonly SequencePosition[]): Map<string, SequencePosition> {
  return new Map(positions.map((position) => [qualified(position.name), position]));
}

/** A rate that was seen for less than this says little: processes do not run all the time. */
const RATE_SEEN_FOR_MS = 100;

/** Work that needs no hold: plans are cached and catalogs warm when the writers wait. */
export async function prepareHold(sessions: Sessions, promotion: Promotion, before: SequencesBefore): Promise<void> {
  await dropEarlySlots(sessions.to, promotion);
  await sessions.main.query(`${LOCKS_OF_CHANGES}; ${openTablesSql(promotion)}; ${otherFilesSql(promotion)}`);
  // The first function of a session loads the language.
  for (const session of [sessions.main, sessions.to]) await session.query("SELECT verdigris.try_jsonb('1')");
  if (!promotion.feedBack) await writeAtNewSide(sessions, promotion);
  const left = before.at + RATE_SEEN_FOR_MS - performance.now();
  if (before.shapes.length > 0 && left > 0) await sleep(left, undefined, { signal: promotion.signal });
}

/**
 * Returns when every transaction that has written is over. New writers wait; readers go on.
 *
 * The route is as it was read then: another worker may have decided while this one waited for the lock, and what follows
 * changes the new side. A plain read is enough here: a decision is made under the lock that we now hold alone, and a
 * commit is visible before its locks are let go. READ COMMITTED, so that the snapshot is not older than the wait, and each
 * later look sees what is committed by then. No FOR UPDATE: it would give this transaction an xid, for which the slot of
 * the way back would wait where both databases are on one server.
 */
export async function lockOutWriters(main: Session, promotion: PromotionTry, hold: Hold, epoch: number): Promise<void> {
  const limits = [
    `SET LOCAL lock_timeout = ${promotion.lockTimeoutMs}`,
    // A worker that freezes here is ended by the server, and writers go on.
    `SET LOCAL idle_in_transaction_session_timeout = ${promotion.maxHoldMs}`,
    `SELECT set_config('transaction_timeout', '${promotion.maxHoldMs}', true) WHERE current_setting('server_version_num')::int >= 170000`,
  ];
  try {
    const message = [BEGIN_READ_COMMITTED, ...limits, TAKE_FENCE_LOCK, routeSql(promotion, epoch)].join('; ');
    const { rowCount } = await hold.query(main, message);
    if (rowCount !== 1) throw new StandsInTheWay('another worker has decided it meanwhile');
  } catch (error) {
    // A connection that was cut, or a server that is gone, says nothing about writers.
    if (sqlState(error) !== LOCK_NOT_AVAILABLE) throw error;
    throw new StandsInTheWay(`writers did not end within ${promotion.lockTimeoutMs} ms`, error, () =>
      whoHoldsAdvisoryLock(main, FENCE_LOCK),
    );
  }
}

function routeSql({ migration, from }: Promotion, epoch: number): string {
  return `SELECT FROM verdigris.route WHERE migration = ${literal(migration)} AND epoch = ${epoch} AND writes_on = ${literal(from)}`;
}

/** The sessions beside the transaction get the time of the hold as their limit, all at once. */
export async function limitOthers({ aside, to }: Sessions, hold: Hold): Promise<void> {
  await Promise.all([hold.limit(aside), hold.limit(to)]);
}

/**
 * Every table is fenced and none is new, nor will be by a transaction that has not ended: otherwise a write could slip past
 * the decision. No partition has been emptied since rows were compared: the other side may still have its rows. Locks first, then the catalog: what has ended between the two looks is committed, and shows there.
 *
 * @param after a statement that comes before the look, in the same message
 */
export async function checkFence(main: Session, promotion: Promotion, hold: Hold, after?: string): Promise<void> {
  const before = after === undefined ? [] : [after];
  const looks = [LOCKS_OF_CHANGES, openTablesSql(promotion), otherFilesSql(promotion)];
  const answers = await hold.queriesInTransaction(main, [...before, ...looks]);
  const [locks, tables, files] = answers.slice(-looks.length).map(({ rows }) => rows as unknown[]);
  const open = openTables((tables ?? []) as OpenTable[], promotion);
  await refuseUnfencedChanges(main, promotion, hold, (locks ?? []) as LockRow[]);
  refuseOtherFiles(promotion, (files ?? []) as PartitionFile[]);
  if (open.length === 0) return;
  throw new VerdigrisError({
    type: 'FenceTampered',
    message: `${promotion.from}: the fence is not in force on ${open.slice(0, 5).join(', ')}: a table is new, or its trigger was disabled`,
    nextStep: 'undo that change (or add the table to the plan and start again), then approve the promotion again',
  });
}

/**
 * The same look at partitions while nobody waits for it: what has happened by now needs no hold.
 *
 * @throws VerdigrisError PartitionEmptied
 */
export async function lookForEmptied({ main }: Sessions, promotion: Promotion): Promise<void> {
  refuseOtherFiles(promotion, (await main.query<PartitionFile>(otherFilesSql(promotion))).rows);
}

function otherFilesSql({ comparedPartitions }: Promotion): string {
  return partitionFilesSql(comparedPartitions);
}

function refuseOtherFiles(
  { from, comparedPartitions, patterns = ALL_TABLES }: Promotion,
  rows: readonly PartitionFile[],
): void {
  if (comparedPartitions === undefined) return;
  refuseEmptied(from, ofMoved(rows, tableFilter(patterns)).map(formatTableName).sort());
}

/** A table that is new, or (without a root) one whose fence is not in force. */
type OpenTable = NewTable | { readonly name: string; readonly root_name: null };

function openTablesSql({ fenced, knownTables }: Promotion): string {
  return `SELECT name, NULL AS root_schema, NULL AS root_name FROM (${unarmedTablesSql(fenced)}) AS unarmed UNION ALL ${newTablesSql(knownTables)}`;
}

/** A new table that the plan leaves out is nobody's business. */
function openTables(rows: readonly OpenTable[], { patterns = ALL_TABLES }: Promotion): string[] {
  const moved = isMoved(patterns);
  return rows.filter((table) => table.root_name === null || moved(table)).map(({ name }) => name);
}

async function refuseUnfencedChanges(
  main: Session,
  promotion: Promotion,
  hold: Hold,
  locks: readonly LockRow[],
): Promise<void> {
  const suspected = unfencedChanges(locks, promotion);
  if (suspected.length === 0) return;
  const changes = await hold.within(byClients(main, suspected));
  const [change] = changes;
  if (change === undefined) return;
  throw new StandsInTheWay(describeChange(promotion, change), undefined, () => whoChanges(main, changes));
}

/**
 * A marker written now, by another session, is behind every committed write. Not pg_current_wal_insert_lsn(): the open
 * transaction's own WAL is not flushed, so that position would never be reached.
 */
export async function waitUntilAllIsThere(
  sessions: Sessions,
  promotion: Promotion,
  hold: Hold,
  over?: AbortSignal,
): Promise<void> {
  const to = otherSide(promotion.from);
  const direction = directionTo(to);
  const token = await hold.within(writeMarker(sessions.aside, direction));
  while (!(await hold.within(markerArrived(sessions.to, direction, token)))) {
    promotion.signal?.throwIfAborted();
    over?.throwIfAborted();
    if (hold.isOver()) {
      throw new StandsInTheWay(`${to} did not catch up within ${promotion.maxHoldMs} ms`, undefined, () =>
        whoBlocksApply(sessions.to, feedName(promotion.migration, direction)),
      );
    }
    await sleep(1);
  }
}

/** Nothing arrives on the new side any more, nor will by itself: its subscriptions are disabled and their workers gone. */
export async function checkFeedIsOff(sessions: Sessions, promotion: Promotion, hold: Hold): Promise<void> {
  const to = otherSide(promotion.from);
  const feed = feedName(promotion.migration, directionTo(to));
  for (const name of await hold.within(findSubscriptions(sessions.to, feed))) {
    const state = await hold.within(readSubscription(sessions.to, name));
    if (state !== undefined && (state.enabled || state.workers > 0)) {
      throw new StandsInTheWay(`the feed ${name} to ${to} has been switched on again`);
    }
  }
}

/**
 * The feed back begins when the one there has ended. One that is enabled now would begin with its slot, and bring the new
 * side's updates back to it as old values. In the transaction that decides, so it holds up to its COMMIT.
 */
export async function checkWayBackIsOff(main: Session, promotion: Promotion, hold: Hold): Promise<void> {
  if (!promotion.feedBack) return;
  const { rows } = await hold.queryInTransaction<{ name: string }>(main, enabledSubscriptionsSql(wayBack(promotion)));
  const [enabled] = rows;
  if (enabled === undefined) return;
  throw new StandsInTheWay(
    `the subscription ${enabled.name} on ${promotion.from} has been enabled: it is to begin when the feed to ${otherSide(promotion.from)} has ended`,
  );
}

/**
 * Sequences are not replicated: the new side's go on beyond where the old side's stand now. They never go back, though
 * somebody who was late may have taken values from the new side's.
 */
export async function carrySequencesOver(
  sessions: Sessions,
  promotion: Promotion,
  before: SequencesBefore,
  hold: Hold,
  over?: AbortSignal,
): Promise<void> {
  const now = byName(await hold.within(readPositions(sessions.aside, before.shapes, before.planned)));
  const elapsed = performance.now() - before.at;
  const carried = before.shapes.flatMap((shape) => {
    const name = qualified(shape.name);
    const [position, earlier, there] = [now.get(name), before.from.get(name), before.to.get(name)];
    if (position === undefined || isSamePosition(position, earlier)) return [];
    const least = leastGap(shape, position, promotion.sequenceGap);
    const gap = gapAtItsRate(shape, earlier, position, elapsed, least);
    return [carriedPosition(shape, positionWithGap(shape, position, gap), there)];
  });
  over?.throwIfAborted();
  await hold.within(setPositions(sessions.to, carried, over));
}

/** Making a slot takes 3-4 ms, unless a transaction somewhere on its server has an xid: then writers must not wait on. */
const SLOT_WITHIN_MS = 250;

/**
 * For the rehearsal nobody waits. The new side's server is at work then: a slot waits for the transactions of the moment and,
 * twice, for a record that only the walwriter brings to the disk when they commit asynchronously, as an apply worker does
 * (`wal_writer_delay`, 200 ms): 400 ms in all, measured.
 */
const REHEARSED_WITHIN_MS = 3_000;

/**
 * Makes slots that go again at once, on the sessions that will make those of the way back: whatever would be in their way
 * is found before writers wait, and each session has loaded what it needs.
 *
 * @throws VerdigrisError PromotionBlocked
 */
export async function rehearseSlots(sessions: Sessions, promotion: Promotion): Promise<void> {
  try {
    await Promise.all(sessions.slots.map(({ session }) => session.query(REHEARSAL)));
  } catch (error) {
    throw await StandsInTheWay.explained(slotNotMade(sessions, promotion, error));
  }
}

/** A temporary slot ends with its session, if nothing else ends it. */
const REHEARSAL = `
  SET statement_timeout = ${REHEARSED_WITHIN_MS};
  SELECT pg_create_logical_replication_slot('verdigris_rehearsal_' || pg_backend_pid(), 'pgoutput', true);
  SELECT pg_drop_replication_slot('verdigris_rehearsal_' || pg_backend_pid());
  RESET statement_timeout`;

function slotNotMade({ to }: Sessions, promotion: Promotion, error: unknown): StandsInTheWay {
  const why = `the slot of the way back can't be made on ${otherSide(promotion.from)} in time`;
  return new StandsInTheWay(why, error, () => whoHasWritten(to));
}

/**
 * Apply workers commit without a flush (a subscription's `synchronous_commit` is off): what the marker has shown may not be
 * on the new side's disk for up to three times its `wal_writer_delay`, and a crash before it is open would take it back.
 * A commit of ours flushes whatever is before it, and waits for a synchronous standby. Not beside slots: to make one
 * flushes, too (PostgreSQL's ReplicationSlotReserveWal()).
 */
export async function flushWhatHasArrived(sessions: Sessions, promotion: Promotion, hold: Hold): Promise<void> {
  if (promotion.feedBack) return;
  await hold.within(writeAtNewSide(sessions, promotion));
}

/** Any row would do. This one goes nowhere: the feed in its direction has ended. */
async function writeAtNewSide({ to }: Sessions, { from }: Promotion): Promise<void> {
  await writeMarker(to, directionTo(from));
}

/**
 * Now nothing that came from the old side is behind the slots, and nothing that the application will write is before
 * them. Made earlier and advanced, a slot would forget that in a crash (its position reaches disk only at a checkpoint)
 * and send the old side its own rows back.
 */
export async function makeSlotsOfTheWayBack(sessions: Sessions, promotion: Promotion, hold: Hold): Promise<void> {
  let made;
  try {
    made = await Promise.all(
      sessions.slots.map(({ session, make }) => hold.queryAtMost(session, SLOT_WITHIN_MS, make)),
    );
  } catch (error) {
    throw slotNotMade(sessions, promotion, error);
  }
  if (made.some(({ rowCount }) => rowCount !== 1)) throw new StandsInTheWay('another worker acts now');
}

/**
 * Whether the sides are on servers of their own, so that the slot of the way back does not wait for the transaction that
 * decides. A standby that has been promoted has its primary's identifier: then the answer is no, which is only slower.
 */
export async function areApart({ main, to }: Sessions): Promise<boolean> {
  const [from, other] = await Promise.all([systemIdentifier(main), systemIdentifier(to)]);
  return from !== null && other !== null && from !== other;
}

/** Slots that a try has left are too early for the next one. */
export async function dropEarlySlots(to: Session, promotion: Promotion): Promise<void> {
  if (promotion.feedBack) await dropSlots(to, wayBack(promotion), 0);
}
