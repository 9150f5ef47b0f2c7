import type { TableInfo } from '../../catalog.js';
import type { CopyFormat, ComputedColumns } from './copy-query.js';

/*
 * Binary rows are not printed and not parsed: 3 M rows of the usual mix (numbers, numeric, text, timestamptz) took blue
 * half of the CPU time and green two thirds of it, 15 to 15, 15 to 18 and 18 to 18 alike. But a binary form may change
 * with a major version, and some hold the OIDs of user types, which differ between two databases. So binary is for types
 * whose form has been the same since PostgreSQL 10 at least and holds no OID; for anything else, text.
 */
const STABLE_TYPES: ReadonlySet<string> = new Set([
  'smallint',
  'integer',
  'bigint',
  'real',
  'double precision',
  'numeric',
  'boolean',
  'text',
  'character varying',
  'character',
  'bpchar',
  '"char"',
  'bytea',
  'uuid',
  'json',
  'jsonb',
  'date',
  'time without time zone',
  'time with time zone',
  'timestamp without time zone',
  'timestamp with time zone',
  'interval',
  'inet',
  'cidr',
  'macaddr',
  'bit',
  'bit varying',
]);

/** The format for one table: binary only when each column that is copied has it on both sides. */
export function copyFormat(
  source: TableInfo,
  target: TableInfo,
  columns: readonly string[],
  computed: ComputedColumns,
): CopyFormat {
  // Without columns binary rows are fine, too, but there is nothing to gain.
  if (columns.length === 0) return 'text';
  const types = new Map(source.columns.map(({ name, type }) => [name, type]));
  for (const { column, type } of computed.computed) types.set(column, type);
  const there = new Map(target.columns.map(({ name, type }) => [name, type]));
  const binary = columns.every((column) => {
    const [from, to] = [baseType(types.get(column) ?? ''), baseType(there.get(column) ?? '')];
    return from === to && STABLE_TYPES.has(from);
  });
  return binary ? 'binary' : 'text';
}

/** `character varying(20)` -> `character varying`, `timestamp(3) with time zone` -> `timestamp with time zone`. */
function baseType(type: string): string {
  const base = type.replace(/\(.*?\)/, '').replace(/^"bit"$/, 'bit');
  return base === 'bpchar' ? 'character' : base.replace(/^interval .*$/, 'interval');
}
