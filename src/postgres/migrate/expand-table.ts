import { VerdigrisError } from '../../errors.js';
import { formatTableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import { ident, qualified } from '../identifier.js';
import type { Session } from '../session.js';
import { addColumns } from './add-column.js';
import { columnOf, readTable } from './changed-table.js';
import { columnsRead } from './expression-reads.js';
import { installTrigger } from './install-trigger.js';
import type { Derived, TableWork } from './plan-work.js';
import { lockProgress, readProgress, writeProgress, type ProgressKey } from './progress-row.js';
import { shortLocks } from './short-locks.js';
import type { StepContext } from './step-context.js';
import { isTransient, passing, stepFailed } from './step-failed.js';
import type { TriggerColumn, TriggerSpec } from './up-down-trigger.js';

/** What a run has added to a table: the only columns that its rollback drops. */
export interface ExpandState {
  readonly added: readonly string[];
}

export interface ExpandResult {
  /** Columns added by this call; empty when it was all there. */
  readonly added: readonly string[];
}

export function expandKey(runId: string, work: TableWork): ProgressKey {
  return { runId, step: 'expand', object: formatTableName(work.table) };
}

/**
 * Adds the new columns of a table and its up/down trigger, in one transaction: no row slips in between them. Expressions
 * are checked by the server before anything is committed.
 *
 * @throws VerdigrisError MigrationStepFailed: an expression that the server refuses, a lock that can't be had.
 */
export function expandTable(context: StepContext, work: TableWork): Promise<ExpandResult> {
  return expand(context, work, true);
}

/**
 * The same without the trigger: for a table whose rows are yet to come, with their new columns computed. A trigger would
 * be called for every one of them. `expandTable` must follow before anybody else writes the table.
 */
export function expandColumns(context: StepContext, work: TableWork): Promise<ExpandResult> {
  return expand(context, work, false);
}

async function expand(context: StepContext, work: TableWork, withTrigger: boolean): Promise<ExpandResult> {
  const { session, runId } = context;
  const object = formatTableName(work.table);
  const key = expandKey(runId, work);
  const added = await shortLocks(context, session, { object: `table ${object}` }, async () => {
    const known = await lockProgress<ExpandState>(session, key, { added: [] });
    const { info: before, searchPath } = await readTable(session, work.table);
    await session.query(`SELECT set_config('search_path', $1, true)`, [searchPath]);
    const now = await explained(`the new columns of table ${object} are refused`, () =>
      addColumns(session, before, work.columns),
    );
    // Names are read with search_path = pg_catalog, so that types of users are written with their schema.
    await session.query(`SELECT set_config('search_path', 'pg_catalog', true)`);
    const { info } = await readTable(session, work.table);
    await session.query(`SELECT set_config('search_path', $1, true)`, [searchPath]);
    const spec = await triggerSpec(session, info, work.derived);
    if (withTrigger && spec.columns.length > 0) await installTrigger(session, spec, searchPath);
    const state: ExpandState = { added: [...new Set([...known.state.added, ...now])] };
    await writeProgress(session, key, state, true);
    return now;
  });
  const total = work.columns.length;
  context.onProgress({ step: 'expand', object, done: total, total, rowsPerSecond: 0, etaSeconds: 0 });
  return { added };
}

/** The columns that the run has added to a table and that are still there. */
export async function addedColumns(context: StepContext, work: TableWork): Promise<string[]> {
  const known = await readProgress<ExpandState>(context.session, expandKey(context.runId, work));
  const { info } = await readTable(context.session, work.table);
  return (known?.state.added ?? []).filter((name) => info.columns.some((column) => column.name === name));
}

/** What the trigger must know, from the plan and the catalog; refuses expressions that could not work in it. */
async function triggerSpec(session: Session, table: TableInfo, derived: readonly Derived[]): Promise<TriggerSpec> {
  const columns: TriggerColumn[] = [];
  const ofDomains = await domainDefaults(session, table);
  for (const item of derived) {
    const { type, collation } = columnOf(table, item.column);
    const name = `"${item.column}" of table ${formatTableName(table.name)}`;
    let reads: readonly string[] = [];
    if (item.up !== undefined) {
      reads = await checkedReads(session, table, item.column, item.up, `up of column ${name}`);
    }
    if (item.down !== undefined) {
      columnOf(table, item.down.column);
      await checkedReads(session, table, item.down.column, item.down.expression, `down of column ${name}`);
    }
    const fallback = item.default ?? ofDomains.get(item.column);
    const reading = reads.filter((read) => read !== item.column);
    const column = { ...item, type, collation, reads: reading };
    columns.push(fallback === undefined ? column : { ...column, default: fallback });
  }
  const types = new Map(table.columns.map((column) => [column.name, column]));
  return { table: table.name, columns, key: table.key?.columns.map(({ name }) => name) ?? [], types };
}

/** What columns that were given no default have by their domain. */
export async function domainDefaults(session: Session, { oid }: TableInfo): Promise<ReadonlyMap<string, string>> {
  const { rows } = await session.query<{ name: string; value: string }>(
    `SELECT a.attname AS name, coalesce(pg_get_expr(t.typdefaultbin, 0), quote_literal(t.typdefault)) AS value
       FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
      WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.atthasdef
        AND t.typtype = 'd' AND t.typdefault IS NOT NULL`,
    [oid],
  );
  return new Map(rows.map(({ name, value }) => [name, value]));
}

/**
 * The columns that an expression reads, once the server has found that the target column could take its value.
 *
 * @throws VerdigrisError MigrationStepFailed
 */
export async function checkedReads(
  session: Session,
  table: TableInfo,
  target: string,
  expression: string,
  what: string,
): Promise<string[]> {
  const reads = await explained(`${what} is refused by PostgreSQL`, async () => {
    // Planned only, never run: checks that the value can be assigned.
    await session.query(
      `EXPLAIN UPDATE ${qualified(table.name)} AS ${ident(table.name.name)} SET ${ident(target)} = (${expression}\n)`,
    );
    return columnsRead(session, table, expression);
  });
  const generated = table.columns.find((column) => column.generated && reads.includes(column.name));
  if (generated === undefined) return reads;
  throw new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `${what} reads the generated column "${generated.name}", which has no value yet when the trigger runs`,
    nextStep: 'write the expression of the generated column itself',
  });
}

async function explained<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (isTransient(error)) throw passing(what, error);
    throw stepFailed(what, error, 'correct it in the plan; nothing of this table has been changed');
  }
}
