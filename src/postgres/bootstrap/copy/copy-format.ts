import type { TableInfo } from '../../catalog.js';
import type { CopyFormat, ComputedColumns } from './copy-query.js';

/*
 * Binary rows are not printed and not parsed: 3 M rows of the usual mix (numbers, numeric, text, timestamptz) took green
 * about two thirds of the CPU time, blue half of it on 15 and two thirds on 18, from 15 to 18 as between equal versions.
 * But a binary form may change with a major version, and some hold the OIDs of user types, which differ between two
 * databases. So binary is for a list of built-in types without OIDs, whose forms a test holds against each other on 15
 * and 18; for anything else, text.
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

/**
 * The format for one table: binary only when each column that is copied has it on both sides.
 *
 * @param encoding in which text is to be passed on: in binary rows it is in the session's, whatever the option says.
 */
export function copyFormat(
  source: TableInfo,
  target: TableInfo,
  columns: readonly string[],
  computed: ComputedColumns,
  encoding?: string,
): CopyFormat {
  // Without columns binary rows are fine, too, but there is nothing to gain.
  if (columns.length === 0 || encoding !== undefined) return 'text';
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
