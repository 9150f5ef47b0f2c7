import { columnOf } from '../migrate/changed-table.js';
import type { WrongRows } from '../migrate/backfill-statement.js';
import type { TableWork } from '../migrate/plan-work.js';
import { differs } from '../migrate/value-comparison.js';
import type { TableInfo } from '../catalog.js';
import { ident } from '../identifier.js';
import type { Session } from '../session.js';

/*
 * New columns without an `up`: until the writes are moved nobody but the feed writes green, so every row has what the
 * column's default is, whether it was there before the column or has come since.
 */

/** What new columns without an `up` must not be, and those of which that can't be said. */
export interface NewColumns {
  readonly checks: readonly WrongRows[];
  readonly leftOut: readonly string[];
}

interface DefaultRow {
  readonly name: string;
  /** As the catalog has it: a `'now'` in it is a fixed time by now. */
  readonly expression: string | null;
  /** It gets its value from elsewhere: from a sequence, or from its domain. */
  readonly elsewhere: boolean;
}

/**
 * @param session on green, with the search_path of the table's expressions.
 * @param source the table on blue.
 * @param mayBeWritten whether SQL of the plan may have written the columns, or changed their defaults.
 */
export async function newColumns(
  session: Session,
  table: TableInfo,
  { columns, derived }: TableWork,
  source: TableInfo,
  mayBeWritten: boolean,
): Promise<NewColumns> {
  const known = new Set([
    ...derived.filter(({ up }) => up !== undefined).map(({ column }) => column),
    // Not new then: it is compared, or left out, as any other.
    ...source.columns.map(({ name }) => name),
  ]);
  const names = columns.map(({ name }) => name).filter((name) => !known.has(name));
  if (names.length === 0 || mayBeWritten) return { checks: [], leftOut: names };
  const defaults = await readDefaults(session, table, names);
  const checks: WrongRows[] = [];
  for (const column of names) {
    const info = columnOf(table, column);
    const found = defaults.get(column);
    if (found === undefined || found.elsewhere) continue;
    const name = ident(column);
    if (found.expression === null) checks.push({ column, condition: `${name} IS NOT NULL` });
    else if (await isConstant(session, found.expression)) {
      checks.push({ column, condition: differs(info, name, `CAST((${found.expression}) AS ${info.type})`) });
    }
  }
  return { checks, leftOut: names.filter((name) => !checks.some(({ column }) => column === name)) };
}

async function readDefaults(
  session: Session,
  { oid }: TableInfo,
  names: readonly string[],
): Promise<ReadonlyMap<string, DefaultRow>> {
  const { rows } = await session.query<DefaultRow>(
    `SELECT a.attname AS name, pg_get_expr(d.adbin, d.adrelid) AS expression,
            a.attidentity <> '' OR a.attgenerated <> '' OR (d.oid IS NULL AND t.typdefault IS NOT NULL) AS elsewhere
       FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
       LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE a.attrelid = $1::oid AND a.attname = ANY ($2::text[]) AND NOT a.attisdropped`,
    [oid, names],
  );
  return new Map(rows.map((row) => [row.name, row]));
}

/** The planner computes beforehand what is immutable: of anything else a filter is left in the plan. */
async function isConstant(session: Session, expression: string): Promise<boolean> {
  const { rows } = await session.query<{
    'QUERY PLAN': readonly { readonly Plan: Readonly<Record<string, unknown>> }[];
  }>(`EXPLAIN (FORMAT JSON) SELECT WHERE (${expression}) IS NULL`);
  const filter = rows[0]?.['QUERY PLAN'][0]?.Plan['One-Time Filter'];
  return filter === undefined || filter === 'false';
}
