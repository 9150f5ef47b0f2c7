import type { Node } from 'libpg-query';
import { hasSqlDetails, parse } from 'libpg-query';

/*
 * SQL as a tree, read by PostgreSQL's own parser (libpg-query, the parser of version 18 as WebAssembly). Nothing in
 * src/plan looks at SQL with regular expressions: comments, quotes and dollar quotes would fool them.
 */

/** SQL that PostgreSQL's parser refuses; the message is the parser's. */
export class SqlSyntaxError extends Error {
  override readonly name = 'SqlSyntaxError';
}

/** One statement and the text that it was read from. */
export interface Statement {
  readonly node: Node;
  readonly text: string;
}

/**
 * The statements of a text, in their order.
 *
 * @throws SqlSyntaxError when the text is not SQL.
 */
export async function parseStatements(sql: string): Promise<Statement[]> {
  try {
    const { stmts } = await parse(sql);
    const bytes = new TextEncoder().encode(sql);
    return (stmts ?? []).flatMap(({ stmt, stmt_location: from = 0, stmt_len: length }) =>
      stmt === undefined ? [] : [{ node: stmt, text: sliceBytes(bytes, from, length).trim() }],
    );
  } catch (error) {
    if (hasSqlDetails(error))
      throw new SqlSyntaxError(`${error.message}${near(sql, error.sqlDetails?.cursorPosition)}`);
    throw error;
  }
}

/** The parser counts in bytes of UTF-8, JavaScript in UTF-16. The last statement has no length. */
function sliceBytes(bytes: Uint8Array, from: number, length: number | undefined): string {
  return new TextDecoder().decode(bytes.subarray(from, length === undefined ? undefined : from + length));
}

function near(sql: string, cursor: number | undefined): string {
  if (cursor === undefined || cursor <= 0 || cursor >= sql.length) return '';
  return ` (after "${sql.slice(Math.max(0, cursor - 20), cursor).trim()}")`;
}

/** A part of the tree: `{ type: 'FuncCall', fields: { funcname: [...] } }`. */
export interface Part {
  readonly type: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** Every part of a tree, from the top down, in the order of the text. */
export function* partsOf(tree: unknown): Generator<Part> {
  if (Array.isArray(tree)) {
    for (const item of tree) yield* partsOf(item);
    return;
  }
  if (!isObject(tree)) return;
  const part = partOf(tree);
  if (part !== undefined) yield part;
  for (const value of Object.values(part?.fields ?? tree)) yield* partsOf(value);
}

function partOf(tree: Readonly<Record<string, unknown>>): Part | undefined {
  const [entry, second] = Object.entries(tree);
  if (entry !== undefined && second === undefined && /^[A-Z]/.test(entry[0]) && isObject(entry[1])) {
    return { type: entry[0], fields: entry[1] };
  }
  // Where only one type can stand, the parser leaves its name away.
  if ('relname' in tree) return { type: 'RangeVar', fields: tree };
  if ('names' in tree && 'typemod' in tree) return { type: 'TypeName', fields: tree };
  return undefined;
}

/** The strings of a list of String nodes: a qualified name. */
export function namesOf(list: unknown): string[] {
  if (!Array.isArray(list)) return [];
  return list.flatMap((item) => {
    const text = isObject(item) && isObject(item['String']) ? item['String']['sval'] : undefined;
    return typeof text === 'string' ? [text] : [];
  });
}

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
