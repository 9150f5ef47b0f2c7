import type { Migration, Plan } from './schema.js';
import type { TableName } from './table-name.js';
import { formatTableName, parseTableName } from './table-name.js';

/** One step of `migrations`, by its operation. */
export type Operation = Migration extends infer M ? (M extends M ? keyof M : never) : never;

/** Everything that a step says of a table: operations but `sql`. */
export interface TableStep {
  readonly index: number;
  /** `migrations[2].addColumn` */
  readonly place: string;
  /** The table as the plan writes it. */
  readonly written: string;
  /** Undefined when the name can't be read: a finding of its own. */
  readonly table: TableName | undefined;
  /** The table as messages show it, and as a key. */
  readonly key: string;
  /** The column that the step adds, if it adds one. */
  readonly adds: string | undefined;
}

/** The steps on tables, in the order of the plan. */
export function tableSteps(plan: Plan): TableStep[] {
  return plan.migrations.flatMap((migration, index) => {
    if ('sql' in migration) return [];
    if ('addColumn' in migration) return [step(index, 'addColumn', migration.addColumn, migration.addColumn.column)];
    if ('changeType' in migration)
      return [step(index, 'changeType', migration.changeType, migration.changeType.newColumn)];
    if ('createIndex' in migration) return [step(index, 'createIndex', migration.createIndex)];
    if ('addConstraint' in migration) return [step(index, 'addConstraint', migration.addConstraint)];
    return [step(index, 'setNotNull', migration.setNotNull)];
  });
}

function step(index: number, operation: Operation, of: { readonly table: string }, adds?: string): TableStep {
  const table = readTableName(of.table);
  return {
    index,
    place: `migrations[${index}].${operation}`,
    written: of.table,
    table,
    key: table === undefined ? of.table : formatTableName(table),
    adds,
  };
}

/** A table's name; undefined when it can't be read. */
export function readTableName(text: string): TableName | undefined {
  try {
    return parseTableName(text);
  } catch {
    return undefined;
  }
}

/** How many steps come after the backfill: indexes that follow each other are one (see planWork in src/postgres/migrate/plan-work.ts). */
export function countLaterSteps({ migrations }: Pick<Plan, 'migrations'>): number {
  let steps = 0;
  let toIndexes = false;
  for (const migration of migrations) {
    const isIndex = 'createIndex' in migration;
    if (!isIndex && !isLater(migration)) continue;
    if (!isIndex || !toIndexes) steps++;
    toIndexes = isIndex;
  }
  return steps;
}

/** Columns are made before the backfill; only their NOT NULL comes after it. */
function isLater(migration: Migration): boolean {
  if ('addColumn' in migration) return migration.addColumn.notNull;
  if ('changeType' in migration) return migration.changeType.notNull;
  return true;
}
