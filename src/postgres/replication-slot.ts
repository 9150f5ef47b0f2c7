import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import { ident } from './identifier.js';
import { writingLongest } from './locks.js';
import { backendPid } from './migrate/step-context.js';
import { closeSession, openBeside, type Session } from './session.js';
import { DUPLICATE_OBJECT, NO_RIGHT, OBJECT_IN_USE, sqlState } from './sqlstate.js';

/** What a logical slot is doing. Source: pg_replication_slots. */
export interface SlotState {
  readonly active: boolean;
  /** WAL that the slot holds back on its server. */
  readonly retainedBytes: number;
  /** `reserved`, `extended`, `unreserved` or `lost`. */
  readonly walStatus: string | null;
  /** False while a session still waits for the point from which it can send: it goes if that session does. */
  readonly complete: boolean;
}

/** The state of a slot; undefined when there is none of that name in this database. */
export async function readSlot(session: Session, name: string): Promise<SlotState | undefined> {
  const { rows } = await session.query<{
    active: boolean;
    retained: string;
    wal_status: string | null;
    complete: boolean;
  }>(
    `SELECT active, wal_status, confirmed_flush_lsn IS NOT NULL AS complete,
            coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn), 0)::bigint::text AS retained
       FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()`,
    [name],
  );
  const row = rows[0];
  return (
    row && {
      active: row.active,
      retainedBytes: Number(row.retained),
      walStatus: row.wal_status,
      complete: row.complete,
    }
  );
}

/** How often whoever waits for a slot hears who keeps it from being made. */
const WATCH_EVERY_MS = 1_000;

/** Who waits for a slot that is being made. */
export interface SlotWatch {
  /** Another session on the same server. */
  readonly session: Session;
  readonly signal?: AbortSignal | undefined;
  readonly onWait?: ((forWhom: string) => void) | undefined;
}

/**
 * Makes a logical slot for pgoutput unless it is there. PostgreSQL waits two or three times in a row for every transaction
 * that has an xid then: with a limit, writers that follow each other would keep it from ever being made, as each try
 * begins with nothing. So it is made without one, on a session of its own.
 *
 * @throws the signal's reason when it is aborted; no half-made slot is left then.
 * @throws VerdigrisError NameTaken when the server has another slot of that name.
 */
export async function ensureSlot(
  session: Session,
  name: string,
  options: Omit<SlotWatch, 'session'> = {},
): Promise<void> {
  for (;;) {
    options.signal?.throwIfAborted();
    const slot = await readSlot(session, name);
    if (slot?.complete === true) return;
    if (slot === undefined) {
      try {
        await makeSlot(session, name, options);
        return;
      } catch (error) {
        if (sqlState(error) !== DUPLICATE_OBJECT) throw error;
        await refuseTakenName(session, name, error);
        continue;
      }
    }
    // The server still makes it for a worker that has died: what that has waited for need not be waited for again.
    options.onWait?.(await writingLongest(session));
    await sleep(WATCH_EVERY_MS, undefined, { signal: options.signal });
  }
}

/** Slots are of the whole server: one of another database, or a physical one, never becomes ours. */
async function refuseTakenName(session: Session, name: string, cause: unknown): Promise<void> {
  const { rows } = await session.query<{ database: string | null }>(
    `SELECT database FROM pg_replication_slots
      WHERE slot_name = $1 AND database IS DISTINCT FROM current_database()`,
    [name],
  );
  const [other] = rows;
  if (other === undefined) return;
  throw new VerdigrisError({
    type: 'NameTaken',
    message: `the server has a slot "${name}" already, ${describeOwner(other.database)}: the run needs one of that name`,
    nextStep:
      'give the plan another name: those that differ only in "-" and "_" have the same slots; or end the run that the slot is of, and see verdigris doctor',
    cause,
  });
}

/** Whose a slot of the server is, for people. @param database null for a physical slot */
export function describeOwner(database: string | null): string {
  return database === null ? 'a physical one' : `of its database "${database}"`;
}

async function makeSlot(session: Session, name: string, options: Omit<SlotWatch, 'session'>): Promise<void> {
  // Waiting for a transaction counts as waiting for a lock.
  const maker = await openBeside(session, { purpose: 'make slot', lockTimeoutMs: 0 });
  try {
    const making = maker.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [name]);
    await whileSlotIsMade(making, maker, { session, ...options });
  } finally {
    await closeSession(maker);
  }
}

