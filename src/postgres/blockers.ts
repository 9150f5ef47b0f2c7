import type { Session } from './session.js';

/** A session that another one waits for, or that waits for another one. */
export interface Blocker {
  readonly pid: number;
  readonly application: string;
  readonly user: string;
  /** `client backend`, `autovacuum worker`, `logical replication worker` ..., or one that prevents wraparound. */
  readonly kind: string;
  /** Age of its transaction. */
  readonly ageSeconds: number;
  /** Age of its statement; of the last one where it is idle in its transaction. */
  readonly statementSeconds: number;
  /** The first words of its statement: a whole one may hold values that nobody should read in a log. */
  readonly statement: string;
}

/** A session of the application that waits for one of ours. */
export interface HeldUp extends Blocker {
  /** Since when it waits. */
  readonly waitSeconds: number;
}

/** The kind of a worker that gives way to whoever waits for its lock for long enough. */
export const AUTOVACUUM = 'autovacuum worker';

/** Whether a row `a` of pg_stat_activity is a vacuum that gives way to nobody. */
export const PREVENTS_WRAPAROUND = `(a.backend_type = '${AUTOVACUUM}' AND a.query LIKE '%(to prevent wraparound)')`;

/** Without pg_monitor a role does not see the kind of others' sessions, only that an autovacuum has no user. */
const KIND = `CASE WHEN ${PREVENTS_WRAPAROUND} THEN '${AUTOVACUUM} that prevents wraparound and yields to nobody'
              WHEN a.backend_type IS NULL AND a.usesysid IS NULL THEN '${AUTOVACUUM}'
              ELSE coalesce(a.backend_type, 'client backend') END`;

/** What is told of a session `a` of pg_stat_activity; of other users' it is less without pg_monitor. */
const TOLD = `a.pid, coalesce(nullif(a.application_name, ''), 'no application name') AS application,
         coalesce(a.usename, '')::text AS user, ${KIND} AS kind,
         coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8 AS "ageSeconds",
         coalesce(extract(epoch FROM clock_timestamp() - a.query_start), 0)::float8 AS "statementSeconds",
         coalesce(rtrim(regexp_replace(regexp_replace(
           substring(ltrim(a.query) FROM '^(?:\\S+\\s*){1,3}'), '(''|\\$\\w*\\$).*$', '...'), '\\m\\d+\\M', '...', 'g')), '') AS statement`;

/** One of our sessions by its process, or several by their application_name. */
export type Ours = { readonly pid: number } | { readonly application: string };

/** Whether a row `o` of pg_stat_activity is one of ours: the pid is $1, the name $2. */
const IS_OURS = `(o.pid = $1 OR (o.application_name = $2 AND o.datname = current_database()))`;

function parameters(ours: Ours): [number | null, string | null] {
  return 'pid' in ours ? [ours.pid, null] : [null, ours.application];
}

/**
 * Whether anybody on the server waits for a lock. Asked before who waits for whom, since both pg_locks and
 * pg_blocking_pids() stop the lock manager for as long as they look, on a busy machine for milliseconds. A role that sees
 * others' sessions gets the answer without it.
 */
export async function somebodyWaits(session: Session): Promise<boolean> {
  const { rows } = await session.query<{ waits: boolean }>({
    name: 'verdigris_somebody_waits',
    text: `SELECT CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE')
                       THEN EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')
                       ELSE EXISTS (SELECT FROM pg_locks WHERE NOT granted) END AS waits`,
  });
  return rows[0]?.waits ?? true;
}

const BLOCKERS = `
  SELECT ${TOLD}
    FROM (SELECT DISTINCT unnest(pg_blocking_pids(o.pid)) AS pid FROM pg_stat_activity o WHERE ${IS_OURS}) b
    JOIN pg_stat_activity a USING (pid)
   ORDER BY a.xact_start LIMIT 3`;

/** Who a session of ours waits for right now. */
export async function blockersOf(session: Session, ours: Ours): Promise<Blocker[]> {
  const { rows } = await session.query<Blocker>(BLOCKERS, parameters(ours));
  return rows;
}

/*
 * From pg_locks, which everybody may read. A vacuum waits for nobody's sake, and sessions of ours know each other. The
 * worker of a feed counts where asked for: elsewhere that it waits is lag, which has limits of its own.
 */
const HELD_UP = `
  SELECT * FROM (
    SELECT DISTINCT ON (a.pid) ${TOLD}, extract(epoch FROM clock_timestamp() - l.waitstart)::float8 AS "waitSeconds"
      FROM pg_locks l JOIN pg_stat_activity a USING (pid)
     WHERE NOT l.granted AND l.waitstart IS NOT NULL AND a.datname = current_database()
       AND coalesce(a.backend_type, 'client backend') IN ('client backend', $4) AND a.application_name NOT LIKE 'verdigris %'
       AND EXISTS (SELECT FROM pg_stat_activity o
                    WHERE ${IS_OURS} AND o.pid = ANY (pg_blocking_pids(l.pid)))
     ORDER BY a.pid, l.waitstart) w
   WHERE "waitSeconds" >= $3::float8 ORDER BY "waitSeconds" DESC LIMIT 3`;

/**
 * Which sessions of the application have waited for ours for at least so long, the longest first; at most three.
 *
 * @param feeds whether workers of a feed count, too
 */
export async function heldUpBy(session: Session, ours: Ours, atLeastSeconds: number, feeds = false): Promise<HeldUp[]> {
  const more = feeds ? 'logical replication worker' : 'client backend';
  const { rows } = await session.query<HeldUp>(HELD_UP, [...parameters(ours), atLeastSeconds, more]);
  return rows;
}

/** One line for people. */
export function describeBlockers(blockers: readonly Blocker[]): string {
  if (blockers.length === 0) return 'who held the lock is gone';
  return blockers
    .map(
      (b) =>
        `pid ${b.pid} (${b.application}, user ${b.user}, ${b.kind}, transaction ${b.ageSeconds.toFixed(1)} s old, statement ${b.statementSeconds.toFixed(1)} s: ${b.statement})`,
    )
    .join('; ');
}

/** One line for people: who has waited for us, and for how long. */
export function describeHeldUp(waiting: readonly HeldUp[]): string {
  return waiting
    .map(
      (w) =>
        `pid ${w.pid} (${w.application}, user ${w.user}: ${w.statement}) has waited for it for ${w.waitSeconds.toFixed(1)} s`,
    )
    .join('; ');
}
