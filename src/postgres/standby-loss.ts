import { readProgress, writeProgress, type ProgressKey } from './migrate/progress-row.js';
import { walPosition, type ServerPosition } from './server-position.js';
import { partitionTree } from './partition-tree.js';
import type { Session } from './session.js';

/*
 * What a rollback would lose when the feed from green to blue has died: what was written on green after the last moment
 * at which blue was seen to have everything. That moment is written down on green while the feed lives.
 */

/** Where green stood at one moment. */
export interface GreenPosition {
  readonly lsn: string;
  /** Rows of the tables of the feed inserted, updated or deleted so far, by the statistics; null without tables. */
  readonly writes: number | null;
  /** Since when its statistics count: another moment, and they have begun anew. Not known to an earlier version. */
  readonly counting?: string;
  /** How many tables it is the sum of. Not known to an earlier version. */
  readonly tables?: number;
  /** The oid of the newest of them; null without tables. */
  readonly newest?: number | null;
  /** `HH:MM:SS` and the date, UTC. */
  readonly at: string;
}

/** The last moment at which blue had everything. */
export interface Confirmed extends GreenPosition {
  readonly blue: ServerPosition;
  /** Errors that its subscriptions had met by then; not known where an earlier version has written it. */
  readonly errors?: number;
  /** Set when the feed was dropped by us, since it held back too much WAL. */
  readonly dropped?: true;
}

/** Where the last such moment is written down, on green. */
function confirmedKey(runId: string): ProgressKey {
  return { runId, step: 'standby', object: 'confirmed' };
}

export async function readConfirmed(green: Session, runId: string): Promise<Confirmed | undefined> {
  return (await readProgress<Confirmed>(green, confirmedKey(runId)))?.state;
}

export async function writeConfirmed(green: Session, runId: string, confirmed: Confirmed): Promise<void> {
  await writeProgress(green, confirmedKey(runId), confirmed, false);
}

/**
 * Reads where green stands now. The counters are PostgreSQL's statistics: about a second late, gone after a crash, and those of
 * a replica are its own: both show in the archiver's reset, and a reset by hand in the database's.
 *
 * @param newest only tables that are no newer are counted as `tables`: one that has come since takes no writes away. Default: all
 */
export async function readGreenPosition(
  green: Session,
  feed: string,
  newest: number | null = null,
): Promise<GreenPosition> {
  const { rows } = await green.query<GreenPosition>(
    `WITH published AS (
       SELECT r.prrelid AS relid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
         JOIN pg_class c ON c.oid = r.prrelid
        WHERE (p.pubname = $1 OR p.pubname ~ ('^' || $1 || '_[0-9]+$')) AND c.relnamespace <> to_regnamespace('verdigris')),
     tables AS (SELECT DISTINCT tree.relid FROM published CROSS JOIN LATERAL ${partitionTree('published.relid')} tree)
     SELECT pg_current_wal_insert_lsn()::text AS lsn,
            (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::float8 FROM pg_stat_all_tables JOIN tables USING (relid)) AS writes,
            concat_ws('/', (SELECT extract(epoch FROM stats_reset) FROM pg_stat_archiver),
                      (SELECT extract(epoch FROM stats_reset) FROM pg_stat_database WHERE datname = current_database())) AS counting,
            (SELECT count(*)::int FROM tables WHERE relid <= coalesce($2::oid, relid)) AS tables,
            (SELECT max(relid)::bigint::float8 FROM tables) AS newest,
            to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS at`,
    [feed, newest],
  );
  return rows[0] ?? { lsn: '0/0', writes: null, at: 'unknown' };
}

/** What a rollback now would lose, in words: the best that green's records say. */
export async function describeLoss(green: Session, runId: string, feed: string): Promise<string> {
  const confirmed = await readConfirmed(green, runId);
  if (confirmed === undefined) {
    return 'what was written on green since the promotion and had not arrived on blue (how much is not known)';
  }
  const now = await readGreenPosition(green, feed, confirmed.newest);
  return lossBetween(confirmed, now);
}

/** The words for what was written between two moments. Pure. */
export function lossBetween(confirmed: GreenPosition, now: GreenPosition): string {
  const wal = formatSize(Number(walPosition(now.lsn) - walPosition(confirmed.lsn)));
  const since = `${confirmed.at} UTC`;
  const uncounted = (why: string): string =>
    `what was written on green since ${since} (${why}, so it can't be counted; ${wal} of WAL)`;
  const { writes: before, counting, tables } = confirmed;
  // What is counted from is gone with its table.
  if (tables !== undefined && (now.tables ?? tables) < tables) return uncounted('tables were dropped or detached');
  // Counters that went backwards, or count from another moment, were reset, or lost in a crash or a failover of green.
  const isReset = counting !== undefined && now.counting !== counting;
  if (isReset || before === null || now.writes === null || now.writes < before) {
    return uncounted('its statistics were reset');
  }
  const writes = now.writes - before;
  return `about ${writes} ${writes === 1 ? 'write' : 'writes'} (rows inserted, updated or deleted on green since ${since}; ${wal} of WAL)`;
}

function formatSize(bytes: number): string {
  if (bytes < 2 ** 20) return `${Math.max(0, Math.ceil(bytes / 1024))} kB`;
  return bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(1)} MB` : `${(bytes / 2 ** 30).toFixed(1)} GB`;
}
