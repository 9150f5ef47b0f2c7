import { setTimeout as sleep } from 'node:timers/promises';
import type { Session } from './session.js';
import { sqlState } from './sqlstate.js';

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

/**
 * Makes a logical slot for pgoutput unless it is there. Making one waits for every open transaction that has an xid:
 * give the session a statement_timeout where that matters.
 */
export async function ensureSlot(session: Session, name: string): Promise<void> {
  if ((await readSlot(session, name)) !== undefined) return;
  await session.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [name]);
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
