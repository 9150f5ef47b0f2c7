import type { TableName } from '../plan/table-name.js';
import { PREVENTS_WRAPAROUND } from './blockers.js';
import { qualified } from './identifier.js';
import type { Session } from './session.js';

interface BlockerRow {
  pid: number | null;
  who: string;
  state: string | null;
  age: number | null;
  query: string | null;
}

/** What is told of a session `a` of pg_stat_activity: the same in each row, however many locks it holds. */
const BLOCKER = `a.pid,
            concat_ws(', ', coalesce(nullif(a.application_name, ''), 'no application name'), 'user ' || a.usename,
                      coalesce('client ' || host(a.client_addr), 'local socket'), 'database ' || a.datname,
                      CASE WHEN ${PREVENTS_WRAPAROUND} THEN 'a vacuum that prevents wraparound and yields to nobody' END,
                      CASE WHEN a.backend_type = 'walsender' THEN 'replicating' END,
                      CASE WHEN a.wait_event = 'SyncRep' THEN 'its commit waits for a synchronous standby' END) AS who,
            a.state, extract(epoch FROM statement_timestamp() - a.xact_start)::float8 AS age, left(a.query, 80) AS query`;

/** What is told of a transaction `x` of pg_prepared_xacts, in the same columns: it has no process. */
const PREPARED = `
            NULL::int AS pid, format('prepared transaction %s, user %s, database %s', x.gid, x.owner, x.database) AS who,
            'to be ended with COMMIT PREPARED or ROLLBACK PREPARED' AS state,
            extract(epoch FROM statement_timestamp() - x.prepared)::float8 AS age, NULL AS query`;

/** The prepared transactions among the holders of locks `l`: known by the lock that each has on its own id. */
const PREPARED_HOLDERS = `
       JOIN pg_locks own ON own.pid IS NULL AND own.virtualtransaction = l.virtualtransaction AND own.locktype = 'transactionid'
       JOIN pg_prepared_xacts x ON x.transaction = own.transactionid`;

/** Those who hold locks: what `locks` says of `l`, oldest first. */
function holdersSql(locks: string): string {
  return `SELECT * FROM (
       SELECT DISTINCT ${BLOCKER}
         FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.granted AND l.pid <> pg_backend_pid() AND ${locks}
       UNION
       SELECT ${PREPARED}
         FROM pg_locks l ${PREPARED_HOLDERS}
        WHERE l.granted AND l.pid IS NULL AND ${locks}) holder
      ORDER BY age DESC NULLS LAST LIMIT 3`;
}

const OF_THIS_DATABASE = 'l.database = (SELECT oid FROM pg_database WHERE datname = current_database())';

/** That a row `l` of pg_locks is about an advisory lock, as pg_advisory_lock(bigint) takes it, in any database. */
export function isAdvisoryLock(key: bigint): string {
  const [high, low] = [(key >> 32n) & 0xffffffffn, key & 0xffffffffn];
  return `l.locktype = 'advisory' AND l.objsubid = 1 AND l.classid::bigint = ${high} AND l.objid::bigint = ${low}`;
}

/** That somebody has it alone, in this database. */
export function isHeldAlone(key: bigint): string {
  return `${isAdvisoryLock(key)} AND ${OF_THIS_DATABASE} AND l.granted AND l.mode = 'ExclusiveLock'`;
}

/** Who holds locks on a table, for people: process, application, client, age of the transaction, start of the query. */
export async function whoBlocks(session: Session, table: TableName): Promise<string> {
  const { rows } = await session.query<BlockerRow>(holdersSql(`l.relation = to_regclass($1) AND ${OF_THIS_DATABASE}`), [
    qualified(table),
  ]);
  return `In the way: ${describe(rows)}.`;
}

/** Who holds an advisory lock: who has written and keeps the promotion waiting. */
export async function whoHoldsAdvisoryLock(session: Session, key: bigint): Promise<string> {
  return `Writing longest: ${await whoHolds(session, `${isAdvisoryLock(key)} AND ${OF_THIS_DATABASE}`)}.`;
}

