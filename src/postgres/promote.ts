import { setTimeout as sleep } from 'node:timers/promises';
import { otherSide, type Side } from '../side.js';
import { VerdigrisError } from '../errors.js';
import { directionTo, feedName } from './feed.js';
import { isFenceOpen, TAKE_FENCE_LOCK, unarmedTables } from './fence.js';
import { Hold, promotionBlocked } from './hold.js';
import { literal } from './identifier.js';
import { whoHoldsAdvisoryLock } from './locks.js';
import { openActorSession } from './ownership.js';
import { markerArrived, measureLag, writeMarker } from './marker.js';
import { dropSlot } from './replication-slot.js';
import { commonSequences, positionWithGap, readPositions, readSequenceShapes, setPositions } from './sequences.js';
import { closeSession, openSession, type Databases, type Session } from './session.js';
import { FENCE_CLOSED, FENCE_LOCK, FENCE_OPEN, readRoute } from './state.js';
import type { TableName } from '../plan/table-name.js';

/*
 * The promotion: one transaction on the side that gives writes away decides.
 *
 *   prepare  (prepare-promotion.ts)  the way back is proven, the fence is armed
 *   hold     lock out writers; check the fence; marker: everything is there; sequences; the slot of the way back
 *   decide   route and flag in one COMMIT: the point of no return
 *   open     the new side takes writes
 *   finish   (finish-promotion.ts)   old feed off, then the reverse one on
 *
 * Why no write is lost: the exclusive fence lock is granted when every transaction that has written is over; later
 * writers wait at their first write. The marker, written after that, reaches the new side after all of them. The old
 * side is closed by the COMMIT that lets the waiting writers go, so they meet a closed fence, and the new side opens
 * only after it. A crash in between leaves both closed, never both open: any worker goes on from the route row.
 */

