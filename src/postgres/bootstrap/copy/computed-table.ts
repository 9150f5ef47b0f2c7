import { inTransaction, type Session } from '../../session.js';
import { isTransient } from '../../migrate/step-failed.js';
import { domainDefaults } from '../../migrate/expand-table.js';
import { columnsRead, expressionTree } from '../../migrate/expression-reads.js';
import { readTable } from '../../migrate/changed-table.js';
import { isSameEverywhere } from '../../same-answers.js';
import type { TableWork } from '../../migrate/plan-work.js';
import type { TableInfo } from '../../catalog.js';
import { copyQuery, type ComputedColumn, type ComputedColumns, type ConstantColumn } from './copy-query.js';
import { castFailsInSample, swiftJsonb } from './swift-jsonb.js';

/** What blue computes for one table of the plan, and how it finds what the expressions name. */
export interface ComputedTable {
  readonly columns: ComputedColumns;
  readonly searchPath: string;
}

interface ColumnType {
  /** Without length or precision; that below a domain which has a length. */
  readonly type: string;
  readonly hasModifier: boolean;
  /** The domain, where it has a length. */
  readonly domain?: string;
  /** Elements of the type are of a domain that has a length: a cast would cut them. */
  readonly isCutInside: boolean;
}

const UNKNOWN: ColumnType = { type: 'text', hasModifier: true, isCutInside: false };

/**
 * Whether blue can compute the new columns of a table as green's trigger would, and how. The new columns must be on
 * green already. Undefined where blue can't: a function that it lacks, the row as a whole (which lacks the new columns
 * there), a column whose length a later expression relies on, a domain's length in an array, the default of a domain.
 */
export async function computedTable(
  blue: Session,
  green: Session,
  work: TableWork,
): Promise<ComputedTable | undefined> {
  const onGreen = await readTable(green, work.table);
  const columns = await computedColumns(green, onGreen.info, onGreen.searchPath, work);
  if (columns === undefined) return undefined;
  const { info, searchPath } = await readTable(blue, work.table);
  const query = copyQuery(info, info.name.name, onGreen.info, columns).select('true');
  try {
    await inTransaction(blue, async () => {
      await blue.query(`SELECT set_config('search_path', $1, true)`, [searchPath]);
      // Planned only: an `up` may take its time.
      await blue.query(`EXPLAIN ${query}`);
    });
  } catch (error) {
    if (isTransient(error)) throw error;
    return undefined;
  }
  const computed: ComputedColumn[] = [];
  for (const column of columns.computed) computed.push(await withSwiftForm(blue, info, column));
  return { columns: { ...columns, computed }, searchPath };
}

/**
 * Whether green gives the same values for a table's new columns as a blue of another version or locale. Green's are those
 * that count: its trigger computes them from then on, and the verification compares with its answer.
 */
export async function isSameOnGreen(green: Session, work: TableWork): Promise<boolean> {
  const { info, searchPath } = await readTable(green, work.table);
  return inTransaction(green, async () => {
    await green.query(`SELECT set_config('search_path', $1, true)`, [searchPath]);
    for (const { up } of work.derived) {
      if (up === undefined) continue;
      if (!(await isSameEverywhere(green, await expressionTree(green, info, up)))) return false;
    }
    return true;
  });
}

async function withSwiftForm(blue: Session, table: TableInfo, column: ComputedColumn): Promise<ComputedColumn> {
  const swift = column.chained ? undefined : swiftJsonb(column.up, table);
  if (swift === undefined || (await castFailsInSample(blue, column.up, table))) return column;
  return { ...column, swift };
}