/** Who holds locks `l` of pg_locks, in words. One plain statement. */
export async function whoHolds(session: Session, locks: string): Promise<string> {
  const { rows } = await session.query<BlockerRow>(holdersSql(locks));
  return describe(rows);
}

/** Who is behind transactions of pg_locks, by process or, where prepared, by the name that pg_locks has for them. */
export async function whoChanges(
  session: Session,
  changes: readonly { readonly pid: number | null; readonly transaction: string }[],
): Promise<string> {
  const { rows } = await session.query<BlockerRow>(
    `SELECT * FROM (
       SELECT ${BLOCKER} FROM pg_stat_activity a WHERE a.pid = ANY ($1::int[]) AND a.xact_start IS NOT NULL
       UNION
       SELECT ${PREPARED}
         FROM pg_locks l ${PREPARED_HOLDERS}
        WHERE l.pid IS NULL AND l.virtualtransaction = ANY ($2::text[])) holder
      ORDER BY age DESC NULLS LAST LIMIT 3`,
    [
      changes.flatMap(({ pid }) => (pid === null ? [] : [pid])),
      changes.flatMap(({ pid, transaction }) => (pid === null ? [transaction] : [])),
    ],
  );
  return `Changing: ${describe(rows)}.`;
}

/** Which transactions have written on this server, in any database: a slot waits for all of them. */
export async function whoHasWritten(session: Session): Promise<string> {
  return `Writing longest on its server: ${await writingLongest(session)}.`;
}

/** The oldest three of them, prepared ones too, in words. */
export async function writingLongest(session: Session): Promise<string> {
  return describe(await writers(session, { olderThanSeconds: 0, everywhere: true }));
}

/**
 * Transactions that have written and are older than that, prepared ones since their PREPARE; null where there is none. A young
 * one ends like any other: an application with two-phase commit has some at each moment.
 */
export async function longWriters(session: Session, which: WriterFilter): Promise<string | null> {
  const rows = await writers(session, which);
  return rows.length === 0 ? null : describe(rows);
}

interface WriterFilter {
  readonly olderThanSeconds: number;
  /** In every database of the server, and by workers of the server too; else by clients of this database. */
  readonly everywhere: boolean;
}

async function writers(session: Session, { olderThanSeconds, everywhere }: WriterFilter): Promise<BlockerRow[]> {
  const { rows } = await session.query<BlockerRow>(
    `SELECT * FROM (
       SELECT ${BLOCKER}
         FROM pg_stat_activity a
        WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid()
          AND ($2 OR (a.datname = current_database() AND a.backend_type = 'client backend'))
          AND a.xact_start < clock_timestamp() - make_interval(secs => $1)
       UNION ALL
       SELECT ${PREPARED}
         FROM pg_prepared_xacts x
        WHERE ($2 OR x.database = current_database())
          AND x.prepared < clock_timestamp() - make_interval(secs => $1)) writer
      ORDER BY age DESC LIMIT 3`,
    [olderThanSeconds, everywhere],
  );
  return rows;
}

/** The open transactions of these backends that are older than so many seconds; null where there is none. */
export async function openTransactions(
  session: Session,
  pids: readonly number[],
  olderThanSeconds: number,
): Promise<string | null> {
  const { rows } = await session.query<BlockerRow>(
    `SELECT ${BLOCKER}
       FROM pg_stat_activity a
      WHERE a.pid = ANY ($1::int[]) AND a.xact_start < clock_timestamp() - make_interval(secs => $2)
      ORDER BY a.xact_start LIMIT 3`,
    [pids, olderThanSeconds],
  );
  return rows.length === 0 ? null : describe(rows);
}

/**
 * Those of these backends that have been without a transaction for so many seconds, as a client in session mode keeps one,
 * and one that replicates; null where there is none.
 */