export interface Promotion {
  readonly databases: Databases;
  readonly migration: string;
  /** The side that gives writes away; the other one takes them. */
  readonly from: Side;
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
interface Sessions {
  readonly main: Session;
  readonly aside: Session;
  readonly to: Session;
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
    const sessions: Sessions = {
      // These two hold the actors' locks: to end the holder of a late worker's lock is to end its promotion.
      main: await keep(openActorSession(databases[from], 'promotion')),
      to: await keep(openActorSession(databases[to], 'promotion')),
      aside: await keep(openSession(databases[from], { purpose: 'promotion marker' })),
    };
    const decision = await readDecision(sessions.main, promotion.migration, from);
    if (decision.decided) {
      await openNewSide(sessions.to, promotion.migration, decision.epoch);
      return { holdMs: null, epoch: decision.epoch };
    }
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
    if (promotion.feedBack) await makeSlotOfTheWayBack(sessions.to, promotion, hold);
    // The last moment to give up: an aborted activity leaves here, before the decision.
    promotion.signal?.throwIfAborted();
    refuseWhenOver(hold);
    await hold.queryInTransaction(
      sessions.main,
      `SELECT verdigris.decide(${literal(promotion.migration)}, ${epoch}, ${literal(otherSide(promotion.from))})`,
    );
  } catch (error) {
    await giveUp(sessions.main);
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

/** Tables that were made after the fence was armed. */
function newTablesSql(known: readonly number[]): string {
  return `SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%'
             AND n.nspname NOT IN ('information_schema', 'verdigris')
             AND c.oid <> ALL ('{${known.join(',')}}'::oid[])`;
}

/** The tables that are there now, by oid: what `knownTables` is made from. */
export async function readKnownTables(session: Session): Promise<number[]> {
  const { rows } = await session.query<{ oid: number }>(
    `SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%'
        AND n.nspname NOT IN ('information_schema', 'verdigris')`,
  );
  return rows.map((row) => row.oid);
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
 * Now nothing that came from the old side is behind the slot, and nothing that the application will write is before
 * it. Made earlier and advanced, it would forget that in a crash (its position reaches disk only at a checkpoint) and
 * send the old side its own rows back. One left by an earlier try is too early: it goes.
 */
async function makeSlotOfTheWayBack(to: Session, promotion: Promotion, hold: Hold): Promise<void> {
  const name = feedName(promotion.migration, directionTo(promotion.from));
  await dropSlot(to, name, 0);
  try {
    await hold.queryAtMost(
      to,
      SLOT_WITHIN_MS,
      `SELECT pg_create_logical_replication_slot(${literal(name)}, 'pgoutput')`,
    );
  } catch (error) {
    throw promotionBlocked(`the slot of the way back can't be made on ${otherSide(promotion.from)} in time`, error);
  }
}

/** Making a slot takes 3-4 ms, unless a transaction somewhere on its server has an xid: then writers must not wait on. */
const SLOT_WITHIN_MS = 250;

/**
 * Waits until no transaction on the new side's server, in any of its databases, would keep the slot from being made.
 */
async function waitForNoWriters(to: Session, promotion: Promotion): Promise<void> {
  for (let look = 0; look < 100; look++) {
    promotion.signal?.throwIfAborted();
    const { rows } = await to.query<{ who: string }>(
      `SELECT format('pid %s in database %s (%s)', pid, datname, coalesce(nullif(application_name, ''), backend_type)) AS who
         FROM pg_stat_activity
        WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
          AND xact_start < clock_timestamp() - make_interval(secs => ${OLD_WRITER_SECONDS})
       UNION ALL SELECT format('prepared transaction %s in database %s', gid, database) FROM pg_prepared_xacts`,
    );
    if (rows.length === 0) return;
    if (look === 99) {
      throw promotionBlocked(
        `${otherSide(promotion.from)}: ${rows.map((row) => row.who).join(', ')} would keep the slot of the way back waiting`,
      );
    }
    await sleep(100);
  }
}

/** A transaction older than this will not end within the few milliseconds that a slot takes. */
const OLD_WRITER_SECONDS = 0.1;

/** Opens the new side. Refused for an epoch that is over, so a late worker opens nothing. */
async function openNewSide(to: Session, migration: string, epoch: number): Promise<void> {
  await to.query("SET statement_timeout = '10s'");
  await to.query('SELECT verdigris.open_fence($1, $2)', [migration, epoch]);
}

/** Asks for the hold only when the new side is close behind: the marker's round trip is part of the hold. */
async function waitForShortLag(sessions: Sessions, promotion: Promotion): Promise<void> {
  const direction = directionTo(otherSide(promotion.from));
  let best = Number.POSITIVE_INFINITY;
  for (let look = 0; look < 100; look++) {
    promotion.signal?.throwIfAborted();
    const lag = await measureLag(sessions.aside, sessions.to, direction, 5_000, promotion.signal);
    if (lag < SHORT_LAG_MS) return;
    best = Math.min(best, lag);
    await sleep(100);
  }
  throw promotionBlocked(
    `${otherSide(promotion.from)} is too far behind: a marker took ${Math.round(best)} ms at best, ${SHORT_LAG_MS} ms are asked for`,
  );
}

/** A marker's round trip above this means a backlog, and the hold would have to wait for it. */
const SHORT_LAG_MS = 20;

/** Work that needs no hold: plans are cached and catalogs warm when the writers wait. */
async function prepareHold(sessions: Sessions, promotion: Promotion): Promise<void> {
  await readPositions(sessions.aside, await readSequenceShapes(sessions.aside));
  await readSequenceShapes(sessions.to);
  await unarmedTables(sessions.main, promotion.fenced);
}

export interface Decision {
  /** Whether writes have been given away by `from`. */
  readonly decided: boolean;
  readonly epoch: number;
}

/**
 * Whether the decision has been made. While a try is recorded as running (or the flag is set and the route does not say
 * so), the lock and the row are taken first and read then: a plain read can still say the old side while a COMMIT is on
 * its way. A flag that is set without a decision is set back here, and nowhere else.
 */
export async function readDecision(session: Session, migration: string, from: Side): Promise<Decision> {
  const plain = await readRoute(session, migration);
  if (plain === undefined) throw staleEpoch(migration, from);
  if (plain.writesOn !== from) return { decided: true, epoch: plain.epoch };
  if (plain.opening === null && (await isFenceOpen(session))) return { decided: false, epoch: plain.epoch };

  for (let attempt = 1; ; attempt++) {
    try {
      await session.query(
        `BEGIN; SET LOCAL lock_timeout = '40ms'; SET LOCAL statement_timeout = '2s'; ${TAKE_FENCE_LOCK}`,
      );
      const route = await readRoute(session, migration, true);
      if (route === undefined) throw staleEpoch(migration, from);
      if (route.writesOn === from && !(await isFenceOpen(session))) {
        await session.query(`SELECT setval('verdigris.fence', ${FENCE_OPEN})`);
      }
      await session.query('COMMIT');
      return { decided: route.writesOn !== from, epoch: route.epoch };
    } catch (error) {
      await session.query('ROLLBACK').catch(() => undefined);
      if (attempt >= 100 || error instanceof VerdigrisError) throw error;
      await sleep(50 + Math.random() * 100);
    }
  }
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

function staleEpoch(migration: string, side: Side): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `${side} knows no route of migration "${migration}"`,
    nextStep: 'see whether the run was ended by hand; nothing is changed without that row',
  });
}