async function computedColumns(
  green: Session,
  table: TableInfo,
  searchPath: string,
  work: TableWork,
): Promise<ComputedColumns | undefined> {
  const types = await columnTypes(green, table);
  const typeOf = (column: string): ColumnType => types.get(column) ?? UNKNOWN;
  const ofDomains = await domainDefaults(green, table);
  const withUp = work.derived.filter(({ up }) => up !== undefined).map(({ column }) => column);
  const constants = new Map<string, ConstantColumn>();
  const constant = (name: string): void => {
    const column = work.columns.find((added) => added.name === name);
    if (column === undefined) return;
    constants.set(name, { column: name, value: column.default ?? 'NULL', type: column.type });
  };
  const isNew = (name: string): boolean => work.columns.some((added) => added.name === name);
  const computed: ComputedColumn[] = [];
  for (const { column, kind, up } of work.derived) {
    if (up === undefined) continue;
    const reads = await inTransaction(green, async () => {
      await green.query(`SELECT set_config('search_path', $1, true)`, [searchPath]);
      return columnsRead(green, table, up);
    });
    const earlier = new Set(computed.map((other) => other.column));
    const others = reads.filter((name) => name !== column);
    const fromLater = others.some((name) => withUp.includes(name) && !earlier.has(name));
    const fromItself = reads.includes(column) && kind === 'compute';
    const fromCut = others.some((name) => earlier.has(name) && typeOf(name).hasModifier);
    const { type, domain, isCutInside } = typeOf(column);
    if (fromLater || fromItself || fromCut || isCutInside) return undefined;
    const fixed = others.filter((name) => !withUp.includes(name));
    if (kind === 'fill') fixed.push(column);
    if (fixed.some((name) => isNew(name) && ofDomains.has(name))) return undefined;
    for (const name of fixed) constant(name);
    const chained = others.some((name) => earlier.has(name));
    computed.push({ column, up, kind, chained, type, ...(domain === undefined ? {} : { domain }) });
  }
  return { constants: [...constants.values()], computed };
}

async function columnTypes(session: Session, table: TableInfo): Promise<ReadonlyMap<string, ColumnType>> {
  const { rows } = await session.query<{
    name: string;
    type: string;
    base: string | null;
    modified: boolean;
    inside: boolean;
  }>(COLUMN_TYPES, [table.oid]);
  return new Map(
    rows.map(({ name, type, base, modified, inside: isCutInside }) => [
      name,
      base === null
        ? { type, hasModifier: modified, isCutInside }
        : { type: base, hasModifier: true, domain: type, isCutInside },
    ]),
  );
}

/**
 * The columns' types with what they consist of: `whole` are domains and what they are made over, the others elements.
 * Explicit casts to a length of these four types cut, while what is assigned to them must fit.
 */
const COLUMN_TYPES = `
WITH RECURSIVE parts (attnum, type, modifier, whole, depth) AS (
  SELECT attnum, atttypid, atttypmod, true, 0
    FROM pg_attribute WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped
  UNION ALL
  SELECT parts.attnum, part.type, part.modifier, parts.whole AND t.typtype = 'd', parts.depth + 1
    FROM parts JOIN pg_type t ON t.oid = parts.type
   CROSS JOIN LATERAL (
         SELECT t.typbasetype, t.typtypmod WHERE t.typtype = 'd'
         UNION ALL
         SELECT t.typelem, -1 WHERE t.typcategory = 'A' AND t.typtype <> 'd') part (type, modifier)),
cut AS (
  SELECT attnum, bool_or(whole AND depth > 0) AS domain, bool_or(NOT whole) AS inside
    FROM parts
   WHERE modifier <> -1
     AND type = ANY ('{varchar,bpchar,bit,varbit,varchar[],bpchar[],bit[],varbit[]}'::regtype[]::oid[])
   GROUP BY attnum)
SELECT a.attname AS name, format_type(a.atttypid, -1) AS type, a.atttypmod <> -1 AS modified,
       coalesce(cut.inside, false) AS inside,
       CASE WHEN cut.domain THEN (SELECT format_type(type, -1) FROM parts
                                   WHERE parts.attnum = a.attnum AND whole ORDER BY depth DESC LIMIT 1) END AS base
  FROM pg_attribute a LEFT JOIN cut ON cut.attnum = a.attnum
 WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped`;
