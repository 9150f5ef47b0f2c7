import { VerdigrisError } from '../../errors.js';
import type { TableName } from '../../plan/table-name.js';
import { formatTableName } from '../../plan/table-name.js';
import { readTablesWithPartitions, sameTable, type ColumnInfo, type TableInfo } from '../catalog.js';
import { partitionTree } from '../partition-tree.js';
import type { Session } from '../session.js';

/** A table that the plan changes, as it is now. */
export interface ChangedTable {
  readonly info: TableInfo;
  /** The tables that hold its rows: itself, or the leaves of a partitioned one. */
  readonly leaves: readonly TableInfo[];
  /** What the plan's expressions on this table are resolved in. */
  readonly searchPath: string;
}

/** Reads the table; undefined when there is none of that name. */
export async function findTable(session: Session, table: TableName): Promise<ChangedTable | undefined> {
  return findIn(session, await readTablesWithPartitions(session, [table]), table);
}

/**
 * Reads several tables with one look at the catalog.
 *
 * @throws VerdigrisError MigrationStepFailed when one is not there.
 */
export async function readChangedTables(session: Session, tables: readonly TableName[]): Promise<ChangedTable[]> {
  const all = await readTablesWithPartitions(session, tables);
  const found: ChangedTable[] = [];
  for (const table of tables) found.push((await findIn(session, all, table)) ?? missing(table));
  return found;
}

async function findIn(
  session: Session,
  all: readonly TableInfo[],
  table: TableName,
): Promise<ChangedTable | undefined> {
  const info = all.find((candidate) => sameTable(candidate.name, table));
  if (info === undefined) return undefined;
  const leaves =
    info.kind === 'partitioned'
      ? all.filter((candidate) => candidate.kind === 'partition' && sameTable(candidate.root, info.root))
      : [info];
  return { info, leaves, searchPath: await expressionPath(session, table.schema) };
}

/** @throws VerdigrisError MigrationStepFailed when there is no such table. */
export async function readTable(session: Session, table: TableName): Promise<ChangedTable> {
  return (await findTable(session, table)) ?? missing(table);
}

function missing(table: TableName): never {
  throw new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `there is no table ${formatTableName(table)} (or it is temporary, unlogged or part of an extension)`,
    nextStep: 'correct the name in the plan; without quotes a name is taken with its case as it is',
  });
}

/** @throws VerdigrisError MigrationStepFailed when the table has no such column. */
export function columnOf(table: TableInfo, name: string): ColumnInfo {
  const column = table.columns.find((candidate) => candidate.name === name);
  if (column !== undefined) return column;
  throw new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `table ${formatTableName(table.name)} has no column "${name}"`,
    nextStep: 'correct the name in the plan',
  });
}

/** A table, its leaves at whatever level, and the levels between: everything that a row trigger must stand on. */
export const WITH_PARTITIONS = `
  SELECT tree.relid FROM ${partitionTree('$1::regclass')} tree`;

/**
 * The search_path of the plan's expressions: PostgreSQL's own names first, then the table's schema, public and the
 * schemas of extensions, so that user functions and extensions' operators are found in every session, the apply
 * worker's empty search_path included. Temporary objects last: nobody's temporary function stands in for a real one.
 */
export async function expressionPath(session: Session, schema: string): Promise<string> {
  const { rows } = await session.query<{ path: string }>(
    `SELECT string_agg(quote_ident(s.name), ', ' ORDER BY s.rank, s.name) AS path
       FROM (SELECT name, min(rank) AS rank
               FROM (VALUES ('pg_catalog', 1), ($1::text, 2), ('public', 3), ('pg_temp', 5)) v (name, rank)
                    FULL JOIN (SELECT DISTINCT n.nspname::text AS name, 4 AS rank
                                 FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace) x USING (name, rank)
              GROUP BY name) s`,
    [schema],
  );
  return rows[0]?.path ?? 'pg_catalog';
}
