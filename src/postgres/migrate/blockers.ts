import { setTimeout as sleep } from 'node:timers/promises';
import type { Session } from '../session.js';

/** A session that another one waits for. */
export interface Blocker {
  readonly pid: number;
  readonly application: string;
  /** `client backend`, `autovacuum worker`, `logical replication worker` ... */
  readonly kind: string;
  /** Age of its transaction. */
  readonly ageSeconds: number;
  /** The first words of its statement: a whole one may hold values that nobody should read in a log. */
  readonly statement: string;
}

const BLOCKERS = `
  SELECT a.pid, coalesce(nullif(a.application_name, ''), 'no application name') AS application,
         a.backend_type AS kind, coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8 AS "ageSeconds",
         regexp_replace(substring(ltrim(a.query) FROM '^(?:\\S+\\s*){1,3}'), '''.*$', '...') AS statement
    FROM unnest(pg_blocking_pids($1)) b (pid)
    JOIN pg_stat_activity a USING (pid)
   ORDER BY a.xact_start LIMIT 3`;

/** Who the session `pid` waits for right now. */
export async function blockersOf(session: Session, pid: number): Promise<Blocker[]> {
  const { rows } = await session.query<Blocker>(BLOCKERS, [pid]);
  return rows;
}

/** Looks again and again until `over`, and answers with whoever was seen last. */
export async function lastBlockers(session: Session, pid: number, over: () => boolean): Promise<Blocker[]> {
  let seen: Blocker[] = [];
  while (!over()) {
    const now = await blockersOf(session, pid);
    if (now.length > 0) seen = now;
    await sleep(50);
  }
  return seen;
}

const WAITING_FOR = `
  SELECT count(*)::int AS waiting FROM pg_stat_activity a
   WHERE a.wait_event_type = 'Lock' AND a.datname = current_database() AND a.backend_type <> 'autovacuum worker'
     AND a.application_name NOT LIKE 'verdigris %' AND $1 = ANY (pg_blocking_pids(a.pid))
     AND clock_timestamp() - a.query_start >= $2::float8 * interval '1 second'`;

/** How many sessions of others have a statement that waits for the session `pid`, for at least so long. */
export async function sessionsBlockedBy(session: Session, pid: number, atLeastSeconds = 0): Promise<number> {
  const { rows } = await session.query<{ waiting: number }>(WAITING_FOR, [pid, atLeastSeconds]);
  return rows[0]?.waiting ?? 0;
}

/** One line for people. */
export function describeBlockers(blockers: readonly Blocker[]): string {
  if (blockers.length === 0) return 'who held the lock is gone';
  return blockers
    .map(
      (b) => `pid ${b.pid} (${b.application}, ${b.kind}, transaction ${b.ageSeconds.toFixed(1)} s old: ${b.statement})`,
    )
    .join('; ');
}
