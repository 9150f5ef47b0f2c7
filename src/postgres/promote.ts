import { setTimeout as sleep } from 'node:timers/promises';
import { otherSide, type Side } from '../side.js';
import { VerdigrisError } from '../errors.js';
import { dropSlots } from './feed-objects.js';
import { directionTo, feedName } from './feed.js';
import { TAKE_FENCE_LOCK, unarmedTables } from './fence.js';
import { Hold, promotionBlocked } from './hold.js';
import { literal } from './identifier.js';
import { newTablesSql } from './known-tables.js';
import { whoHoldsAdvisoryLock } from './locks.js';
import { holdsActorLock, openActorSession } from './ownership.js';
import { markerArrived, writeMarker } from './marker.js';
import { readDecision } from './promotion-decision.js';
import { waitForNoWriters, waitForShortLag } from './promotion-readiness.js';
import { commonSequences, positionWithGap, readPositions, readSequenceShapes, setPositions } from './sequences.js';
import { closeSession, openSession, type Databases, type Session } from './session.js';
import { FENCE_CLOSED, FENCE_LOCK } from './state.js';
import { streamsOfRun } from './streams.js';
import type { TableName } from '../plan/table-name.js';

/*
 * The promotion: one transaction on the side that gives writes away decides.
 *
 *   prepare  (prepare-promotion.ts, promotion-readiness.ts)  the way back is proven, the fence is armed, the lag is short
 *   hold     lock out writers; check the fence; marker: everything is there; sequences; the slots of the way back
 *   decide   route and flag in one COMMIT: the point of no return
 *   open     the new side takes writes
 *   finish   (finish-promotion.ts)   old feed off, then the reverse one on
 *
 * Why no write is lost: the exclusive fence lock is granted when every transaction that has written is over; later
 * writers wait at their first write. The marker, written after that, reaches the new side after all of them. The old
 * side is closed by the COMMIT that lets the waiting writers go, so they meet a closed fence, and the new side opens
 * only after it. A crash in between leaves both closed, never both open: any worker goes on from the route row
 * (promotion-decision.ts).
 */

export interface Promotion {
  readonly databases: Databases;
  readonly migration: string;
  /** The side that gives writes away; the other one takes them. */
  readonly from: Side;
  /** The epoch in which it was asked for; a worker that wakes up in a later one moves nothing. Default: any. */
  readonly epoch?: number | undefined;
  /** Tables whose fence must be in force on `from`. */
  readonly fenced: readonly TableName[];
  /** Every table (oid) that was there when the fence was armed: a new one in the hold stops the try. */
  readonly knownTables: readonly number[];
  /** Longest time that writes wait in one try, ms. */
  readonly maxHoldMs: number;
  /** How long to ask for the fence's lock in this try, ms: short, so that we are always the victim of a deadlock. */
  readonly lockTimeoutMs: number;
  readonly sequenceGap: number;
  /** Whether the old side is to follow the new one afterwards: the slot for it is made in the hold. */
  readonly feedBack: boolean;
  readonly signal?: AbortSignal | undefined;
}

export interface Promoted {
  /** From asking for the lock to the new side being open, ms; null when another worker had done the first part. */
  readonly holdMs: number | null;
  readonly epoch: number;
}

/** Sessions of one try: `main` holds the transaction, `aside` writes the marker and reads, `to` is the new side. */
export interface Sessions {
  readonly main: Session;
  readonly aside: Session;
  readonly to: Session;
  /** One on the new side for each slot of the way back, `to` first: made in turn, many would take too long. */
  readonly slots: readonly SlotSession[];
}

interface SlotSession {
  readonly session: Session;
  /** The statement that makes the slot. */
  readonly make: string;
}

/**
 * One try to move writes to the other side. Either it throws and nothing has happened, or writes are on the new side.
 * Run again after a crash at any point, it finishes what was decided or starts anew.
 *
 * @throws VerdigrisError PromotionBlocked when somebody stands in the way, StaleEpoch when the run is no longer in charge.
 */
