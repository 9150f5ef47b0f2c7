import type { Assignment, Expression, IndexElement } from './expression.js';
import { parseAssignment, parseExpression, parseIndexElement } from './expression.js';
import type { Plan } from './schema.js';
import { SqlSyntaxError } from './sql-tree.js';

/** What an expression of the plan is for. */
export type ExpressionUse = 'up' | 'down' | 'default' | 'check' | 'where';

/** An expression of the plan, and what the parser makes of it. */
export interface ExpressionFact {
  readonly index: number;
  readonly place: string;
  readonly use: ExpressionUse;
  readonly text: string;
  /** The column that the expression computes; undefined for `check` and `where`. */
  readonly target: string | undefined;
  /** Undefined when it does not parse; `error` says why. */
  readonly parsed: Expression | undefined;
  readonly error: string | undefined;
}

/** An element of an index, and what the parser makes of it. */
export interface IndexElementFact {
  readonly index: number;
  readonly place: string;
  readonly text: string;
  readonly parsed: IndexElement | undefined;
  readonly error: string | undefined;
}

/** Every expression of a plan, in its order. */
export async function readExpressions(plan: Plan): Promise<ExpressionFact[]> {
  const facts: ExpressionFact[] = [];
  const read = async (index: number, field: string, use: ExpressionUse, text: string | undefined, target?: string) => {
    if (text === undefined) return;
    const place = `migrations[${index}].${field}`;
    facts.push({ index, place, use, text, target, ...(await attempt(() => parseExpression(text))) });
  };
  for (const [i, migration] of plan.migrations.entries()) {
    if ('addColumn' in migration) {
      const { column, up, down, default: initial } = migration.addColumn;
      await read(i, 'addColumn.up', 'up', up, column);
      await read(i, 'addColumn.default', 'default', initial, column);
      if (down !== undefined) facts.push(await readAssignment(i, down));
    } else if ('changeType' in migration) {
      const { column, newColumn, up, down } = migration.changeType;
      await read(i, 'changeType.up', 'up', up, newColumn);
      await read(i, 'changeType.down', 'down', down, column);
    } else if ('createIndex' in migration) await read(i, 'createIndex.where', 'where', migration.createIndex.where);
    else if ('addConstraint' in migration) await read(i, 'addConstraint.check', 'check', migration.addConstraint.check);
    else if ('setNotNull' in migration) {
      await read(i, 'setNotNull.up', 'up', migration.setNotNull.up, migration.setNotNull.column);
    }
  }
  return facts;
}

async function readAssignment(index: number, text: string): Promise<ExpressionFact> {
  const fact = { index, place: `migrations[${index}].addColumn.down`, use: 'down' as const, text };
  const { parsed: assignment, error } = await attempt<Assignment>(() => parseAssignment(text));
  if (assignment === undefined) return { ...fact, target: undefined, parsed: undefined, error };
  return { ...fact, target: assignment.column, ...(await attempt(() => parseExpression(assignment.expression))) };
}

/** Every element of every index. */
export async function readIndexElements(plan: Plan): Promise<IndexElementFact[]> {
  const facts: IndexElementFact[] = [];
  for (const [index, migration] of plan.migrations.entries()) {
    if (!('createIndex' in migration)) continue;
    for (const [i, text] of migration.createIndex.columns.entries()) {
      const place = `migrations[${index}].createIndex.columns[${i}]`;
      facts.push({ index, place, text, ...(await attempt(() => parseIndexElement(text))) });
    }
  }
  return facts;
}

/** What a parser gives, or what it says against the text. */
export async function attempt<T>(
  parse: () => Promise<T>,
): Promise<{ readonly parsed: T | undefined; readonly error: string | undefined }> {
  try {
    return { parsed: await parse(), error: undefined };
  } catch (error) {
    if (error instanceof SqlSyntaxError) return { parsed: undefined, error: error.message };
    throw error;
  }
}
