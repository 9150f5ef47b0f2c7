import type { KeyColumn, TableInfo } from '../catalog.js';
import { VerdigrisError } from '../../errors.js';
import { formatTableName } from '../../plan/table-name.js';
import { ident, literal } from '../identifier.js';

/**
 * The key of a row, each part in its text form: what cursors and reports hold. Keys have no NULLs. Text that our sessions
 * may not be able to read is in the form of its bytes, in hexadecimal digits.
 */
export type KeyValues = readonly string[];

/** @throws VerdigrisError when rows of the table can't be told apart. */
export function keyOf(table: TableInfo): readonly KeyColumn[] {
  if (table.key !== null) return table.key.columns;
  throw new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `table ${formatTableName(table.name)} has no primary key and no replica identity index: its rows can't be told apart`,
    nextStep: 'give it a primary key, or leave the table out of the plan',
  });
}

/** `"a", "b"`: for ORDER BY and the left side of a row comparison, which the index of the key serves. */
export function keyList(key: readonly KeyColumn[], alias?: string): string {
  return key.map(({ name }) => (alias === undefined ? ident(name) : `${alias}.${ident(name)}`)).join(', ');
}

/**
 * `"a"::text AS verdigris_k0, "b"::text AS verdigris_k1`: names that no column has, since ORDER BY would take the text
 * of a column for the column if the two had one name.
 */
export function keyTexts(key: readonly KeyColumn[]): string {
  return key.map((column, i) => `${keyText(column)} AS verdigris_k${i}`).join(', ');
}

/** Between one encoding and the same nothing is converted. */
function keyText({ name, encoding }: KeyColumn): string {
  const text = `${ident(name)}::text`;
  return encoding === null ? text : `pg_catalog.encode(pg_catalog.convert_to(${text}, ${nameOf(encoding)}), 'hex')`;
}

/** SQL of the value of a key's column, from SQL of what keyTexts has given for it. */
export function keyValue({ type, encoding }: KeyColumn, text: string): string {
  if (encoding === null) return `${text}::${type}`;
  return `pg_catalog.convert_from(pg_catalog.decode(${text}, 'hex'), ${nameOf(encoding)})::${type}`;
}

/** A constant of type name has a collation of its own, which would take the place of the column's in a comparison. */
function nameOf(encoding: string): string {
  return `${literal(encoding)}::text::name`;
}

/** The key in a row of a query with keyTexts. */
export function keyInRow(key: readonly KeyColumn[], row: Readonly<Record<string, unknown>>): KeyValues {
  return key.map((_, i) => String(row[`verdigris_k${i}`]));
}

/** Bound parameters of one statement, numbered as they are added. */
export class Parameters {
  readonly values: string[] = [];

  add(value: string): string {
    this.values.push(value);
    return `$${this.values.length}`;
  }
}

/** Rows behind `after` up to and including `upTo`; null is an open end. */
export interface KeyRange {
  readonly after: KeyValues | null;
  readonly upTo: KeyValues | null;
}

/** The condition of a range. Parameters are given as text and cast to the types of the key. */
export function inRange(key: readonly KeyColumn[], range: KeyRange, parameters: Parameters): string {
  const row = `(${keyList(key)})`;
  const values = (bound: KeyValues): string =>
    `(${key.map((column, i) => keyValue(column, `${parameters.add(bound[i] ?? '')}::text`)).join(', ')})`;
  const conditions = [
    ...(range.after === null ? [] : [`${row} > ${values(range.after)}`]),
    ...(range.upTo === null ? [] : [`${row} <= ${values(range.upTo)}`]),
  ];
  return conditions.length === 0 ? 'true' : conditions.join(' AND ');
}

/** A key for people: `id = 7` or `order_no = 7, "Pos" = 2`. */
export function describeKey(key: readonly KeyColumn[], values: KeyValues): string {
  return key.map((column, i) => `${ident(column.name)} = ${readable(column, values[i] ?? '')}`).join(', ');
}

/** Bytes that are no ASCII as PostgreSQL would take them in an escape string: `M\xfcller`. */
function readable({ encoding }: KeyColumn, value: string): string {
  if (encoding === null) return value;
  const bytes = [...Buffer.from(value, 'hex')];
  const plain = (byte: number): boolean => byte >= 0x20 && byte < 0x7f;
  return bytes
    .map((byte) => (plain(byte) ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, '0')}`))
    .join('');
}