export async function tryPromotion(promotion: Promotion): Promise<Promoted> {
  const { databases, from } = promotion;
  const to = otherSide(from);
  const open: Session[] = [];
  const keep = async (opening: Promise<Session>): Promise<Session> => {
    const session = await opening;
    open.push(session);
    return session;
  };
  try {
    const actors = {
      // These two hold the actors' locks: to end the holder of a late worker's lock is to end its promotion.
      main: await keep(openActorSession(databases[from], 'promotion')),
      to: await keep(openActorSession(databases[to], 'promotion')),
    };
    const decision = await readDecision(actors.main, promotion.migration, from);
    if (decision.decided) {
      await openNewSide(actors.to, promotion.migration, decision.epoch);
      return { holdMs: null, epoch: decision.epoch };
    }
    const sessions: Sessions = {
      ...actors,
      aside: await keep(openSession(databases[from], { purpose: 'promotion marker' })),
      slots: await openSlotSessions(actors.to, promotion, keep),
    };
    if (promotion.epoch !== undefined && promotion.epoch !== decision.epoch) throw overtaken(promotion, decision.epoch);
    await waitForShortLag(sessions, promotion);
    await prepareHold(sessions, promotion);
    if (promotion.feedBack) await waitForNoWriters(sessions.to, promotion);

    const asked = performance.now();
    const epoch = await holdAndDecide(sessions, promotion, decision.epoch);
    await openNewSide(sessions.to, promotion.migration, epoch);
    return { holdMs: performance.now() - asked, epoch };
  } finally {
    await Promise.all(open.map(closeSession));
  }
}

function overtaken({ epoch, from }: Promotion, now: number): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `the promotion away from ${from} was asked for in epoch ${epoch ?? '?'}, and the route is at ${now}`,
    nextStep: 'nothing: writes have been moved since, and whoever moved them goes on',
  });
}

/** Everything from the lock to the COMMIT. @returns the new epoch. */
async function holdAndDecide(sessions: Sessions, promotion: Promotion, epoch: number): Promise<number> {
  const hold = new Hold(promotion.maxHoldMs);
  try {
    await lockOutWriters(sessions.main, promotion, hold);
    await checkRoute(sessions.main, promotion, hold, epoch);
    await checkFence(sessions.main, promotion, hold);
    await waitUntilAllIsThere(sessions, promotion, hold);
    refuseWhenOver(hold);
    await carrySequencesOver(sessions, promotion, hold);
    refuseWhenOver(hold);
    if (promotion.feedBack) await makeSlotsOfTheWayBack(sessions, promotion, hold);
    // The last moment to give up: an aborted activity leaves here, before the decision.
    promotion.signal?.throwIfAborted();
    refuseWhenOver(hold);
    await hold.queryInTransaction(
      sessions.main,
      `SELECT verdigris.decide(${literal(promotion.migration)}, ${epoch}, ${literal(otherSide(promotion.from))})`,
    );
    // Again, now that the route's row is locked: until here a worker that was frozen since the last promotion could
    // still have disarmed a table, for an epoch that was not over.
    await checkFence(sessions.main, promotion, hold);
  } catch (error) {
    await giveUp(sessions.main);
    // Until the next try they would only hold back WAL.
    await dropEarlySlots(sessions.to, promotion).catch(() => undefined);
    promotion.signal?.throwIfAborted();
    // Whatever ended the hold (a timeout of the server, a lost connection): nothing has happened, and it counts as a try.
    throw error instanceof VerdigrisError ? error : promotionBlocked(messageOf(error), error);
  }
  try {
    // Flag and COMMIT in one message: the waiting writers go on, into the closed fence.
    await hold.queryInTransaction(sessions.main, `SELECT setval('verdigris.fence', ${FENCE_CLOSED}); COMMIT`);
  } catch (error) {
    return decisionAfterLostAnswer(promotion, error);
  }
  return epoch + 1;
}

/** Lets the writers go on. A server that does not answer ends the transaction by itself when maxHold is over. */
async function giveUp(main: Session): Promise<void> {
  await Promise.race([main.query('ROLLBACK').catch(() => undefined), sleep(1_000)]);
}

