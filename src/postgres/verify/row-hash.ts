import type { ColumnInfo } from '../catalog.js';
import { ident } from '../identifier.js';

/*
 * One 64-bit hash of a row. Two rows that differ in anything that can be read must have different hashes, on every
 * supported version. The extended hash functions of types are kept as they are from version to version, since the rows
 * of hash partitions lie where they say (pg_upgrade does not move a row; only enums are hashed by OIDs, which differ). But
 * they only promise that *equal* values have equal hashes, and many different values have equal hashes by design:
 *
 *   numeric              1.0 and 1.00, 5 and -5, NaN and Infinity
 *   real, double         0 and -0
 *   bigint, timestamp    the two halves are folded into 32 bits, for the sake of 4 = 4::bigint
 *   character(n), citext, text in a nondeterministic collation    what the collation calls equal
 *
 * So each type gets a way that keeps everything:
 *
 *   integers             as the *seed* of a hash of the column's number: a seed is mixed in with all its 64 bits
 *   text                 bytewise; character(n) as text, which has lost its trailing spaces, and the length with them
 *   uuid, inet, ...      their own hash, which is one of all their bytes
 *   numeric, times       their binary form, which COPY BINARY keeps the same on all versions
 *   anything else        the text of a row of these columns, which tells NULL from '' (json, arrays, floats, enums ...)
 *
 * The hashes of the columns are joined by XOR, each with a seed of its own, and the result is hashed once more. Without
 * that last step the sum over many rows would be a sum over columns, and two rows that exchange a value would go
 * unseen.
 */

const INTEGER = /^(smallint|integer|bigint)$/;
const TEXT = /^(text|character varying(\(\d+\))?)$/;
const CHARACTER = /^character(\(\d+\))?$/;
const ALL_BYTES_HASHED = /^(boolean|uuid|date|oid|bytea|inet|cidr|macaddr)$/;

/** Types whose binary form tells all their values apart, and the function that makes it. */
const SEND: readonly (readonly [RegExp, string])[] = [
  [/^numeric(\(\d+,-?\d+\))?$/, 'numeric_send'],
  [/^timestamp(\(\d\))? with time zone$/, 'timestamptz_send'],
  [/^timestamp(\(\d\))? without time zone$/, 'timestamp_send'],
  [/^time(\(\d\))? with time zone$/, 'timetz_send'],
  [/^time(\(\d\))? without time zone$/, 'time_send'],
];

/** The type of a column: all that a hash needs to know of it. */
export interface Hashed extends Pick<ColumnInfo, 'name' | 'type'> {
  /** SQL of the value; default: the column. */
  readonly value?: string;
}

/** SQL of the hash of some columns: a bigint, never NULL. */
export function hashOf(columns: readonly Hashed[]): string {
  const terms: string[] = [];
  const inRecord: string[] = [];
  const asText: string[] = [];
  for (const [i, { name, type, value }] of columns.entries()) {
    const column = value ?? ident(name);
    const seed = i + 1;
    const send = SEND.find(([pattern]) => pattern.test(type))?.[1];
    if (INTEGER.test(type)) terms.push(orNull(`pg_catalog.hashint4extended(${seed}, ${column}::bigint)`, seed));
    else if (TEXT.test(type)) terms.push(orNull(`pg_catalog.hashtextextended(${column} COLLATE "C", ${seed})`, seed));
    else if (CHARACTER.test(type)) {
      // Not its binary form, which is in the encoding of our session: that may have no such letter.
      const seedOfLength = `${seed} + 65536::bigint * pg_catalog.octet_length(${column})`;
      terms.push(orNull(`pg_catalog.hashtextextended(${column}::text COLLATE "C", ${seedOfLength})`, seed));
    } else if (ALL_BYTES_HASHED.test(type)) inRecord.push(column);
    else if (send !== undefined) inRecord.push(`pg_catalog.${send}(${column})`);
    else asText.push(column);
  }
  if (inRecord.length > 0) terms.push(`pg_catalog.hash_record_extended(ROW(${inRecord.join(', ')}), 0)`);
  if (asText.length > 0) terms.push(`pg_catalog.hashtextextended(ROW(${asText.join(', ')})::text COLLATE "C", 0)`);
  return `pg_catalog.hashint4extended(0, ${terms.join(' # ')})`;
}

/** A small number stands for NULL: a hash is one with a chance of 2^-53. */
function orNull(hash: string, seed: number): string {
  return `coalesce(${hash}, ${seed})`;
}

/**
 * A statement whose answer is the same wherever rows have the same hashes. Servers of another byte order hash
 * differently; then no row would be equal.
 */
export const HASH_PROBE = `
  SELECT pg_catalog.hashint4extended(3, 4702394921427289928)::text || ' ' ||
         pg_catalog.hashtextextended('Verdigris' COLLATE "C", 5)::text || ' ' ||
         pg_catalog.hash_record_extended(ROW(numeric_send(-12.50), uuid '0d9a4f2c-8f5e-4c2c-9d0e-0a3d5b6c7e8f', true), 0)::text AS probe`;
