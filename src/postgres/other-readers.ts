import type { Session } from './session.js';

/*
 * Who reads what a server writes by replication, and is no part of the run: replicas, archives, change data capture. None of
 * them moves with the writes, and none of them notices.
 */

/** Somebody who reads a server's WAL, or the changes of this database out of it. */
export interface OtherReader {
  /** `logical`: a slot of this database. `physical`: a replica, an archive or a base backup, of the whole server. */
  readonly kind: 'logical' | 'physical';
  /** Null for a connection that has none. */
  readonly slot: string | null;
  /** The output plugin of a logical slot; null else. */
  readonly plugin: string | null;
  /** `walreceiver`, `pg_receivewal`: what the connection calls itself; null without one, or where others' can't be seen. */
  readonly application: string | null;
  /** IP address of the connection; null without one, for a Unix socket, or where others' can't be seen. */
  readonly address: string | null;
  readonly connected: boolean;
}

/** All of them, by name. Without pg_monitor connections of other users are there, but neither name nor address of theirs. */
export async function readOtherReaders(session: Session): Promise<OtherReader[]> {
  const { rows } = await session.query<OtherReader>(OTHER_READERS);
  return rows;
}

/** For people: `the slot "cdc" (pgoutput, connected)`, `the physical slot "r" (not connected)`, `"walreceiver" at 10.0.0.3 (connected)`. */
export function describeReader({ kind, slot, plugin, application, address, connected }: OtherReader): string {
  const who = application === null || application === '' ? 'a connection' : `"${application}"`;
  const from = address === null ? '' : ` at ${address}`;
  if (slot === null) return `${who}${from} (connected)`;
  const state = connected ? 'connected' : 'not connected';
  if (kind === 'logical') return `the slot "${slot}" (${plugin ?? 'no plugin'}, ${state})`;
  return `the physical slot "${slot}" (${connected && address !== null ? `${who}${from}` : state})`;
}

/**
 * Ours are called verdigris_*; those that PostgreSQL makes to copy a table for a subscription go by themselves. A connection
 * that reads nothing yet may become any of them.
 */
const OTHER_READERS = `
SELECT s.slot_type AS kind, s.slot_name::text AS slot, s.plugin::text AS plugin, s.active AS connected,
       r.application_name AS application, host(r.client_addr) AS address
  FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
 WHERE (s.slot_type = 'physical' OR s.database = current_database())
   AND s.slot_name NOT LIKE 'verdigris\\_%' AND s.slot_name !~ '^pg_[0-9]+_sync_[0-9]+'
 UNION ALL
SELECT 'physical', NULL, NULL, true, r.application_name, host(r.client_addr)
  FROM pg_stat_replication r
 WHERE NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid)
   AND r.state IS DISTINCT FROM 'startup' AND coalesce(r.application_name, '') NOT LIKE 'verdigris%'
 ORDER BY 2 NULLS LAST, 5, 6`;