/** Returns when every transaction that has written is over. New writers wait; readers go on. */
async function lockOutWriters(main: Session, promotion: Promotion, hold: Hold): Promise<void> {
  const limits = [
    `SET LOCAL lock_timeout = ${promotion.lockTimeoutMs}`,
    // A worker that freezes here is ended by the server, and writers go on.
    `SET LOCAL idle_in_transaction_session_timeout = ${promotion.maxHoldMs}`,
    `SELECT set_config('transaction_timeout', '${promotion.maxHoldMs}', true) WHERE current_setting('server_version_num')::int >= 170000`,
  ];
  try {
    await hold.query(main, `BEGIN; ${limits.join('; ')}; ${TAKE_FENCE_LOCK}`);
  } catch (error) {
    await giveUp(main);
    throw promotionBlocked(
      `writers did not end within ${promotion.lockTimeoutMs} ms. ${await whoHoldsAdvisoryLock(main, FENCE_LOCK)}`,
      error,
    );
  }
}

/**
 * The route is as it was read: another worker may have decided while this one waited for the lock, and what follows
 * changes the new side. A plain read is enough here: a decision is made under the lock that we now hold alone, and a
 * commit is visible before its locks are let go. No FOR UPDATE: it would give this transaction an xid, for which the slot
 * of the way back would wait where both databases are on one server.
 */
async function checkRoute(main: Session, promotion: Promotion, hold: Hold, epoch: number): Promise<void> {
  const { rowCount } = await hold.queryInTransaction(
    main,
    `SELECT FROM verdigris.route WHERE migration = ${literal(promotion.migration)} AND epoch = ${epoch}
        AND writes_on = ${literal(promotion.from)}`,
  );
  if (rowCount !== 1) throw promotionBlocked('another worker has decided it meanwhile');
}

