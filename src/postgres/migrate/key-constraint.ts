import { VerdigrisError } from '../../errors.js';
import type { AddConstraint, CreateIndex } from '../../plan/schema.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { ident, qualified } from '../identifier.js';
import type { Session } from '../session.js';
import type { ChangedTable } from './changed-table.js';
import { constraintKey, type ConstraintState } from './constraint-progress.js';
import { planBuild } from './create-index.js';
import { buildIndex, dropIndex } from './index-build.js';
import { findIndex, refuseAnother, shapeOf, type FoundIndex } from './index-definition.js';
import { inLanes } from './index-lanes.js';
import type { IndexSettings } from './index-settings.js';
import { lockProgress, readProgress, writeProgress } from './progress-row.js';
import { dropNotNull, setNotNull } from './set-not-null.js';
import { shortLocks } from './short-locks.js';
import type { StepContext } from './step-context.js';

/**
 * Adds a unique constraint or a primary key whose index is not built under a lock: the index first, as any other index
 * is built, then ADD CONSTRAINT ... USING INDEX, which takes a moment. The columns of a primary key become NOT NULL
 * before that, by validated checks: else PostgreSQL would read the table under its lock.
 *
 * The constraint is not there yet; what a try that died has left of it is gone on with.
 *
 * @throws VerdigrisError MigrationStepFailed
 */
export async function addKeyConstraint(
  context: StepContext,
  table: ChangedTable,
  constraint: AddConstraint,
  object: string,
  settings: IndexSettings,
): Promise<void> {
  const { session } = context;
  const { info, searchPath } = table;
  if (info.kind === 'partitioned') throw noKeyOnPartitioned(info.name, constraint, object);
  if (constraint.primaryKey !== undefined) await refuseSecondPrimaryKey(session, info.name, object);
  const index = indexOf(constraint);
  await session.query(`SELECT set_config('search_path', $1, false)`, [searchPath]);
  const shape = await shapeOf(session, info, index).finally(() =>
    session.query(`SELECT set_config('search_path', 'pg_catalog', false)`),
  );
  await claim(context, info.name, constraint, shape, object);
  for (const column of constraint.primaryKey ?? []) await setNotNull(context, info.name, column);
  const build = planBuild({ info, on: info, index, name: constraint.name, shape, searchPath });
  await inLanes(context, 'index', settings, [build], async (lane) => {
    await buildIndex(lane, build, settings);
  });
  const kind = constraint.primaryKey === undefined ? 'UNIQUE' : 'PRIMARY KEY';
  const key = constraintKey(context.runId, info.name, constraint.name);
  const state: ConstraintState = { ours: true };
  await shortLocks(context, session, { object }, async () => {
    await lockProgress(session, key, state);
    // By another attempt, since the index was built.
    if (await isConstraint(session, await findIndex(session, info.name.schema, constraint.name), constraint)) return;
    await session.query(
      `ALTER TABLE ${qualified(info.name)} ADD CONSTRAINT ${ident(constraint.name)} ${kind} USING INDEX ${ident(constraint.name)}`,
    );
    await writeProgress(session, key, state, true);
  });
}

/**
 * Written down before the index is begun, so that the index of a worker that dies is known as ours; an index that is
 * there before that is somebody else's, and would be taken away from them by becoming a constraint.
 */
async function claim(
  context: StepContext,
  table: TableName,
  constraint: AddConstraint,
  shape: string | undefined,
  object: string,
): Promise<void> {
  const { session } = context;
  const key = constraintKey(context.runId, table, constraint.name);
  const known = await readProgress<ConstraintState>(session, key);
  const found = await findIndex(session, table.schema, constraint.name);
  if (found !== undefined && known?.state.ours !== true) {
    throw new VerdigrisError({
      type: 'MigrationStepFailed',
      message: `${object} can't be added: there is an index "${constraint.name}" already`,
      nextStep: 'give the new constraint another name in the plan',
    });
  }
  if (found?.valid === true) refuseAnother(constraint.name, table, found, found.table, shape);
  const state: ConstraintState = { ours: true };
  if (known?.state.ours !== true) await writeProgress(session, key, state, false);
}

/** The index that becomes the constraint: it has its name, and PostgreSQL's order and operator classes by default. */
function indexOf(constraint: AddConstraint): CreateIndex {
  return {
    table: constraint.table,
    name: constraint.name,
    method: 'btree',
    columns: [...(constraint.unique ?? constraint.primaryKey ?? [])],
    unique: true,
    include: [],
  };
}

function noKeyOnPartitioned(table: TableName, constraint: AddConstraint, object: string): VerdigrisError {
  return new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `${object}: PostgreSQL can't add it to a partitioned table without reading all rows under a lock (ADD CONSTRAINT ... USING INDEX is not supported there)`,
    nextStep: `write a unique createIndex on ${formatTableName(table)} instead, over ${(constraint.unique ?? constraint.primaryKey ?? []).join(', ')} and the columns that it is partitioned by`,
  });
}

async function refuseSecondPrimaryKey(session: Session, table: TableName, object: string): Promise<void> {
  const { rows } = await session.query<{ name: string; definition: string }>(
    `SELECT conname AS name, pg_get_constraintdef(oid) AS definition
       FROM pg_constraint WHERE conrelid = to_regclass($1) AND contype = 'p'`,
    [qualified(table)],
  );
  const found = rows[0];
  if (found === undefined) return;
  throw new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `${object} can't be added: the table has a primary key already, "${found.name}" ${found.definition}`,
    nextStep:
      'write "unique" instead of "primaryKey"; which key is the primary one can be changed when blue is retired',
  });
}

/** Whether an index has become the constraint. */
async function isConstraint(
  session: Session,
  index: FoundIndex | undefined,
  { name }: AddConstraint,
): Promise<boolean> {
  if (index === undefined) return false;
  const { rowCount } = await session.query('SELECT FROM pg_constraint WHERE conindid = $1::oid AND conname = $2', [
    index.oid,
    name,
  ]);
  return rowCount !== 0;
}

/**
 * Takes back what the run has made: the constraint with its index, or an index that has not become one.
 *
 * @param which `unfinished`: such an index alone, which PostgreSQL refuses to drop once it has
 */
export async function dropKeyConstraint(
  context: StepContext,
  table: TableName,
  constraint: AddConstraint,
  which: 'unfinished' | 'any',
): Promise<boolean> {
  const { session } = context;
  const { name } = constraint;
  const found = await findIndex(session, table.schema, name);
  if (found === undefined) return false;
  if (which === 'unfinished' || !(await isConstraint(session, found, constraint))) {
    await dropIndex(context, session, table.schema, name);
  } else {
    const object = `constraint "${name}" on table ${formatTableName(table)}`;
    await shortLocks(context, session, { object }, () =>
      session.query(`ALTER TABLE ${qualified(table)} DROP CONSTRAINT IF EXISTS ${ident(name)}`),
    );
  }
  return true;
}

/** The columns of a primary key are what they were before. Not before the key is gone: PostgreSQL would refuse it. */
export async function dropKeyNotNull(context: StepContext, table: TableName, constraint: AddConstraint): Promise<void> {
  for (const column of constraint.primaryKey ?? []) await dropNotNull(context, table, column);
}
