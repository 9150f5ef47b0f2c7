import { VerdigrisError } from '../../errors.js';
import type { AddConstraint } from '../../plan/schema.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { ident, qualified } from '../identifier.js';
import { majorVersion } from '../retry.js';
import { CHECK_VIOLATION, FOREIGN_KEY_VIOLATION, sqlState } from '../sqlstate.js';
import { findTable, readTable, type ChangedTable } from './changed-table.js';
import { constraintSql, findConstraint, refuseAnotherConstraint } from './constraint-definition.js';
import { constraintKey, type ConstraintState } from './constraint-progress.js';
import { DEFAULT_INDEX_SETTINGS, type IndexSettings } from './index-settings.js';
import { addKeyConstraint, dropKeyConstraint, dropKeyNotNull } from './key-constraint.js';
import { forgetProgress, lockProgress, readProgress, writeProgress, type ProgressKey } from './progress-row.js';
import { planByHash } from './plan-by-hash.js';
import { isOrphan } from './recheck-foreign-keys.js';
import { CORRECT_ROWS, keysOfRows, rowsInTheWay } from './rows-in-the-way.js';
import { shortLocks } from './short-locks.js';
import type { StepContext } from './step-context.js';
import { isTransient, passing, stepFailed } from './step-failed.js';

/**
 * Adds a constraint without reading rows under a lock. A check or a foreign key: NOT VALID first, which takes a moment,
 * then VALIDATE, which stops neither reads nor writes. A unique constraint or a primary key: from an index that is built
 * before. When rows violate it, it is removed again: left in place it would stop the replication at the next row of that
 * kind.
 *
 * @throws VerdigrisError MigrationStepFailed; BackfillFailed when rows violate it
 */
export async function addConstraint(
  context: StepContext,
  name: TableName,
  constraint: AddConstraint,
  settings: IndexSettings = DEFAULT_INDEX_SETTINGS,
): Promise<void> {
  const { session } = context;
  const table = await readTable(session, name);
  const object = `constraint "${constraint.name}" on table ${formatTableName(name)}`;
  const key = constraintKey(context.runId, name, constraint.name);
  const found = await findConstraint(session, name, constraint.name);
  if (found !== undefined) await refuseAnotherConstraint(session, table, constraint, found, object);
  if (found === undefined) await refuseViolated(context, table, constraint, object);
  try {
    if (isKey(constraint)) {
      if (found === undefined) await addKeyConstraint(context, table, constraint, object, settings);
    } else {
      if (found === undefined) await add(context, table, constraint, object, key);
      if (found?.valid !== true) await validate(context, table, constraint, object);
    }
  } catch (error) {
    if (context.signal.aborted || isTransient(error) || (error instanceof VerdigrisError && error.retryable))
      throw passing(`${object} can't be added`, error);
    await dropOurs(context, name, constraint, 'unfinished');
    if (ROWS_VIOLATE.has(sqlState(error) ?? '')) throw await violated(context, table, constraint, object, error);
    throw stepFailed(`${object} can't be added`, error, 'correct it in the plan');
  }
  const state = (await readProgress<ConstraintState>(session, key))?.state ?? { ours: false };
  await writeProgress(session, key, state, true);
  context.onProgress({ step: 'constraint', object, done: 1, total: 1, rowsPerSecond: 0, etaSeconds: 0 });
}

/** Constraints that are an index. */
function isKey({ unique, primaryKey }: AddConstraint): boolean {
  return unique !== undefined || primaryKey !== undefined;
}

async function add(
  context: StepContext,
  table: ChangedTable,
  constraint: AddConstraint,
  object: string,
  key: ProgressKey,
): Promise<void> {
  const { session } = context;
  // Refused by PostgreSQL before 18 for a foreign key of a partitioned table: there it is validated at once.
  const atOnce =
    constraint.foreignKey !== undefined && table.info.kind === 'partitioned' && (await majorVersion(session)) < 18;
  await shortLocks(context, session, { object, searchPath: table.searchPath }, async () => {
    const known = await lockProgress<ConstraintState>(session, key, { ours: false });
    const found = await findConstraint(session, table.info.name, constraint.name);
    if (found !== undefined && known.state.ours) return;
    await session.query(
      `ALTER TABLE ${qualified(table.info.name)} ADD CONSTRAINT ${ident(constraint.name)} ${constraintSql(constraint)}${atOnce ? '' : ' NOT VALID'}`,
    );
    const state: ConstraintState = { ours: true };
    await writeProgress(session, key, state, false);
  });
}

