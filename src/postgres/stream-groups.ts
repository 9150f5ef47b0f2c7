import { formatTableName, type TableName } from '../plan/table-name.js';
import { compareNames } from './catalog.js';
import type { Session } from './session.js';

/*
 * Which tables go together in one stream of a feed. Streams are applied independently of each other, so tables that a
 * foreign key binds stay in one: whoever reads green sees no order before its customer, and a TRUNCATE of both is
 * applied as one (of the one alone, PostgreSQL refuses it).
 */

/** Two tables that must be in the same stream. */
export type TableLink = readonly [TableName, TableName];

/** A table and what it weighs, bytes. */
export interface WeighedTable {
  readonly table: TableName;
  readonly bytes: number;
}

/** The tables of one stream that have been given to it already. */
export interface TakenTables {
  readonly tables: readonly TableName[];
}

/**
 * The foreign keys between tables, those of partitions included, and inheritance, by the names of the topmost parents.
 */
export async function readTableLinks(session: Session): Promise<TableLink[]> {
  const { rows } = await session.query<{ one: TableName; other: TableName }>(
    `SELECT DISTINCT jsonb_build_object('schema', n1.nspname, 'name', c1.relname) AS one,
                     jsonb_build_object('schema', n2.nspname, 'name', c2.relname) AS other
       FROM (SELECT conrelid AS one, confrelid AS other FROM pg_constraint WHERE contype = 'f'
              UNION
             SELECT inhrelid, inhparent FROM pg_inherits) link
       JOIN pg_class c1 ON c1.oid = coalesce(pg_partition_root(link.one), link.one)
       JOIN pg_class c2 ON c2.oid = coalesce(pg_partition_root(link.other), link.other)
       JOIN pg_namespace n1 ON n1.oid = c1.relnamespace
       JOIN pg_namespace n2 ON n2.oid = c2.relnamespace
      WHERE c1.relkind IN ('r', 'p') AND c2.relkind IN ('r', 'p') AND c1.oid <> c2.oid`,
  );
  return rows.map(({ one, other }) => [one, other]);
}

/** The bytes of tables on disk without their indexes, by `formatTableName`: those of all leaves for a partitioned one. */
export async function readTableBytes(session: Session): Promise<ReadonlyMap<string, number>> {
  const { rows } = await session.query<{ schema: string; name: string; bytes: string }>(
    `SELECT n.nspname AS schema, r.relname AS name, sum(coalesce(pg_table_size(c.oid), 0))::text AS bytes
       FROM pg_class c
       JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid)
       JOIN pg_namespace n ON n.oid = r.relnamespace
      WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
      GROUP BY 1, 2`,
  );
  return new Map(rows.map(({ schema, name, bytes }) => [formatTableName({ schema, name }), Number(bytes)]));
}

/**
 * Spreads tables over streams: those that links bind stay together, the largest group goes first, each to the stream
 * that has the least so far. Tables that a stream has `taken` already stay there, and draw theirs after them.
 *
 * @returns a list of tables for each stream; some are empty when there are fewer groups than streams.
 */
export function spreadTables(
  tables: readonly WeighedTable[],
  links: readonly TableLink[],
  streams: number,
  taken: readonly TakenTables[] = [],
): TableName[][] {
  const stream = new Map(taken.flatMap(({ tables: own }, i) => own.map((table) => [formatTableName(table), i])));
  const spread = Array.from({ length: streams }, () => ({ tables: [] as TableName[], bytes: 0 }));
  const groups = groupTables(tables, links).sort(
    (a, b) => weight(b) - weight(a) || compareNames(firstOf(a), firstOf(b)),
  );
  for (const group of groups) {
    const least = spread.reduce((best, one) => (isLess(one, best) ? one : best));
    const drawn = group.map(({ table }) => stream.get(formatTableName(table))).find((i) => i !== undefined);
    for (const { table, bytes } of group) {
      const own = stream.get(formatTableName(table)) ?? drawn;
      const to = (own === undefined ? undefined : spread[own]) ?? least;
      to.tables.push(table);
      to.bytes += bytes;
    }
  }
  return spread.map((one) => one.tables.sort(compareNames));
}

interface Load {
  readonly tables: readonly TableName[];
  readonly bytes: number;
}

/** Tables that are empty so far weigh nothing: they are counted. */
function isLess(a: Load, b: Load): boolean {
  return a.bytes !== b.bytes ? a.bytes < b.bytes : a.tables.length < b.tables.length;
}

/** The tables in groups closed under the links; links to tables that are not among them bind nothing. */
function groupTables(tables: readonly WeighedTable[], links: readonly TableLink[]): WeighedTable[][] {
  const groupOf = new Map<string, WeighedTable[]>(tables.map((table) => [formatTableName(table.table), [table]]));
  for (const [one, other] of links) {
    const [a, b] = [groupOf.get(formatTableName(one)), groupOf.get(formatTableName(other))];
    if (a === undefined || b === undefined || a === b) continue;
    // The smaller one, or tables that all refer to the same one would be moved again with each of them.
    const [to, from] = a.length < b.length ? [b, a] : [a, b];
    for (const moved of from) {
      to.push(moved);
      groupOf.set(formatTableName(moved.table), to);
    }
  }
  return [...new Set(groupOf.values())].map((group) => group.sort((x, y) => compareNames(x.table, y.table)));
}

function weight(group: readonly WeighedTable[]): number {
  return group.reduce((sum, { bytes }) => sum + bytes, 0);
}

function firstOf(group: readonly WeighedTable[]): TableName {
  return group[0]?.table ?? { schema: '', name: '' };
}
