/*
 * Whether two values of a column are the same. For some types `=` says less than that: 1.0 = 1.00 in numeric and inside
 * jsonb, 'a' = 'A' in citext; for others there is no `=` at all (json, xml, point). Those are compared by their text.
 */

const SAME_MEANS_EQUAL =
  /^(smallint|integer|bigint|boolean|uuid|date|oid|bytea|text|character varying(\(\d+\))?|real|double precision|inet|cidr|macaddr|"char"|time(stamp)?(\(\d\))? with(out)? time zone)$/;

/** Collations in which equal strings are the same string. Others may be nondeterministic. */
const DETERMINISTIC: ReadonlySet<string | null> = new Set([null, 'default', 'C', 'POSIX', 'ucs_basic']);

/** The type of a column and its collation, as the catalog has them. */
export interface Comparable {
  readonly type: string;
  readonly collation: string | null;
}

/** SQL that is true when the two expressions differ, NULL counting as a value. */
export function differs(column: Comparable, a: string, b: string): string {
  return `${side(column, a)} IS DISTINCT FROM ${side(column, b)}`;
}

/** SQL that is true when the two expressions are the same, NULL counting as a value. */
export function isSame(column: Comparable, a: string, b: string): string {
  return `${side(column, a)} IS NOT DISTINCT FROM ${side(column, b)}`;
}

function side(column: Comparable, expression: string): string {
  const exact = SAME_MEANS_EQUAL.test(column.type) && DETERMINISTIC.has(column.collation);
  return exact ? expression : `(${expression})::text COLLATE "C"`;
}
