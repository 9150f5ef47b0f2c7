import type { TableName } from '../plan/table-name.js';
import { tableFilter, type TablePatterns } from './catalog-pattern.js';
import { USER_SCHEMA } from './catalog.js';
import { qualified } from './identifier.js';
import type { Session } from './session.js';

const TABLES = `
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid)
  JOIN pg_namespace rn ON rn.oid = r.relnamespace
 WHERE c.relkind IN ('r', 'p') AND ${USER_SCHEMA}`;

const OF_EXTENSION = `EXISTS (SELECT FROM pg_depend d
         WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')`;

/** A table by its name, with its topmost parent's: the plan's patterns are held against that one. */
export interface NewTable {
  readonly name: string;
  readonly root_schema: string;
  readonly root_name: string;
}

/** Tables that were made after the fence was armed, of whatever schema. */
export function newTablesSql(known: readonly number[]): string {
  return `SELECT c.oid::regclass::text AS name, rn.nspname::text AS root_schema, r.relname::text AS root_name ${TABLES}
     AND c.oid <> ALL ('{${known.join(',')}}'::oid[]) AND NOT ${OF_EXTENSION}`;
}

/** Whether the plan moves a table that is new. */
export function isMoved(patterns: TablePatterns): (table: NewTable) => boolean {
  const moved = tableFilter(patterns);
  return (table) => moved({ schema: table.root_schema, name: table.root_name });
}

/**
 * The tables that are there now, by oid: what `knownTables` is made from. One that the plan moves and that is not fenced
 * was made since the tables to fence were read: it is new as well.
 */
export async function readKnownTables(
  session: Session,
  { fenced, patterns }: { readonly fenced: readonly TableName[]; readonly patterns?: TablePatterns | undefined },
): Promise<number[]> {
  const { rows } = await session.query<NewTable & { oid: number; schema: string; of_extension: boolean }>(
    `SELECT c.oid, n.nspname AS schema, c.relname AS name, rn.nspname AS root_schema, r.relname AS root_name,
            ${OF_EXTENSION} AS of_extension ${TABLES}`,
  );
  const isFenced = new Set(fenced.map(qualified));
  const moved = patterns === undefined ? () => false : isMoved(patterns);
  return rows
    .filter((table) => table.of_extension || !moved(table) || isFenced.has(qualified(table)))
    .map(({ oid }) => oid);
}
