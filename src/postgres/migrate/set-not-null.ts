import { createHash } from 'node:crypto';
import type { VerdigrisError } from '../../errors.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { ident, qualified } from '../identifier.js';
import type { Session } from '../session.js';
import { CHECK_VIOLATION, NOT_NULL_VIOLATION, sqlState } from '../sqlstate.js';
import { columnOf, readTable, type ChangedTable } from './changed-table.js';
import { readProgress, writeProgress, type ProgressKey } from './progress-row.js';
import { CORRECT_ROWS, keysOfRows, rowsInTheWay } from './rows-in-the-way.js';
import { shortLocks, type ShortLocks } from './short-locks.js';
import type { StepContext } from './step-context.js';
import { isTransient, passing, stepFailed } from './step-failed.js';

/** What a run writes down with a NOT NULL that it sets: only those are taken back by its rollback. */
export function notNullKey(runId: string, table: TableName, column: string): ProgressKey {
  return { runId, step: 'setNotNull', object: `${formatTableName(table)} ${column}` };
}

export interface NotNullState {
  readonly ours: boolean;
}

/** The proof; a NOT NULL that is validated. */
const ROWS_VIOLATE: ReadonlySet<string> = new Set([CHECK_VIOLATION, NOT_NULL_VIOLATION]);

/**
 * Sets NOT NULL without reading the table under a lock: a check constraint is added NOT VALID, validated while the table
 * is in use, taken by PostgreSQL as the proof for SET NOT NULL, and dropped. Each part is skipped when it is done. A NOT NULL
 * that is there as NOT VALID is validated: SET NOT NULL would read the table under its lock.
 *
 * @throws VerdigrisError BackfillFailed when there are rows with NULL; MigrationStepFailed
 */
export async function setNotNull(context: StepContext, table: TableName, column: string): Promise<void> {
  const { session } = context;
  const changed = await readTable(session, table);
  const { info, searchPath } = changed;
  const object = `NOT NULL of column "${column}" of table ${formatTableName(table)}`;
  const key = notNullKey(context.runId, table, column);
  const check = proofName(table, column);
  const locks = { object, searchPath };
  if (!columnOf(info, column).notNull) {
    await refuseNulls(context, changed, column, object);
    try {
      const notValid = await readNotValid(session, table, column);
      if (notValid === undefined) await setByProof(context, table, column, { check, key, locks });
      else {
        await shortLocks(context, session, locks, async () => {
          await session.query(`ALTER TABLE ${qualified(table)} VALIDATE CONSTRAINT ${ident(notValid)}`);
          await writeProgress(session, key, { ours: false } satisfies NotNullState, true);
        });
      }
    } catch (error) {
      if (context.signal.aborted || isTransient(error)) throw passing(`${object} can't be set`, error);
      await dropProof(context, table, check, object);
      // A row that has come since the look.
      if (ROWS_VIOLATE.has(sqlState(error) ?? '')) {
        const keys = await nullRows(context, changed, column, object).catch(() => []);
        context.signal.throwIfAborted();
        throw nullsInTheWay(object, keys, error);
      }
      throw stepFailed(`${object} can't be set`, error, 'see what PostgreSQL says, and correct the plan');
    }
  } else if ((await readProgress(session, key)) === undefined) {
    const state: NotNullState = { ours: false };
    await writeProgress(session, key, state, true);
  }
  // Left by a try of another run that died before its last part.
  await dropProof(context, table, check, object);
  context.onProgress({ step: 'notNull', object, done: 1, total: 1, rowsPerSecond: 0, etaSeconds: 0 });
}