/**
 * Waits for the statement that makes a slot, however long it takes, and says for whom. When the signal is aborted the
 * statement's session is ended, and the slot with it: closing a session does not reach a server that waits.
 */
export async function whileSlotIsMade<T>(
  making: Promise<T>,
  maker: Session,
  { session, signal, onWait }: SlotWatch,
): Promise<T> {
  let over = false;
  const made = making.finally(() => {
    over = true;
  });
  made.catch(() => undefined);
  try {
    for (;;) {
      signal?.throwIfAborted();
      await Promise.race([made, sleep(WATCH_EVERY_MS, undefined, { signal })]);
      if (over) return await made;
      onWait?.(await writingLongest(session));
    }
  } catch (error) {
    if (!over) await session.query('SELECT pg_terminate_backend($1, 5000)', [backendPid(maker)]);
    signal?.throwIfAborted();
    throw error;
  }
}

/**
 * Drops a slot if it is there. A walsender that still holds it gets `patienceMs` to end by itself, then it is
 * terminated: a slot left behind would keep WAL until the disk is full. Where the role may not do that, since the other
 * server logs in as somebody else, it gets the time in which a walsender ends whose subscriber is gone; none with a patience of 0.
 *
 * @throws SlotHeld (SqlError, retryable), with the GRANT that is missing, when it is held even then
 */
export async function dropSlot(session: Session, name: string, patienceMs = 5_000): Promise<void> {
  const started = performance.now();
  let [mayEnd, withinMs] = [true, patienceMs + 10_000];
  for (;;) {
    const waitedMs = performance.now() - started;
    try {
      await session.query(
        `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
          WHERE slot_name = $1 AND database = current_database()`,
        [name],
      );
      return;
    } catch (error) {
      if (sqlState(error) !== OBJECT_IN_USE) throw error;
      if (waitedMs > withinMs) throw mayEnd ? error : await heldByAnother(session, name, error);
    }
    if (mayEnd && waitedMs > patienceMs) {
      mayEnd = await endHolder(session, name);
      if (!mayEnd) withinMs = patienceMs === 0 ? 0 : await goneWithin(session);
    }
    await sleep(mayEnd || withinMs === 0 ? 20 : 500);
  }
}

/** @returns false where the role may not */
async function endHolder(session: Session, slot: string): Promise<boolean> {
  try {
    await session.query('SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1', [
      slot,
    ]);
    return true;
  } catch (error) {
    if (sqlState(error) !== NO_RIGHT) throw error;
    return false;
  }
}

/** When a walsender has ended that nobody listens to, ms. One without a time limit ends with its connection. */
async function goneWithin(session: Session): Promise<number> {
  const { rows } = await session.query<{ ms: number }>(
    `SELECT coalesce(nullif(setting::int, 0), boot_val::int) AS ms FROM pg_settings WHERE name = 'wal_sender_timeout'`,
  );
  return (rows[0]?.ms ?? 60_000) + 10_000;
}

/** Somebody else's session holds a slot, and the role may not end it. */
export class SlotHeld extends VerdigrisError {}

async function heldByAnother(session: Session, slot: string, cause: unknown): Promise<SlotHeld> {
  const { rows } = await session.query<{ ours: string; pid: number | null; holder: string | null; superuser: boolean }>(
    `SELECT current_user::text AS ours, s.active_pid AS pid, a.usename::text AS holder,
            coalesce((SELECT rolsuper FROM pg_roles WHERE oid = a.usesysid), false) AS superuser
       FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = $1`,
    [slot],
  );
  const { ours = '', pid = null, holder = null, superuser = false } = rows[0] ?? {};
  const right = superuser ? '' : `GRANT pg_signal_backend TO ${ident(ours)} on that server, or `;
  return new SlotHeld({
    type: 'SqlError',
    message: `the slot ${slot} can't be dropped, and keeps WAL: a session of "${holder ?? '?'}" (pid ${pid ?? '?'}) holds it, which "${ours}" may not end (${NO_RIGHT})`,
    nextStep: `${right}end that session as a superuser; it is tried again`,
    retryable: true,
    cause,
  });
}

/** Waits until no walsender holds the slot. @returns false when one still does after `timeoutMs`. */
export async function waitUntilInactive(session: Session, name: string, timeoutMs: number): Promise<boolean> {
  const started = performance.now();
  for (;;) {
    const slot = await readSlot(session, name);
    if (slot === undefined || !slot.active) return true;
    if (performance.now() - started > timeoutMs) return false;
    await sleep(5);
  }
}
