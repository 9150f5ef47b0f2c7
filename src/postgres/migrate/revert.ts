import { formatTableName } from '../../plan/table-name.js';
import { ident, qualified } from '../identifier.js';
import type { TableName } from '../../plan/table-name.js';
import { partitionTree } from '../partition-tree.js';
import type { Session } from '../session.js';
import { forgetBackfill } from './backfill-progress.js';
import { addedColumns, expandKey } from './expand-table.js';
import { dropColumns } from './add-column.js';
import { dropOurs } from './add-constraint.js';
import { constraintKey } from './constraint-progress.js';
import { findTable } from './changed-table.js';
import { indexKey, type IndexState } from './create-index.js';
import { dropIndex } from './index-build.js';
import { findIndex, leafIndexName } from './index-definition.js';
import { dropUnusedFunctions, removeTrigger, tablesWithTrigger } from './install-trigger.js';
import type { IndexWork, Step, TableWork, Work } from './plan-work.js';
import { forgetProgress, readProgress, type ProgressKey } from './progress-row.js';
import { dropNotNull, notNullKey } from './set-not-null.js';
import { shortLocks } from './short-locks.js';
import { runSql, sqlKey } from './sql-step.js';
import type { StepContext } from './step-context.js';

/**
 * Takes the plan's changes back, the last one first. Only what the run has written down as made by itself is removed,
 * and each part looks first, so it can be run again at any point, and on a run that got nowhere.
 *
 * @returns what was undone, a line each.
 */
export async function revertMigrations(context: StepContext, work: Work): Promise<string[]> {
  const undone: string[] = [];
  for (const step of [...work.steps].reverse()) undone.push(...(await revertStep(context, step)));
  for (const table of [...work.tables].reverse()) undone.push(...(await revertTable(context, table)));
  return undone;
}

/**
 * Removes every up/down trigger and its function: at the end of the run, when blue no longer follows. The columns stay.
 * From then on nobody fills the new columns but the application: code that writes only the old ones must be gone.
 *
 * @returns the tables that had one.
 */
export async function dropTriggers(context: StepContext): Promise<TableName[]> {
  const tables = await tablesWithTrigger(context.session);
  for (const table of tables) await dropTrigger(context, table);
  await dropUnusedFunctions(context.session);
  return tables;
}

async function dropTrigger(context: StepContext, table: TableName): Promise<boolean> {
  const object = `the up/down trigger of table ${formatTableName(table)}`;
  return shortLocks(context, context.session, { object }, () => removeTrigger(context.session, table));
}

async function revertStep(context: StepContext, step: Step): Promise<string[]> {
  const undone: string[] = [];
  const did = (what: string, key: ProgressKey): Promise<void> => {
    undone.push(what);
    return forgetProgress(context.session, key);
  };
  switch (step.kind) {
    case 'sql': {
      const up = sqlKey(context.runId, step.position, 'up');
      if ((await readProgress(context.session, up)) === undefined) break;
      await runSql(context, step.position, step.sql, 'down');
      await did(`SQL step "${step.sql.name}"`, up);
      break;
    }
    case 'constraint': {
      const { name } = step.constraint;
      const key = constraintKey(context.runId, step.table, name);
      if (await dropOurs(context, step.table, step.constraint)) {
        await did(`constraint "${name}" of ${formatTableName(step.table)}`, key);
      }
      break;
    }
    case 'notNull': {
      if ((await findTable(context.session, step.table)) === undefined) break;
      if (await dropNotNull(context, step.table, step.column)) {
        await did(
          `NOT NULL of ${formatTableName(step.table)}.${step.column}`,
          notNullKey(context.runId, step.table, step.column),
        );
      }
      break;
    }
    case 'indexes':
      for (const index of [...step.indexes].reverse()) {
        if (await revertIndex(context, index)) {
          await did(`index "${index.index.name}"`, indexKey(context.runId, index.table, index.index.name));
        }
      }
      break;
  }
  return undone;
}

async function revertIndex(context: StepContext, { table, index }: IndexWork): Promise<boolean> {
  const { session } = context;
  const known = await readProgress<IndexState>(session, indexKey(context.runId, table, index.name));
  if (known?.state.ours !== true) return false;
  const changed = await findTable(session, table);
  if (changed === undefined) return false;
  const found = await findIndex(session, table.schema, index.name);
  if (changed.info.kind !== 'partitioned') {
    if (found !== undefined) await dropIndex(context, session, table.schema, index.name);
    return found !== undefined;
  }
  // PostgreSQL drops the index of a partitioned table with all that is attached to it, and not CONCURRENTLY. A build that
  // did not get as far as the topmost table has those of the levels below, which nothing else drops.
  const below = (await levelsBelow(session, table)).map(({ schema, name }) => ({
    schema,
    name: leafIndexName(index.name, { schema, name }),
  }));
  const object = `index "${index.name}" on table ${formatTableName(table)}`;
  for (const { schema, name } of [{ schema: table.schema, name: index.name }, ...below]) {
    if ((await findIndex(session, schema, name)) === undefined) continue;
    await shortLocks(context, session, { object }, () =>
      session.query(`DROP INDEX IF EXISTS ${ident(schema)}.${ident(name)}`),
    );
  }
  // Of a build that did not get as far as the topmost table.
  for (const { name } of changed.leaves)
    await dropIndex(context, session, name.schema, leafIndexName(index.name, name));
  return true;
}

/** The partitions that have partitions themselves, the topmost first. */
async function levelsBelow(session: Session, table: TableName): Promise<TableName[]> {
  const { rows } = await session.query<TableName>(
    `SELECT n.nspname AS schema, c.relname AS name
       FROM ${partitionTree('$1::regclass')} t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE NOT t.isleaf AND t.level > 0
      ORDER BY t.level, 1, 2`,
    [qualified(table)],
  );
  return rows;
}

async function revertTable(context: StepContext, work: TableWork): Promise<string[]> {
  const { session } = context;
  const name = formatTableName(work.table);
  if ((await findTable(session, work.table)) === undefined) return [];
  const undone = (await dropTrigger(context, work.table)) ? [`up/down trigger of ${name}`] : [];
  const added = await addedColumns(context, work);
  if (added.length > 0) {
    await shortLocks(context, session, { object: `the new columns of table ${name}` }, () =>
      dropColumns(session, work.table, added),
    );
    undone.push(`columns ${added.map(ident).join(', ')} of ${qualified(work.table)}`);
  }
  await forgetWork(context, work);
  return undone;
}

/** A next try of the same run starts over: its cursors would say that rows are done whose columns are gone. */
async function forgetWork(context: StepContext, work: TableWork): Promise<void> {
  await forgetBackfill(context.session, context.runId, work.table);
  await forgetProgress(context.session, expandKey(context.runId, work));
}
