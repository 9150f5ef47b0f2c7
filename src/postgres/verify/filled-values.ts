import type { TableInfo } from '../catalog.js';
import { ident } from '../identifier.js';
import type { Derived } from '../migrate/plan-work.js';

/** A column that `setNotNull` fills, and what a row has there in the end. */
export interface FilledValue {
  readonly column: string;
  /** SQL over the table's row as blue has it. */
  readonly value: string;
  /** The same over a row in which the columns that are filled before have their values. */
  readonly own: string;
  /** Those of them that it may read. */
  readonly sources: readonly string[];
}

interface Fill {
  readonly column: string;
  readonly up: string;
  readonly own: string;
}

/**
 * The columns of a table that `setNotNull` fills, in the order in which they are. What one of them is filled from may itself
 * have been filled: so it is in the trigger, in the backfill and in the copy.
 */
export function filledValues(table: TableInfo, derived: readonly Derived[]): FilledValue[] {
  const fills = derived.flatMap(({ column, kind, up }): Fill[] => {
    const info = table.columns.find(({ name }) => name === column);
    if (kind !== 'fill' || up === undefined || info === undefined) return [];
    return [{ column, up, own: `coalesce(${ident(column)}, CAST((${up}\n) AS ${info.type}))` }];
  });
  return fills.map((fill, i) => {
    const sources = sourcesOf(table, fill, fills.slice(0, i));
    const value = sources.length === 0 ? fill.own : `(SELECT ${fill.own} ${filledRow(table, sources)})`;
    return { column: fill.column, own: fill.own, value, sources: sources.map(({ column }) => column) };
  });
}

/** At whatever distance, in the order in which they are filled. */
function sourcesOf(table: TableInfo, fill: Fill, earlier: readonly Fill[]): readonly Fill[] {
  const readers = [fill];
  for (const one of earlier.toReversed()) {
    if (readers.some(({ up }) => mayRead(table, up, one.column))) readers.unshift(one);
  }
  return readers.slice(0, -1);
}

/** By its text: one source too many only costs time. The name of the table may stand for the whole row. */
function mayRead(table: TableInfo, up: string, column: string): boolean {
  const text = up.toLowerCase();
  return [column, table.name.name, '*', 'u&'].some((part) => text.includes(part.toLowerCase()));
}

/** FROM of the row with the values of these columns, under the table's name; each level knows those below it. */
function filledRow(table: TableInfo, fills: readonly Fill[]): string {
  const alias = ident(table.name.name);
  return fills.reduce((from, { column, own }) => {
    const items = table.columns.map(({ name }) => (name === column ? `${own} AS ${ident(name)}` : ident(name)));
    return `FROM (SELECT ${items.join(', ')} ${from}) AS ${alias}`;
  }, '');
}