export async function heldSessions(
  session: Session,
  pids: readonly number[],
  forSeconds: number,
): Promise<string | null> {
  const { rows } = await session.query<BlockerRow>(
    `SELECT ${BLOCKER}
       FROM pg_stat_activity a
      WHERE a.pid = ANY ($1::int[]) AND a.xact_start IS NULL
        AND a.state_change < clock_timestamp() - make_interval(secs => $2)
      ORDER BY a.state_change LIMIT 3`,
    [pids, forSeconds],
  );
  return rows.length === 0 ? null : describe(rows);
}

const ALONE = `l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND ${OF_THIS_DATABASE}`;

/**
 * Who has a table to itself, or waits to have it: everybody who only wants to read it waits behind them. And whom these
 * wait for. Null when nobody does.
 */
export async function whoLocksReadersOut(session: Session): Promise<string | null> {
  const { rows } = await session.query<BlockerRow>(
    `SELECT * FROM (
       SELECT DISTINCT ${BLOCKER}
         FROM pg_locks l
         CROSS JOIN LATERAL (SELECT l.pid UNION SELECT unnest(pg_blocking_pids(l.pid))) AS b (pid)
         JOIN pg_stat_activity a ON a.pid = b.pid
        WHERE ${ALONE} AND l.pid <> pg_backend_pid()
       UNION
       SELECT ${PREPARED} FROM pg_locks l ${PREPARED_HOLDERS} WHERE ${ALONE} AND l.pid IS NULL) holder
      ORDER BY age DESC NULLS LAST LIMIT 3`,
  );
  return rows.length === 0 ? null : `Locking: ${describe(rows)}.`;
}

/** Of two rows of pg_locks. */
function ofSameThing(one: string, other: string): string {
  return ['locktype', 'database', 'relation', 'page', 'tuple', 'transactionid', 'classid', 'objid', 'objsubid']
    .map((column) => `${one}.${column} IS NOT DISTINCT FROM ${other}.${column}`)
    .join(' AND ');
}

/** Who holds what the workers of a feed wait for: sessions, and prepared transactions. */
export async function whoBlocksApply(session: Session, feed: string): Promise<string> {
  const ofFeed = `w.pid IS NOT NULL AND (w.subname = $1 OR starts_with(w.subname, $1 || '_'))`;
  const { rows } = await session.query<BlockerRow>(
    `SELECT * FROM (
       SELECT DISTINCT ${BLOCKER}
         FROM pg_stat_subscription w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b (pid)
         JOIN pg_stat_activity a ON a.pid = b.pid
        WHERE ${ofFeed}
       UNION
       SELECT ${PREPARED}
         FROM pg_stat_subscription w
         JOIN pg_locks waits ON waits.pid = w.pid AND NOT waits.granted
         JOIN pg_locks l ON l.granted AND l.pid IS NULL AND ${ofSameThing('l', 'waits')}
              ${PREPARED_HOLDERS}
        WHERE ${ofFeed} AND 0 = ANY (pg_blocking_pids(w.pid))) holder
      ORDER BY age DESC NULLS LAST LIMIT 3`,
    [feed],
  );
  return rows.length === 0 ? 'Its feed waits for nobody.' : `Its feed waits for ${describe(rows)}.`;
}

function describe(rows: readonly BlockerRow[]): string {
  if (rows.length === 0) return 'nobody any more';
  const list = rows.map(({ pid, who, state, age, query }) => {
    const known = [
      who,
      state,
      // A replication connection gives it as text.
      age === null ? 'no transaction' : `transaction ${Math.max(0, Number(age)).toFixed(1)} s old`,
      query === null || query === '' ? null : `last statement: ${firstWords(query)}`,
    ];
    const text = known.filter((part) => part !== null).join(', ');
    return pid === null ? text : `pid ${pid} (${text})`;
  });
  return list.join('; ');
}

/** The kind of a statement without its values: a query may hold what nobody should read in a log. */
function firstWords(query: string): string {
  return query
    .trim()
    .split(/\s+/)
    .slice(0, 3)
    .join(' ')
    .replaceAll(/'[^']*'?/g, "'...'")
    .replaceAll(/\$\w*\$.*$/g, '...')
    .replaceAll(/\b\d+\b/g, '...');
}
