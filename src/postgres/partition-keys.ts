import { formatTableName } from '../plan/table-name.js';
import type { Session } from './session.js';

/**
 * The columns by which the rows of partitioned tables go into their partitions, at every level, by `formatTableName` of the
 * topmost parent. Not those that expressions read: PostgreSQL gives such a table no key, and without one it is not moved.
 */
export async function readPartitionKeys(session: Session): Promise<ReadonlyMap<string, readonly string[]>> {
  const { rows } = await session.query<{ schema: string; name: string; columns: string[] }>(
    `SELECT n.nspname AS schema, root.relname AS name, array_agg(DISTINCT a.attname::text) AS columns
       FROM pg_partitioned_table p
       JOIN pg_class root ON root.oid = coalesce(pg_partition_root(p.partrelid), p.partrelid)
       JOIN pg_namespace n ON n.oid = root.relnamespace
       JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs::int2[])
      WHERE a.attnum > 0
      GROUP BY 1, 2`,
  );
  return new Map(rows.map((row) => [formatTableName(row), row.columns]));
}
