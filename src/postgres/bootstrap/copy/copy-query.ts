import type { TableName } from '../../../plan/table-name.js';
import type { TableInfo } from '../../catalog.js';
import { ident, literal, qualified } from '../../identifier.js';

/*
 * The two statements of a copy. New columns are computed on blue by the plan's `up`, so that they cost no second write
 * of the row. A value is cast to the type of the column but never to its length: explicit casts cut text silently, while
 * the column itself refuses what is too long, as an assignment does. So it is with a domain that has a length.
 */

/** A new column that blue computes. */
export interface ComputedColumn {
  readonly column: string;
  readonly up: string;
  /** Without length or precision. */
  readonly type: string;
  /** That of the column, over `type`, whose length a cast would apply. */
  readonly domain?: string;
  /** `fill`: `up` stands in for NULL. */
  readonly kind: 'compute' | 'fill';
  /** Reads a column that an earlier one of this list computes. */
  readonly chained: boolean;
  /** Gives the same as `up` for less, where it does not fail. */
  readonly swift?: string;
}

/** A new column that a computed one reads and that has no `up`: it has its default. */
export interface ConstantColumn {
  readonly column: string;
  readonly value: string;
  readonly type: string;
}

export interface ComputedColumns {
  readonly constants: readonly ConstantColumn[];
  /** In the order in which they are computed. */
  readonly computed: readonly ComputedColumn[];
}

export const NOTHING_COMPUTED: ComputedColumns = { constants: [], computed: [] };

export type CopyFormat = 'binary' | 'text';

export interface CopyQuery {
  /** Uses the swift form of an expression: an error of blue's may be that form's alone. */
  readonly swift: boolean;
  /** The query on blue, without a range of blocks. */
  readonly select: (where: string) => string;
  /** The columns that it gives, which are those that are filled on green. */
  readonly columns: readonly string[];
}

/**
 * @param source the table or leaf on blue.
 * @param name what the plan's expressions call the table.
 * @param target the table on green: columns that it lacks or generates are left out.
 * @param swiftly with the swift forms of expressions, where there are such.
 */
export function copyQuery(
  source: TableInfo,
  name: string,
  target: TableInfo,
  computed: ComputedColumns,
  swiftly = false,
): CopyQuery {
  const onGreen = new Set(target.columns.filter((column) => !column.generated).map((column) => column.name));
  const stored = source.columns.filter((c) => !c.generated).map((c) => c.name);
  const visible = source.columns.map((column) => column.name);
  const alias = ident(name);
  const outputs = [
    ...stored.filter((column) => onGreen.has(column)),
    ...computed.computed.map(({ column }) => column).filter((column) => !stored.includes(column)),
  ];
  const levels = levelsOf(computed.computed);
  const select = (where: string): string => {
    let from = `FROM ONLY ${qualified(source.name)} AS ${alias} WHERE ${where}`;
    const names = [...visible];
    if (computed.constants.length > 0) {
      const constants = computed.constants.map((c) => `CAST((${c.value}\n) AS ${c.type}) AS ${ident(c.column)}`);
      from = `FROM (SELECT ${[...names.map(ident), ...constants].join(', ')} ${from}) AS ${alias}`;
      names.push(...computed.constants.map((c) => c.column));
    }
    for (const [i, level] of levels.entries()) {
      const assigned = new Map(level.map((column) => [column.column, expressionOf(column, swiftly)]));
      const last = i === levels.length - 1;
      const list = last ? outputs : [...names, ...[...assigned.keys()].filter((column) => !names.includes(column))];
      const items = list.map((column) => {
        const expression = assigned.get(column);
        return expression === undefined ? ident(column) : `${expression} AS ${ident(column)}`;
      });
      if (last) return `SELECT ${items.join(', ')} ${from}`;
      from = `FROM (SELECT ${items.join(', ')} ${from}) AS ${alias}`;
      names.splice(0, names.length, ...list);
    }
    return `SELECT ${outputs.map(ident).join(', ')} ${from}`;
  };
  const swift = swiftly && computed.computed.some((column) => column.swift !== undefined);
  return { select, columns: outputs, swift };
}

/** The same with the checks of domains: for what looks for rows that break them. Their lengths are cut to. */
export function withDomains({ constants, computed }: ComputedColumns): ComputedColumns {
  return { constants, computed: computed.map((column) => ({ ...column, type: column.domain ?? column.type })) };
}

/** `COPY ... FROM STDIN` on green. A table without columns has no list of them. */
export function copyInto(target: TableName, columns: readonly string[], format: CopyFormat, encoding?: string): string {
  const list = columns.length === 0 ? '' : ` (${columns.map(ident).join(', ')})`;
  return `COPY ${qualified(target)}${list} FROM STDIN WITH (${optionsOf(format, encoding)})`;
}

/** `COPY (...) TO STDOUT` on blue. */
export function copyOut(select: string, format: CopyFormat, encoding?: string): string {
  return `COPY (${select}) TO STDOUT WITH (${optionsOf(format, encoding)})`;
}

/** @param encoding of the text, where it is not the session's: the statement itself is in that one. */
function optionsOf(format: CopyFormat, encoding: string | undefined): string {
  return `FORMAT ${format}${encoding === undefined ? '' : `, ENCODING ${literal(encoding)}`}`;
}

/** The blocks of a piece, as a condition that PostgreSQL answers by a TID range scan. */
export function inBlocks(fromBlock: number, toBlock: number | null): string {
  const conditions = [
    ...(fromBlock === 0 ? [] : [`ctid >= '(${fromBlock},0)'::pg_catalog.tid`]),
    ...(toBlock === null ? [] : [`ctid < '(${toBlock},0)'::pg_catalog.tid`]),
  ];
  return conditions.length === 0 ? 'true' : conditions.join(' AND ');
}

function expressionOf({ kind, column, up, type, swift }: ComputedColumn, swiftly: boolean): string {
  const used = swiftly ? (swift ?? up) : up;
  const value = kind === 'fill' ? `coalesce(${ident(column)}, (${used}\n))` : `(${used}\n)`;
  return `CAST(${value} AS ${type})`;
}

/** Columns that can be computed side by side; one that reads another is a level further out. */
function levelsOf(computed: readonly ComputedColumn[]): ComputedColumn[][] {
  const levels: ComputedColumn[][] = [];
  for (const column of computed) {
    const last = levels.at(-1);
    if (last === undefined || column.chained || last.some((other) => other.column === column.column)) {
      levels.push([column]);
    } else last.push(column);
  }
  return levels;
}
