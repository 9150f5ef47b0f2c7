import type { TableName } from '../plan/table-name.js';
import type { TablePatterns } from './catalog-pattern.js';
import { tableFilter } from './catalog-pattern.js';
import { USER_SCHEMA, compareNames } from './catalog.js';
import type { Session } from './session.js';

/** A relation with rows that the plan's patterns name, and that logical replication leaves behind. */
export interface UnmovedTable {
  readonly name: TableName;
  readonly kind: 'unlogged' | 'foreign' | 'materializedView' | 'extensionTable' | 'addedToExtension';
  /** The topmost parent when it is a partition of a table that is moved; null otherwise. */
  readonly partitionOf: TableName | null;
  /** The extension that it belongs to; null unless its kind says so. */
  readonly extension: string | null;
}

/**
 * What carries rows and is not replicated: unlogged and foreign tables, materialized views, the tables of extensions whose
 * rows are the user's (pg_extension_config_dump), such as cron.job, and tables that somebody has added to an extension.
 */
export async function readUnmovedTables(session: Session, patterns: TablePatterns): Promise<UnmovedTable[]> {
  const named = tableFilter(patterns);
  const { rows } = await session.query<{
    schema: string;
    name: string;
    kind: UnmovedTable['kind'];
    root_schema: string | null;
    root_name: string | null;
    extension: string | null;
  }>(UNMOVED);
  return rows
    .map((row) => ({
      name: { schema: row.schema, name: row.name },
      kind: row.kind,
      partitionOf:
        row.root_schema === null || row.root_name === null ? null : { schema: row.root_schema, name: row.root_name },
      extension: row.extension,
    }))
    .filter((table) => table.kind === 'extensionTable' || named(table.partitionOf ?? table.name))
    .sort((a, b) => compareNames(a.name, b.name));
}

const OF_EXTENSION = `o.refclassid = 'pg_extension'::regclass AND o.refobjid = e.oid AND o.deptype = 'e'`;

/**
 * A condition: the table `d.objid` came to its extension `e` by ALTER EXTENSION ... ADD and not by a script of it, which makes
 * functions and types in the same transaction. No catalog says so: it is told by the transactions, and not told where pg_upgrade
 * has added every member by itself.
 */
const ADDED = `(
  d.xmin <> e.xmin
  AND NOT EXISTS (SELECT FROM pg_depend o WHERE ${OF_EXTENSION} AND o.classid <> d.classid AND o.xmin = d.xmin)
  AND EXISTS (SELECT FROM pg_depend o WHERE ${OF_EXTENSION} GROUP BY o.xmin HAVING count(*) > 1 OR o.xmin = e.xmin))`;

const UNMOVED = `
SELECT n.nspname AS schema, c.relname AS name,
       CASE WHEN c.oid = ANY (e.extconfig) THEN 'extensionTable'
            WHEN e.extname IS NOT NULL THEN 'addedToExtension'
            WHEN c.relkind = 'f' THEN 'foreign'
            WHEN c.relkind = 'm' THEN 'materializedView' ELSE 'unlogged' END AS kind,
       rn.nspname AS root_schema, r.relname AS root_name, e.extname AS extension
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_class r ON r.oid = pg_partition_root(c.oid) AND r.oid <> c.oid
  LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
  LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
  LEFT JOIN pg_extension e ON e.oid = d.refobjid
 WHERE ${USER_SCHEMA}
   AND CASE WHEN e.oid IS NOT NULL THEN c.relkind IN ('r', 'p') AND (coalesce(c.oid = ANY (e.extconfig), false) OR ${ADDED})
            ELSE c.relkind IN ('f', 'm') OR (c.relkind IN ('r', 'p') AND c.relpersistence = 'u') END`;
