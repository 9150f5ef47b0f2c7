import { VerdigrisError } from '../../errors.js';
import type { AddConstraint } from '../../plan/schema.js';
import { formatTableName, parseTableName, type TableName } from '../../plan/table-name.js';
import { ident, qualified } from '../identifier.js';
import { majorVersion } from '../retry.js';
import type { Session } from '../session.js';
import { sqlState } from '../sqlstate.js';
import { readTable, type ChangedTable } from './changed-table.js';
import { readProgress, writeProgress, type ProgressKey } from './progress-row.js';
import { shortLocks } from './short-locks.js';
import type { StepContext } from './step-context.js';
import { isTransient, stepFailed } from './step-failed.js';

/** What a run writes down with a constraint that it makes: only such constraints are dropped by its rollback. */
export function constraintKey(runId: string, table: TableName, name: string): ProgressKey {
  return { runId, step: 'addConstraint', object: `${formatTableName(table)} ${name}` };
}

export interface ConstraintState {
  readonly ours: boolean;
}

/**
 * Adds a check or a foreign key: NOT VALID first, which takes a moment, then VALIDATE, which reads all rows and stops
 * neither reads nor writes. When rows violate it, it is removed again: left in place it would stop the replication at
 * the next row of that kind.
 *
 * @throws VerdigrisError MigrationStepFailed
 */
export async function addConstraint(context: StepContext, name: TableName, constraint: AddConstraint): Promise<void> {
  const table = await readTable(context.session, name);
  const object = `constraint "${constraint.name}" on table ${formatTableName(name)}`;
  const key = constraintKey(context.runId, name, constraint.name);
  const found = await findConstraint(context.session, name, constraint.name);
  if (found !== undefined) refuseAnother(found, constraint, object);
  if (found === undefined) await refuseViolated(context, table, constraint, object);
  try {
    if (found === undefined) await add(context, table, constraint, object, key);
    if (found?.valid !== true) await validate(context, table, constraint, object);
  } catch (error) {
    if (context.signal.aborted || isTransient(error)) throw error;
    await dropOurs(context, name, constraint.name, key);
    throw stepFailed(`${object} can't be added`, error, nextStep(constraint, sqlState(error), name));
  }
  const state = (await readProgress<ConstraintState>(context.session, key))?.state ?? { ours: false };
  await writeProgress(context.session, key, state, true);
  context.onProgress({ step: 'constraint', object, done: 1, total: 1, rowsPerSecond: 0, etaSeconds: 0 });
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
    await session.query(
      `ALTER TABLE ${qualified(table.info.name)} ADD CONSTRAINT ${ident(constraint.name)} ${definition(constraint)}${atOnce ? '' : ' NOT VALID'}`,
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
  await shortLocks(context, context.session, { object, searchPath: table.searchPath }, () =>
    context.session.query(sql),
  );
}

function definition(constraint: AddConstraint): string {
  if (constraint.foreignKey === undefined) return `CHECK (${constraint.check ?? 'true'}\n)`;
  const { columns, references, onDelete, onUpdate } = constraint.foreignKey;
  return (
    `FOREIGN KEY (${columns.map(ident).join(', ')}) ` +
    `REFERENCES ${qualified(parseTableName(references.table))} (${references.columns.map(ident).join(', ')}) ` +
    `ON DELETE ${onDelete} ON UPDATE ${onUpdate}`
  );
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
  let violated = 0;
  try {
    await shortLocks(context, context.session, { object, searchPath: table.searchPath }, async () => {
      const { rowCount } = await context.session.query(
        `SELECT FROM ${qualified(table.info.name)} AS ${ident(table.info.name.name)} WHERE NOT (${check}\n) LIMIT 1`,
      );
      violated = rowCount ?? 0;
    });
  } catch (error) {
    if (context.signal.aborted || isTransient(error)) throw error;
    throw stepFailed(`${object} is refused by PostgreSQL`, error, 'correct the expression in the plan');
  }
  if (violated === 0) return;
  throw new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `${object} can't be added: rows violate it`,
    nextStep: nextStep(constraint, '23514', table.info.name),
  });
}

function nextStep(constraint: AddConstraint, state: string | undefined, table: TableName): string {
  if (state === '23514') {
    return `find the rows by SELECT * FROM ${formatTableName(table)} WHERE NOT (${constraint.check ?? ''}), correct them on blue and start again`;
  }
  if (state === '23503') return 'correct the rows without a counterpart on blue and start again';
  return 'correct it in the plan';
}

interface FoundConstraint {
  readonly type: string;
  readonly valid: boolean;
  readonly definition: string;
}

async function findConstraint(session: Session, table: TableName, name: string): Promise<FoundConstraint | undefined> {
  const { rows } = await session.query<FoundConstraint>(
    `SELECT contype AS type, convalidated AS valid, pg_get_constraintdef(oid) AS definition
       FROM pg_constraint WHERE conrelid = to_regclass($1) AND conname = $2`,
    [qualified(table), name],
  );
  return rows[0];
}

function refuseAnother(found: FoundConstraint, constraint: AddConstraint, object: string): void {
  if (found.type === (constraint.foreignKey === undefined ? 'c' : 'f')) return;
  throw new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `${object}: there is another constraint of that name: ${found.definition}`,
    nextStep: 'give the new constraint another name in the plan',
  });
}

/** Drops the constraint when the run has made it. */
export async function dropOurs(
  context: StepContext,
  table: TableName,
  name: string,
  key: ProgressKey,
): Promise<boolean> {
  const { session } = context;
  const known = await readProgress<ConstraintState>(session, key);
  if (known?.state.ours !== true || (await findConstraint(session, table, name)) === undefined) return false;
  await shortLocks(
    context,
    session,
    { object: `constraint "${name}" on table ${formatTableName(table)}` },
    async () => {
      await session.query(`ALTER TABLE ${qualified(table)} DROP CONSTRAINT IF EXISTS ${ident(name)}`);
    },
  );
  return true;
}
