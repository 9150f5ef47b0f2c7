import { splitName, type TableName } from '../plan/table-name.js';

/** Which tables a plan moves: `schema.table` patterns with `*` as a wildcard. What is excluded wins. */
export interface TablePatterns {
  readonly include: readonly string[];
  readonly exclude: readonly string[];
}

/** Whatever there is. */
export const ALL_TABLES: TablePatterns = { include: ['*.*'], exclude: [] };

/** One pattern, ready to be asked about names. */
export interface TablePattern {
  /** As it stands in the plan. */
  readonly text: string;
  matches(table: TableName): boolean;
  /** Whether it matches some table of the schema. */
  reaches(schema: string): boolean;
  /** Whether it matches every table of the schema. */
  covers(schema: string): boolean;
}

/**
 * Reads a pattern: `shop.*`, `*.order_*`, `orders` (in `public`), `shop."Order Items"`. Names are exact: nothing is
 * folded to lower case. Inside quotes `*` is an ordinary character.
 *
 * @throws RangeError when a quote is not closed, a part is empty or there are more than two parts.
 */
export function parseTablePattern(text: string): TablePattern {
  const parts = splitName(text, asExpression);
  const [first, second] = parts;
  if (first === undefined || parts.length > 2 || parts.some((part) => part === '')) {
    throw new RangeError(`"${text}" is not a pattern for tables: write schema.table, schema.* or schema."Odd name"`);
  }
  const schema = new RegExp(`^${second === undefined ? 'public' : first}$`, 'su');
  const name = new RegExp(`^${second ?? first}$`, 'su');
  const reaches = (one: string): boolean => schema.test(one);
  return {
    text,
    matches: (table) => reaches(table.schema) && name.test(table.name),
    reaches,
    covers: (one) => (second ?? first) === '.*' && reaches(one),
  };
}

/** One character of a pattern, as the source of a regular expression. */
function asExpression(character: string, quoted: boolean): string {
  return character === '*' && !quoted ? '.*' : character.replace(/[\\^$.*+?()[\]{}|/]/, '\\$&');
}

/** A question about names: included by a pattern, and excluded by none. */
export function tableFilter(patterns: TablePatterns): (table: TableName) => boolean {
  const include = patterns.include.map(parseTablePattern);
  const exclude = patterns.exclude.map(parseTablePattern);
  return (table) =>
    include.some((pattern) => pattern.matches(table)) && !exclude.some((pattern) => pattern.matches(table));
}

/** A question about schemas: whether a table that is made there may be one of them. */
export function schemaFilter(patterns: TablePatterns): (schema: string) => boolean {
  const include = patterns.include.map(parseTablePattern);
  const exclude = patterns.exclude.map(parseTablePattern);
  return (schema) =>
    include.some((pattern) => pattern.reaches(schema)) && !exclude.some((pattern) => pattern.covers(schema));
}
