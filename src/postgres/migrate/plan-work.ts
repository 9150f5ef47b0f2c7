import { computedOrder } from '../../plan/computed-order.js';
import { columnsOf, parseAssignment } from '../../plan/expression.js';
import { attempt } from '../../plan/expressions.js';
import type { AddConstraint, CreateIndex, Plan, SqlStep } from '../../plan/schema.js';
import type { TableName } from '../../plan/table-name.js';
import { formatTableName, parseTableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import { sameTable } from '../catalog.js';

/*
 * What a plan's migrations mean for green, in the order in which they are done:
 *
 *   1. every table's new columns and its up/down trigger, so that from then on each row that arrives is complete
 *   2. the backfill of the rows that were there before
 *   3. indexes, constraints, NOT NULL and raw SQL, in the plan's order
 */

/** A column that the plan adds. */
export interface NewColumn {
  readonly name: string;
  /** As in CREATE TABLE. */
  readonly type: string;
  readonly default?: string;
}

/** A column whose values the up/down trigger keeps. */
export interface Derived {
  readonly column: string;
  /** `compute`: the value always follows from `up`. `fill`: `up` stands in for NULL (setNotNull). */
  readonly kind: 'compute' | 'fill';
  readonly up?: string;
  /** The column that the application's writes of this one are carried back to, and how. */
  readonly down?: { readonly column: string; readonly expression: string };
  /** The DEFAULT of the column: a row that has it counts as one whose column was not given. */
  readonly default?: string;
}

/** What is done to one table before its indexes and constraints. */
export interface TableWork {
  readonly table: TableName;
  readonly columns: readonly NewColumn[];
  /** In the order in which they are computed: an `up` may read what is before it. */
  readonly derived: readonly Derived[];
}

export interface IndexWork {
  readonly table: TableName;
  readonly index: CreateIndex;
}

/** A step after the backfill. */
export type Step =
  | { readonly kind: 'indexes'; readonly indexes: readonly IndexWork[] }
  | { readonly kind: 'constraint'; readonly table: TableName; readonly constraint: AddConstraint }
  | { readonly kind: 'notNull'; readonly table: TableName; readonly column: string; readonly added: boolean }
  | { readonly kind: 'sql'; readonly position: number; readonly sql: SqlStep };

export interface Work {
  readonly tables: readonly TableWork[];
  /** In the plan's order; indexes that follow each other are one step and are built in parallel. */
  readonly steps: readonly Step[];
}

/** Turns the plan's migrations into work. Pure, so that every try and every worker comes to the same. */
export async function planWork(plan: Pick<Plan, 'migrations'>): Promise<Work> {
  const tables = new Map<string, { table: TableName; columns: NewColumn[]; derived: Derived[] }>();
  const steps: Step[] = [];
  const workOf = (text: string): { table: TableName; columns: NewColumn[]; derived: Derived[] } => {
    const table = parseTableName(text);
    const key = formatTableName(table);
    const work = tables.get(key) ?? { table, columns: [], derived: [] };
    tables.set(key, work);
    return work;
  };
  const notNull = (table: TableName, column: string, added: boolean): void => {
    steps.push({ kind: 'notNull', table, column, added });
  };
  for (const [position, migration] of plan.migrations.entries()) {
    if ('addColumn' in migration) {
      const { table: text, column, type, up, down, default: byDefault } = migration.addColumn;
      const work = workOf(text);
      const fallback = byDefault === undefined ? {} : { default: byDefault };
      work.columns.push({ name: column, type, ...fallback });
      if (up !== undefined || down !== undefined) {
        work.derived.push({
          column,
          kind: 'compute',
          ...(up === undefined ? {} : { up }),
          ...(down === undefined ? {} : { down: await parseAssignment(down) }),
          ...fallback,
        });
      }
      if (migration.addColumn.notNull) notNull(work.table, column, true);
    } else if ('changeType' in migration) {
      const { table: text, column, newColumn, type, up, down } = migration.changeType;
      const work = workOf(text);
      work.columns.push({ name: newColumn, type });
      work.derived.push({ column: newColumn, kind: 'compute', up, down: { column, expression: down } });
      if (migration.changeType.notNull) notNull(work.table, newColumn, true);
    } else if ('setNotNull' in migration) {
      const { table: text, column, up } = migration.setNotNull;
      const table = parseTableName(text);
      const added = tables.get(formatTableName(table))?.columns.some((c) => c.name === column) ?? false;
      if (up !== undefined) fill(workOf(text).derived, column, up);
      notNull(table, column, added);
    } else if ('createIndex' in migration) {
      const item = { table: parseTableName(migration.createIndex.table), index: migration.createIndex };
      const last = steps.at(-1);
      if (last?.kind === 'indexes') steps[steps.length - 1] = { kind: 'indexes', indexes: [...last.indexes, item] };
      else steps.push({ kind: 'indexes', indexes: [item] });
    } else if ('addConstraint' in migration) {
      const table = parseTableName(migration.addConstraint.table);
      steps.push({ kind: 'constraint', table, constraint: migration.addConstraint });
    } else {
      steps.push({ kind: 'sql', position, sql: migration.sql });
    }
  }
  const ordered: TableWork[] = [];
  for (const work of tables.values()) ordered.push({ ...work, derived: await inOrder(work.derived) });
  return { tables: ordered, steps };
}

async function inOrder(derived: readonly Derived[]): Promise<Derived[]> {
  const columns = [];
  for (const item of derived) {
    const { up } = item;
    // What does not parse is refused elsewhere, in better words.
    const reads = up === undefined ? [] : ((await attempt(() => columnsOf(up))).parsed ?? []);
    columns.push({ column: item.column, kind: item.kind, reads, item });
  }
  return computedOrder(columns).map(({ item }) => item);
}

/** A column that is computed already gets its stand-in for NULL in the same expression: one rule a column. */
function fill(derived: Derived[], column: string, up: string): void {
  const at = derived.findIndex((item) => item.column === column);
  const computed = derived[at];
  if (computed?.up === undefined) derived.push({ column, kind: 'fill', up });
  else derived[at] = { ...computed, up: `coalesce((${computed.up}\n), (${up}\n))` };
}

/** The work of one table; undefined when the plan changes none of its columns. */
export function workOfTable(work: Work, table: TableName): TableWork | undefined {
  return work.tables.find((candidate) => sameTable(candidate.table, table));
}

/** Every table that the plan changes, each once. */
export function changedTables(work: Work): TableName[] {
  const all = [
    ...work.tables.map(({ table }) => table),
    ...work.steps.flatMap((step) =>
      step.kind === 'indexes' ? step.indexes.map(({ table }) => table) : step.kind === 'sql' ? [] : [step.table],
    ),
  ];
  return [...new Map(all.map((table) => [formatTableName(table), table])).values()];
}

/**
 * The columns that both sides have by the same name and type and that are stored on both: what can be compared. One that only
 * one side generates is another column.
 */
export function commonColumns(blue: TableInfo, green: TableInfo): string[] {
  const there = new Map(green.columns.filter((c) => !c.virtual).map((c) => [c.name, c]));
  return blue.columns
    .filter((c) => !c.virtual && there.get(c.name)?.type === c.type && there.get(c.name)?.generated === c.generated)
    .map((c) => c.name);
}

/**
 * The columns that green's publication lists for a table: blue's, in blue's order, so that rows written on green reach
 * blue in blue's shape. Columns that green lacks or that are computed on either side are left out.
 */
export function reverseColumns(blue: TableInfo, green: TableInfo): string[] {
  const onGreen = new Set(green.columns.filter((c) => !c.generated).map((c) => c.name));
  return blue.columns.filter((c) => !c.generated && onGreen.has(c.name)).map((c) => c.name);
}