function refuseWhenOver(hold: Hold): void {
  if (hold.isOver()) throw promotionBlocked(`the hold took longer than ${hold.maxMs} ms`);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Every table is fenced and none is new: otherwise a write could slip past the decision. */
async function checkFence(main: Session, promotion: Promotion, hold: Hold): Promise<void> {
  const { rows } = await hold.queryInTransaction<{ name: string }>(main, newTablesSql(promotion.knownTables));
  const open = [...(await unarmedTables(main, promotion.fenced)), ...rows.map((row) => row.name)];
  if (open.length === 0) return;
  throw new VerdigrisError({
    type: 'FenceTampered',
    message: `${promotion.from}: the fence is not in force on ${open.slice(0, 5).join(', ')}: a table is new, or its trigger was disabled`,
    nextStep: 'undo that change (or add the table to the plan and start again), then approve the promotion again',
  });
}

/**
 * A marker written now, by another session, is behind every committed write. Not pg_current_wal_insert_lsn(): the open
 * transaction's own WAL is not flushed, so that position would never be reached.
 */
async function waitUntilAllIsThere(sessions: Sessions, promotion: Promotion, hold: Hold): Promise<void> {
  const direction = directionTo(otherSide(promotion.from));
  await hold.limit(sessions.aside);
  const token = await hold.within(writeMarker(sessions.aside, direction));
  while (!(await hold.within(markerArrived(sessions.to, direction, token)))) {
    promotion.signal?.throwIfAborted();
    if (hold.isOver()) {
      throw promotionBlocked(`${otherSide(promotion.from)} did not catch up within ${promotion.maxHoldMs} ms`);
    }
    await sleep(1);
  }
}

/** Sequences are not replicated: the new side's begin beyond where the old side's stand now. */
async function carrySequencesOver(sessions: Sessions, promotion: Promotion, hold: Hold): Promise<void> {
  const shapes = await hold.within(
    readSequenceShapes(sessions.aside).then(async (from) =>
      commonSequences(from, await readSequenceShapes(sessions.to)),
    ),
  );
  const shapeOf = new Map(shapes.map((shape) => [shape.name.schema + '\0' + shape.name.name, shape]));
  const positions = await readPositions(sessions.aside, shapes);
  await hold.limit(sessions.to);
  await setPositions(
    sessions.to,
    positions.map((position) => {
      const shape = shapeOf.get(position.name.schema + '\0' + position.name.name);
      return shape === undefined ? position : positionWithGap(shape, position, promotion.sequenceGap);
    }),
  );
}

/**
 * Now nothing that came from the old side is behind the slots, and nothing that the application will write is before
 * them. Made earlier and advanced, a slot would forget that in a crash (its position reaches disk only at a checkpoint)
 * and send the old side its own rows back.
 */
async function makeSlotsOfTheWayBack(sessions: Sessions, promotion: Promotion, hold: Hold): Promise<void> {
  try {
    const made = await Promise.all(
      sessions.slots.map(({ session, make }) => hold.queryAtMost(session, SLOT_WITHIN_MS, make)),
    );
    if (made.some(({ rowCount }) => rowCount !== 1)) throw promotionBlocked('another worker acts now');
  } catch (error) {
    throw promotionBlocked(`the slot of the way back can't be made on ${otherSide(promotion.from)} in time`, error);
  }
}

/** Making a slot takes 3-4 ms, unless a transaction somewhere on its server has an xid: then writers must not wait on. */
const SLOT_WITHIN_MS = 250;

/**
 * A slot is made only while `to` holds the actor's lock: the session of a worker that was frozen makes none later. Only
 * `to` drops them, for the same reason: a late worker must not drop what another one has made.
 */
async function openSlotSessions(
  to: Session,
  promotion: Promotion,
  keep: (opening: Promise<Session>) => Promise<Session>,
): Promise<SlotSession[]> {
  if (!promotion.feedBack) return [];
  const actor = await holdsActorLock(to);
  const sessions: SlotSession[] = [];
  for (const slot of await streamsOfRun(to, wayBack(promotion))) {
    const side = promotion.databases[otherSide(promotion.from)];
    sessions.push({
      session: sessions.length === 0 ? to : await keep(openSession(side, { purpose: 'promotion slot' })),
      make: `SELECT pg_create_logical_replication_slot(${literal(slot)}, 'pgoutput') WHERE ${actor}`,
    });
  }
  return sessions;
}

/** Slots that a try has left are too early for the next one. */
async function dropEarlySlots(to: Session, promotion: Promotion): Promise<void> {
  if (promotion.feedBack) await dropSlots(to, wayBack(promotion), 0);
}

/** The feed that the new side will fill the old one by. */
function wayBack(promotion: Promotion): string {
  return feedName(promotion.migration, directionTo(promotion.from));
}

/** Opens the new side. Refused for an epoch that is over, so a late worker opens nothing. */
async function openNewSide(to: Session, migration: string, epoch: number): Promise<void> {
  await to.query("SET statement_timeout = '10s'");
  await to.query('SELECT verdigris.open_fence($1, $2)', [migration, epoch]);
}

/** Work that needs no hold: plans are cached and catalogs warm when the writers wait. */
async function prepareHold(sessions: Sessions, promotion: Promotion): Promise<void> {
  await dropEarlySlots(sessions.to, promotion);
  await readPositions(sessions.aside, await readSequenceShapes(sessions.aside));
  await readSequenceShapes(sessions.to);
  await unarmedTables(sessions.main, promotion.fenced);
}

/** The COMMIT's answer was lost: ask the database, for as long as it takes, with a session of its own. */
async function decisionAfterLostAnswer(promotion: Promotion, lost: unknown): Promise<number> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    try {
      const session = await openSession(promotion.databases[promotion.from], { purpose: 'promotion outcome' });
      try {
        const decision = await readDecision(session, promotion.migration, promotion.from);
        if (decision.decided) return decision.epoch;
        throw promotionBlocked('the COMMIT did not go through', lost);
      } finally {
        await closeSession(session);
      }
    } catch (error) {
      if (error instanceof VerdigrisError && error.type === 'PromotionBlocked') throw error;
      if (Date.now() > deadline) throw error;
      await sleep(200);
    }
  }
}
