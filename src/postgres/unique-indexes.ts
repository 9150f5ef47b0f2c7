import { formatTableName } from '../plan/table-name.js';
import { USER_SCHEMA } from './catalog.js';
import type { Session } from './session.js';

/** The indexes that refuse rows, or that tell the rows of a table apart for the replication, by `formatTableName` of the table. */
export async function readUniqueIndexes(session: Session): Promise<ReadonlyMap<string, readonly string[]>> {
  const { rows } = await session.query<{ schema: string; name: string; indexes: string[] }>(
    `SELECT n.nspname AS schema, c.relname AS name, array_agg(i.relname::text ORDER BY i.relname) AS indexes
       FROM pg_index x
       JOIN pg_class i ON i.oid = x.indexrelid
       JOIN pg_class c ON c.oid = x.indrelid
       JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE x.indisunique AND x.indisvalid AND ${USER_SCHEMA}
      GROUP BY 1, 2`,
  );
  return new Map(rows.map((row) => [formatTableName(row), row.indexes]));
}
