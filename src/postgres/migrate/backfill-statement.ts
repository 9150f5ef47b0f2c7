import type { TableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import { ident, qualified } from '../identifier.js';
import { inTransaction, type Session } from '../session.js';
import { columnOf } from './changed-table.js';
import { columnsRead } from './expression-reads.js';
import type { Derived } from './plan-work.js';
import { differs } from './value-comparison.js';

/** The statement that brings the derived columns of some rows in order: an UPDATE of the rows of `leaf` in `where`. */
export interface BackfillStatement {
  /**
   * Computes each value once: a column that the run has added holds NULL until it is right. Rows whose values are NULL
   * for good are computed too, and left out by the trigger.
   */
  readonly update: (leaf: TableName, where: string) => string;
  /** Computes values to find out whether a row is to be written: better where most values are NULL for good. */
  readonly careful: (leaf: TableName, where: string) => string;
}

/** A condition that is true for rows whose derived column is not what the plan says. */
export interface WrongRows {
  readonly column: string;
  readonly condition: string;
}

/** How rows are told whose derived columns are not right: by the backfill before, and by the verification after. */
export function wrongRows(table: TableInfo, derived: readonly Derived[]): WrongRows[] {
  return derived.flatMap(({ column, kind, up }) => {
    if (up === undefined) return [];
    const name = ident(column);
    const info = columnOf(table, column);
    const condition = kind === 'fill' ? `${name} IS NULL` : differs(info, name, `CAST((${up}\n) AS ${info.type})`);
    return [{ column, condition }];
  });
}

/**
 * Builds the statement. Computed values are assigned by it, which is faster than by the trigger; a column that is
 * computed from another computed one is set to NULL instead, and the trigger computes it behind the first.
 *
 * @param added the columns that the run itself has added to the table.
 */
export async function backfillStatement(
  session: Session,
  table: TableInfo,
  derived: readonly Derived[],
  added: ReadonlySet<string>,
): Promise<BackfillStatement> {
  const withUp = derived.flatMap((item) =>
    item.up === undefined ? [] : [{ column: item.column, kind: item.kind, up: item.up }],
  );
  const targets = new Set(withUp.map(({ column }) => column));
  const assignments = new Map<string, string>();
  for (const { column, kind, up } of withUp) {
    const reads = await inTransaction(session, () => columnsRead(session, table, up));
    const chained = reads.some((name) => name !== column && targets.has(name));
    const name = ident(column);
    const value = kind === 'fill' ? `coalesce(${name}, (${up}\n))` : `(${up}\n)`;
    assignments.set(name, chained ? (kind === 'fill' ? name : 'NULL') : value);
  }
  const sets = [...assignments].map(([name, value]) => `${name} = ${value}`).join(', ');
  const startNull = await columnsWithoutDefault(session, table);
  const nullIsWrong = (column: string, kind: Derived['kind']): boolean =>
    kind === 'fill' || (added.has(column) && startNull.has(column));
  const wrong = new Map(wrongRows(table, derived).map(({ column, condition }) => [column, condition]));
  const quick = withUp.map(({ column, kind }) =>
    nullIsWrong(column, kind) ? `${ident(column)} IS NULL` : (wrong.get(column) ?? 'true'),
  );
  const careful = withUp.map(({ column, kind, up }) =>
    nullIsWrong(column, kind) ? `${ident(column)} IS NULL AND NOT ((${up}\n) IS NULL)` : (wrong.get(column) ?? 'true'),
  );
  // Expressions may name the table; the rows of a partitioned one are in its leaves.
  const updateWhere =
    (conditions: readonly string[]) =>
    (leaf: TableName, where: string): string =>
      `UPDATE ONLY ${qualified(leaf)} AS ${ident(table.name.name)} SET ${sets} WHERE ${where} AND (${conditions.map((c) => `(${c})`).join(' OR ')})`;
  return { update: updateWhere(quick), careful: updateWhere(careful) };
}

/** Columns whose value was NULL in every row when they were added. */
async function columnsWithoutDefault(session: Session, table: TableInfo): Promise<ReadonlySet<string>> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT a.attname AS name
       FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
      WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
        AND NOT a.atthasdef AND NOT a.atthasmissing AND t.typdefault IS NULL`,
    [table.oid],
  );
  return new Set(rows.map(({ name }) => name));
}
