import type { Node } from 'libpg-query';
import { SqlSyntaxError, isObject, namesOf, parseStatements, partsOf } from './sql-tree.js';

/** An expression of a plan, read by PostgreSQL's parser. */
export interface Expression {
  readonly text: string;
  readonly node: Node;
  /** Names of the columns that it reads, without their table, each once, in the order of the text. */
  readonly columns: readonly string[];
}

/**
 * Reads one SQL expression.
 *
 * @throws SqlSyntaxError when the text is anything else: two expressions, a statement, `a AS b`, an unclosed bracket.
 */
export async function parseExpression(text: string): Promise<Expression> {
  // Once in brackets and once without: "a) OR (b" is an expression only inside brackets, "a, b" or "a FROM t" only
  // without. What passes both can be put wherever an expression stands. The line break ends a trailing comment.
  const node = await onlyTarget(`SELECT (${text}\n)`, text);
  await onlyTarget(`SELECT ${text}`, text);
  return { text, node, columns: columnsIn(node) };
}

/**
 * Names of the columns that an expression reads, without their table, each once:
 * `coalesce(t."Old Name", b)` gives `['Old Name', 'b']`.
 *
 * @throws SqlSyntaxError when the text is not one expression.
 */
export async function columnsOf(expression: string): Promise<string[]> {
  return [...(await parseExpression(expression)).columns];
}

/** What `addColumn.down` says: another column, and the expression that computes it from the new one. */
export interface Assignment {
  readonly column: string;
  readonly expression: string;
}

/**
 * Reads `<column> = <expression>`, such as `status = new_status::text` or `"Old Name" = upper(name)`.
 *
 * @throws SqlSyntaxError when the text has another form.
 */
export async function parseAssignment(text: string): Promise<Assignment> {
  const { column, expression } = split(text);
  await parseExpression(expression);
  return { column, expression };
}

const ASSIGNMENT = /^\s*(?:"((?:[^"]|"")+)"|([A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*))\s*=(?![=<>~@])\s*([\s\S]+)$/;

/** A name, an equals sign, the rest: this much is plain enough without the parser, which judges the rest. */
function split(text: string): Assignment {
  const [, quoted, plain, expression] = ASSIGNMENT.exec(text) ?? [];
  if (expression === undefined) {
    throw new SqlSyntaxError('this is not of the form "<column> = <expression>"');
  }
  const column = quoted === undefined ? (plain ?? '').toLowerCase() : quoted.replaceAll('""', '"');
  return { column, expression: expression.trim() };
}

/** One element of an index: a column or an expression, with the columns that it reads. */
export interface IndexElement {
  /** The column's name when the element is a plain column, else null. */
  readonly column: string | null;
  readonly columns: readonly string[];
  readonly node: Node;
}

/**
 * Reads one element of `createIndex.columns`: `created_at DESC`, `payload jsonb_path_ops`, `"Order No"`, `(lower(email))`.
 *
 * @throws SqlSyntaxError when the text is not one element of an index.
 */
export async function parseIndexElement(text: string): Promise<IndexElement> {
  const [statement, second] = await parseStatements(`CREATE INDEX i ON t (${text}\n)`);
  const index = statement !== undefined && 'IndexStmt' in statement.node ? statement.node.IndexStmt : undefined;
  const [param, another] = index?.indexParams ?? [];
  const more = index?.whereClause ?? index?.options ?? index?.indexIncludingParams ?? index?.tableSpace;
  if (second !== undefined || param === undefined || another !== undefined || more !== undefined) {
    throw new SqlSyntaxError(`"${text}" is not one element of an index`);
  }
  const column = 'IndexElem' in param ? (param.IndexElem.name ?? null) : null;
  return { column, columns: column === null ? columnsIn(param) : [column], node: param };
}

async function onlyTarget(sql: string, text: string): Promise<Node> {
  const [statement, second] = await parseStatements(sql);
  const select = statement !== undefined && 'SelectStmt' in statement.node ? statement.node.SelectStmt : undefined;
  const others = Object.keys(select ?? {}).filter((key) => !['targetList', 'limitOption', 'op'].includes(key));
  const [target, another] = select?.targetList ?? [];
  const result = target !== undefined && 'ResTarget' in target ? target.ResTarget : undefined;
  if (
    second !== undefined ||
    others.length > 0 ||
    select?.op !== 'SETOP_NONE' ||
    another !== undefined ||
    result?.val === undefined ||
    result.name !== undefined
  ) {
    throw new SqlSyntaxError(`"${text}" is more than one expression`);
  }
  return result.val;
}

function columnsIn(node: Node): string[] {
  const columns = new Set<string>();
  for (const { type, fields } of partsOf(node)) {
    if (type !== 'ColumnRef') continue;
    const name = namesOf(fields['fields']).at(-1);
    if (name !== undefined && !endsWithStar(fields['fields'])) columns.add(name);
  }
  return [...columns];
}

/** `t.*`: the whole row, not a column. */
function endsWithStar(list: unknown): boolean {
  const last: unknown = Array.isArray(list) ? list.at(-1) : undefined;
  return isObject(last) && 'A_Star' in last;
}
