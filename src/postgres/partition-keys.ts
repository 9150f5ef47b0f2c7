import { formatTableName } from '../plan/table-name.js';
import type { Session } from './session.js';

/**
 * The columns by which the rows of partitioned tables go into their partitions, at every level and in expressions too, by
 * `formatTableName` of the topmost parent.
 */
export async function readPartitionKeys(session: Session): Promise<ReadonlyMap<string, readonly string[]>> {
  const { rows } = await session.query<{ schema: string; name: string; columns: string[] }>(
    `SELECT n.nspname AS schema, root.relname AS name, array_agg(DISTINCT a.attname::text) AS columns
       FROM pg_partitioned_table p
       JOIN pg_class root ON root.oid = coalesce(pg_partition_root(p.partrelid), p.partrelid)
       JOIN pg_namespace n ON n.oid = root.relnamespace
       JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum > 0
      WHERE a.attnum = ANY (p.partattrs::int2[])
         -- The table keeps the columns that its key's expressions read.
         OR EXISTS (SELECT FROM pg_depend d
                     WHERE d.classid = 'pg_class'::regclass AND d.objid = p.partrelid AND d.objsubid = a.attnum
                       AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.partrelid AND d.refobjsubid = 0
                       AND d.deptype = 'i')
      GROUP BY 1, 2`,
  );
  return new Map(rows.map((row) => [formatTableName(row), row.columns]));
}