async function validate(
  context: StepContext,
  table: ChangedTable,
  constraint: AddConstraint,
  object: string,
): Promise<void> {
  const sql = `ALTER TABLE ${qualified(table.info.name)} VALIDATE CONSTRAINT ${ident(constraint.name)}`;
  await shortLocks(context, context.session, { object, searchPath: table.searchPath }, async () => {
    await planByHash(context.session, 'transaction');
    await context.session.query(sql);
  });
}

/**
 * A NOT VALID check already refuses the next update of a row that violates it, which would stop the replication: so
 * the rows are looked at before it is made.
 */
async function refuseViolated(
  context: StepContext,
  table: ChangedTable,
  constraint: AddConstraint,
  object: string,
): Promise<void> {
  const { check } = constraint;
  if (check === undefined) return;
  let keys: readonly string[];
  try {
    keys = await keysOfRows(context, table, violates(table.info.name, constraint), object);
  } catch (error) {
    if (context.signal.aborted || isTransient(error)) throw passing(`${object} can't be added`, error);
    throw stepFailed(`${object} is refused by PostgreSQL`, error, 'correct the expression in the plan');
  }
  if (keys.length > 0) throw rowsViolate(table.info.name, constraint, object, keys);
}

const ROWS_VIOLATE: ReadonlySet<string> = new Set([CHECK_VIOLATION, FOREIGN_KEY_VIOLATION]);

/** The error of a validation that has met rows which violate the constraint. They are named where they are found again. */
async function violated(
  context: StepContext,
  table: ChangedTable,
  constraint: AddConstraint,
  object: string,
  cause: unknown,
): Promise<VerdigrisError> {
  const condition = violates(table.info.name, constraint);
  const keys = await keysOfRows(context, table, condition, object).catch(() => []);
  context.signal.throwIfAborted();
  return rowsViolate(table.info.name, constraint, object, keys, cause);
}

/** The rows that violate a check or a foreign key, as a condition. */
function violates(table: TableName, { check, foreignKey }: AddConstraint): string {
  return foreignKey === undefined ? `NOT (${check ?? 'true'}\n)` : isOrphan(table.name, foreignKey);
}

function rowsViolate(
  table: TableName,
  constraint: AddConstraint,
  object: string,
  keys: readonly string[],
  cause?: unknown,
): VerdigrisError {
  const why = constraint.check === undefined ? 'rows have no counterpart' : 'rows violate it';
  const find = `find them by SELECT * FROM ${formatTableName(table)} WHERE ${violates(table, constraint).replace(/\n\)$/, ')')}`;
  return rowsInTheWay(`${object} can't be added: ${why}`, keys, { nextStep: `${find}; ${CORRECT_ROWS}`, cause });
}

/**
 * Takes the constraint back when the run has made it, and what is left of a try.
 *
 * @param which `unfinished`: not one that is valid. After a try that has failed it is another attempt's. Default: `any`
 * @returns whether there was anything to take back.
 */
export async function dropOurs(
  context: StepContext,
  table: TableName,
  constraint: AddConstraint,
  which: 'unfinished' | 'any' = 'any',
): Promise<boolean> {
  const { session } = context;
  const { name } = constraint;
  const key = constraintKey(context.runId, table, name);
  const known = await readProgress<ConstraintState>(session, key);
  if (known?.state.ours !== true || (await findTable(session, table)) === undefined) return false;
  const stays = async (): Promise<boolean> =>
    which === 'unfinished' && (await findConstraint(session, table, name))?.valid === true;
  if (await stays()) return false;
  let dropped = false;
  if (isKey(constraint)) {
    dropped = await dropKeyConstraint(context, table, constraint, which);
    await dropKeyNotNull(context, table, constraint);
  } else if ((await findConstraint(session, table, name)) !== undefined) {
    const object = `constraint "${name}" on table ${formatTableName(table)}`;
    dropped = await shortLocks(context, session, { object }, async () => {
      // Whoever validates it is over then.
      await session.query(`LOCK TABLE ${qualified(table)} IN ACCESS EXCLUSIVE MODE`);
      if (await stays()) return false;
      await session.query(`ALTER TABLE ${qualified(table)} DROP CONSTRAINT IF EXISTS ${ident(name)}`);
      return true;
    });
    if (!dropped) return false;
  }
  // A next try must not take for its own what somebody makes under the name meanwhile.
  await forgetProgress(session, key);
  return dropped;
}