async function setByProof(
  context: StepContext,
  table: TableName,
  column: string,
  { check, key, locks }: { readonly check: string; readonly key: ProgressKey; readonly locks: ShortLocks },
): Promise<void> {
  const { session } = context;
  if (!(await hasConstraint(session, table, check))) {
    await shortLocks(context, session, locks, () =>
      session.query(
        `ALTER TABLE ${qualified(table)} ADD CONSTRAINT ${ident(check)} CHECK (${ident(column)} IS NOT NULL) NOT VALID`,
      ),
    );
  }
  await shortLocks(context, session, locks, () =>
    session.query(`ALTER TABLE ${qualified(table)} VALIDATE CONSTRAINT ${ident(check)}`),
  );
  const state: NotNullState = { ours: true };
  await shortLocks(context, session, locks, async () => {
    await session.query(`ALTER TABLE ${qualified(table)} ALTER COLUMN ${ident(column)} SET NOT NULL`);
    await session.query(`ALTER TABLE ${qualified(table)} DROP CONSTRAINT ${ident(check)}`);
    await writeProgress(session, key, state, true);
  });
}

/** The name of a NOT NULL that holds for new rows alone, as PostgreSQL 18 and later have them. */
async function readNotValid(session: Session, table: TableName, column: string): Promise<string | undefined> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT k.conname AS name FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
      WHERE k.conrelid = to_regclass($1) AND k.contype = 'n' AND NOT k.convalidated AND a.attname = $2`,
    [qualified(table), column],
  );
  return rows[0]?.name;
}

/** Before anything is made: a NOT VALID check would stop the replication at the next update of such a row. */
async function refuseNulls(context: StepContext, table: ChangedTable, column: string, object: string): Promise<void> {
  const keys = await nullRows(context, table, column, object);
  if (keys.length > 0) throw nullsInTheWay(object, keys);
}

function nullRows(
  context: StepContext,
  table: ChangedTable,
  column: string,
  object: string,
): Promise<readonly string[]> {
  return keysOfRows(context, table, `${ident(column)} IS NULL`, object);
}

function nullsInTheWay(object: string, keys: readonly string[], cause?: unknown): VerdigrisError {
  return rowsInTheWay(`${object} can't be set: there are rows in which it is NULL`, keys, {
    nextStep: `${CORRECT_ROWS}: give the column an "up" that is never NULL, or leave its NOT NULL out`,
    cause,
  });
}

/** Takes NOT NULL back when the run has set it, and whatever is left of a try. */
export async function dropNotNull(context: StepContext, table: TableName, column: string): Promise<boolean> {
  const { session } = context;
  const object = `NOT NULL of column "${column}" of table ${formatTableName(table)}`;
  await dropProof(context, table, proofName(table, column), object);
  const known = await readProgress<NotNullState>(session, notNullKey(context.runId, table, column));
  const { info } = await readTable(session, table);
  const isSet = info.columns.some(({ name, notNull }) => name === column && notNull);
  // Of a primary key it is taken back when the key is.
  if (known?.state.ours !== true || !isSet || (await isInPrimaryKey(session, table, column))) return false;
  await shortLocks(context, session, { object }, () =>
    session.query(`ALTER TABLE ${qualified(table)} ALTER COLUMN ${ident(column)} DROP NOT NULL`),
  );
  return true;
}

async function isInPrimaryKey(session: Session, table: TableName, column: string): Promise<boolean> {
  const { rowCount } = await session.query(
    `SELECT FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
      WHERE c.conrelid = to_regclass($1) AND c.contype = 'p' AND a.attname = $2`,
    [qualified(table), column],
  );
  return (rowCount ?? 0) > 0;
}

async function dropProof(context: StepContext, table: TableName, check: string, object: string): Promise<void> {
  const { session } = context;
  if (!(await hasConstraint(session, table, check))) return;
  await shortLocks(context, session, { object }, () =>
    session.query(`ALTER TABLE ${qualified(table)} DROP CONSTRAINT IF EXISTS ${ident(check)}`),
  );
}

function proofName(table: TableName, column: string): string {
  const hash = createHash('sha256')
    .update(JSON.stringify([table.schema, table.name, column]))
    .digest('hex');
  return `verdigris_not_null_${hash.slice(0, 16)}`;
}

async function hasConstraint(session: Session, table: TableName, name: string): Promise<boolean> {
  const { rowCount } = await session.query(
    'SELECT FROM pg_constraint WHERE conrelid = to_regclass($1) AND conname = $2',
    [qualified(table), name],
  );
  return rowCount === 1;
}
