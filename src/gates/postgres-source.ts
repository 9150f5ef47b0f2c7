import { streamsOfRun } from '../postgres/streams.js';
import { feedName } from '../postgres/feed.js';
import type { Session } from '../postgres/session.js';
import type { Side } from '../side.js';
import type { PostgresSample, PostgresSamples } from './postgres-series.js';

/**
 * Asks both servers how they are. The sessions must read the statistics anew each time, so they must not be in a
 * transaction.
 */
export async function readPostgres(
  sessions: Readonly<Record<Side, Session>>,
  migration: string,
): Promise<PostgresSamples> {
  const feed = feedName(migration, 'to_green');
  const streams = await streamsOfRun(sessions.blue, feed);
  const [blue, green] = await Promise.all([readSide(sessions.blue, streams), readSide(sessions.green, streams)]);
  return { blue, green };
}

type SampleRow = Record<string, number> & {
  readonly lock_waits: number[];
  readonly who_waits: string;
  readonly blind_role: string | null;
};

async function readSide(session: Session, streams: readonly string[]): Promise<PostgresSample> {
  const { rows } = await session.query<SampleRow>(SAMPLE, [streams]);
  const row = rows[0];
  if (row === undefined) throw new Error('the statistics of the server are empty');
  return {
    atMs: row['at_ms'] ?? 0,
    ...(row.blind_role === null ? {} : { blindRole: row.blind_role }),
    lockWaits: row.lock_waits,
    whoWaits: row.who_waits,
    oldestTransactionSeconds: row['oldest_transaction'] ?? 0,
    transactions: row['transactions'] ?? 0,
    assignedIds: row['assigned_ids'] ?? 0,
    decoded: row['decoded'] ?? 0,
    conflicts: row['conflicts'] ?? 0,
    retainedWalBytes: row['retained_wal'] ?? 0,
  };
}

/**
 * Columns that a version does not have are read as JSON: pg_locks.waitstart (14), confl_* (18). Our own sessions are
 * left out; who waits for one of them is not. Of other roles' sessions pg_stat_activity tells nothing, not even that they
 * are clients, unless pg_read_all_stats is granted: the role for which that is so is named.
 */
const SAMPLE = `
  WITH waiting AS (
    SELECT a.pid, max(extract(epoch FROM clock_timestamp()
                              - coalesce((to_jsonb(l) ->> 'waitstart')::timestamptz, a.query_start)))::float8 AS seconds
      FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
     WHERE NOT l.granted AND a.datname = current_database() AND a.backend_type = 'client backend'
       AND a.application_name NOT LIKE 'verdigris %'
     GROUP BY a.pid ORDER BY seconds DESC LIMIT 100
  )
  SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS at_ms,
         CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') THEN NULL ELSE quote_ident(current_user) END AS blind_role,
         coalesce((SELECT array_agg(seconds ORDER BY seconds DESC) FROM waiting), '{}') AS lock_waits,
         coalesce((SELECT format('pid %s has waited %s s for pid %s', pid, round(seconds::numeric, 1),
                                 array_to_string(pg_blocking_pids(pid), ', '))
                     FROM waiting ORDER BY seconds DESC LIMIT 1), '') AS who_waits,
         coalesce((SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_catalog.pg_stat_activity
                    WHERE datname = current_database() AND backend_type = 'client backend' AND xact_start IS NOT NULL
                      AND pid <> pg_backend_pid() AND application_name NOT LIKE 'verdigris %'), 0)::float8
           AS oldest_transaction,
         coalesce((SELECT xact_commit + xact_rollback FROM pg_catalog.pg_stat_database
                    WHERE datname = current_database()), 0)::float8 AS transactions,
         pg_snapshot_xmax(pg_current_snapshot())::text::float8 AS assigned_ids,
         coalesce((SELECT sum(n.value::numeric)
                     FROM pg_catalog.pg_stat_subscription_stats s
                     CROSS JOIN LATERAL jsonb_each_text(to_jsonb(s)) AS n (key, value)
                    WHERE s.subname = ANY ($1::text[]) AND (n.key LIKE 'confl\\_%' OR n.key = 'apply_error_count')), 0)::float8
           AS conflicts,
         coalesce((SELECT max(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn))
                     FROM pg_catalog.pg_replication_slots
                    WHERE slot_name = ANY ($1::text[]) AND database = current_database()), 0)::float8 AS retained_wal,
         coalesce((SELECT sum(total_txns) FROM pg_catalog.pg_stat_replication_slots
                    WHERE slot_name = ANY ($1::text[])), 0)::float8 AS decoded`;
