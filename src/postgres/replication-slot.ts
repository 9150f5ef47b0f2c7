import { setTimeout as sleep } from 'node:timers/promises';
import type { Session } from './session.js';
import { CANCELED, LOCK_NOT_AVAILABLE, sqlState } from './sqlstate.js';

/** What a logical slot is doing. Source: pg_replication_slots. */
export interface SlotState {
  readonly active: boolean;
  /** WAL that the slot holds back on its server. */
  readonly retainedBytes: number;
  /** `reserved`, `extended`, `unreserved` or `lost`. */
  readonly walStatus: string | null;
}

/** The state of a slot; undefined when there is none of that name in this database. */
export async function readSlot(session: Session, name: string): Promise<SlotState | undefined> {
  const { rows } = await session.query<{ active: boolean; retained: string; wal_status: string | null }>(
    `SELECT active, wal_status,
            coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn), 0)::bigint::text AS retained
       FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()`,
    [name],
  );
  const row = rows[0];
  return row && { active: row.active, retainedBytes: Number(row.retained), walStatus: row.wal_status };
}

/** How long one try to make a slot waits; a try that runs out leaves none. */
const SLOT_TRY_MS = 3_000;

/**
 * Makes a logical slot for pgoutput unless it is there. PostgreSQL waits for every open transaction that has an xid,
 * so it is tried in short pieces, between which a cancel is heard and people are told who is waited for.
 */
export async function ensureSlot(
  session: Session,
  name: string,
  options: { readonly signal?: AbortSignal; readonly onWait?: (forWhom: string) => void } = {},
): Promise<void> {
  try {
    for (;;) {
      options.signal?.throwIfAborted();
      if ((await readSlot(session, name)) !== undefined) return;
      await session.query(`SET statement_timeout = ${SLOT_TRY_MS}`);
      try {
        await session.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [name]);
        return;
      } catch (error) {
        // Waiting for a transaction counts as waiting for a lock.
        if (sqlState(error) !== CANCELED && sqlState(error) !== LOCK_NOT_AVAILABLE) throw error;
        options.onWait?.(await oldestWriter(session));
      }
    }
  } finally {
    await session.query('SET statement_timeout = 0').catch(() => undefined);
  }
}

/** Who keeps a slot from being made: the oldest transaction that has an xid, in one line for people. */
export async function oldestWriter(session: Session): Promise<string> {
  const { rows } = await session.query<{ who: string }>(
    `SELECT format('pid %s (%s), transaction since %s', pid, coalesce(nullif(application_name, ''), 'no application name'), xact_start) AS who
       FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 1`,
  );
  return rows[0]?.who ?? 'nobody any more';
}

/**
 * Drops a slot if it is there. A walsender that still holds it gets `patienceMs` to end by itself, then it is
 * terminated: a slot left behind would keep WAL until the disk is full.
 */
export async function dropSlot(session: Session, name: string, patienceMs = 5_000): Promise<void> {
  const started = Date.now();
  for (;;) {
    try {
      await session.query(
        `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
          WHERE slot_name = $1 AND database = current_database()`,
        [name],
      );
      return;
    } catch (error) {
      if (sqlState(error) !== '55006' || Date.now() - started > patienceMs + 10_000) throw error;
    }
    if (Date.now() - started > patienceMs) {
      await session.query('SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1', [
        name,
      ]);
    }
    await sleep(20);
  }
}

/** Waits until no walsender holds the slot. @returns false when one still does after `timeoutMs`. */
export async function waitUntilInactive(session: Session, name: string, timeoutMs: number): Promise<boolean> {
  const started = Date.now();
  for (;;) {
    const slot = await readSlot(session, name);
    if (slot === undefined || !slot.active) return true;
    if (Date.now() - started > timeoutMs) return false;
    await sleep(5);
  }
}
