import type { TableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import { ident, qualified } from '../identifier.js';
import { inTransaction, type Session } from '../session.js';
import { columnOf } from './changed-table.js';
import { columnsRead } from './expression-reads.js';
import type { Derived } from './plan-work.js';
import { differs } from './value-comparison.js';

/** The statement that brings the derived columns of some rows in order. */
export interface BackfillStatement {
  /** UPDATE of the rows of `leaf` that `where` names and that are not right yet. */
  readonly update: (leaf: TableName, where: string) => string;
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
 */
export async function backfillStatement(
  session: Session,
  table: TableInfo,
  derived: readonly Derived[],
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
  const wrong = wrongRows(table, derived)
    .map(({ condition }) => `(${condition})`)
    .join(' OR ');
  return {
    // Expressions may name the table; the rows of a partitioned one are in its leaves.
    update: (leaf, where) =>
      `UPDATE ONLY ${qualified(leaf)} AS ${ident(table.name.name)} SET ${sets} WHERE ${where} AND (${wrong})`,
  };
}
