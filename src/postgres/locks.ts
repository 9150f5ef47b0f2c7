import type { TableName } from '../plan/table-name.js';
import { qualified } from './identifier.js';
import type { Session } from './session.js';

interface BlockerRow {
  pid: number;
  application: string | null;
  state: string | null;
  age: number;
  query: string | null;
}

/** Who holds locks on a table, for people: process, application, age of the transaction, start of the query. */
export async function whoBlocks(session: Session, table: TableName): Promise<string> {
  const { rows } = await session.query<BlockerRow>(
    `SELECT a.pid, a.application_name AS application, a.state,
            extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age, left(a.query, 80) AS query
       FROM pg_locks l JOIN pg_stat_activity a USING (pid)
      WHERE l.relation = to_regclass($1) AND l.granted AND l.pid <> pg_backend_pid()
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      ORDER BY a.xact_start LIMIT 3`,
    [qualified(table)],
  );
  return describe(rows, 'In the way');
}

/** Who holds an advisory lock, or has the oldest open transaction that has written: who stands in the promotion's way. */
export async function whoHoldsAdvisoryLock(session: Session, key: bigint): Promise<string> {
  const { rows } = await session.query<BlockerRow>(
    `SELECT a.pid, a.application_name AS application, a.state,
            extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age, left(a.query, 80) AS query
       FROM pg_locks l JOIN pg_stat_activity a USING (pid)
      WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.pid <> pg_backend_pid()
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.classid::bigint = ($1::bigint >> 32) & 4294967295 AND l.objid::bigint = $1::bigint & 4294967295
      ORDER BY a.xact_start LIMIT 3`,
    [key.toString()],
  );
  return describe(rows, 'Writing longest');
}

function describe(rows: readonly BlockerRow[], label: string): string {
  if (rows.length === 0) return `${label}: nobody any more.`;
  const list = rows.map(
    (row) =>
      `pid ${row.pid} (${row.application === null || row.application === '' ? 'no application name' : row.application}, ${row.state ?? 'unknown'}, ` +
      `transaction ${(row.age ?? 0).toFixed(1)} s old, last statement: ${firstWords(row.query)})`,
  );
  return `${label}: ${list.join('; ')}.`;
}

/** The kind of a statement without its values: a query may hold what nobody should read in a log. */
function firstWords(query: string | null): string {
  return (query ?? '')
    .trim()
    .split(/\s+/)
    .slice(0, 3)
    .join(' ')
    .replaceAll(/'[^']*'?/g, "'...'");
}
