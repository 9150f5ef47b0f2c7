import { VerdigrisError } from '../../errors.js';
import { formatTableName } from '../../plan/table-name.js';
import type { KeyColumn, TableInfo } from '../catalog.js';
import { qualified } from '../identifier.js';
import type { BackfillStatement } from './backfill-statement.js';
import {
  describeKey,
  inRange,
  keyInRow,
  keyList,
  keyTexts,
  Parameters,
  type KeyRange,
  type KeyValues,
} from './key-range.js';
import type { StepContext } from './step-context.js';
import { BEGIN } from '../session.js';
import { sqlState } from '../sqlstate.js';
import { isTransient, messageOf } from './step-failed.js';

/**
 * SQLSTATE classes of errors that are no row's fault: connection, transaction state (a fence, a read-only server),
 * rollbacks, a full disk or memory, locks, an operator, the system, the configuration.
 */
const NO_ROWS_FAULT: ReadonlySet<string> = new Set(['08', '25', '40', '53', '55', '57', '58', 'F0', 'XX']);

/** Whether a statement can have failed because of a row. */
export function mayBeARow(error: unknown): boolean {
  const state = sqlState(error);
  return state !== undefined && !isTransient(error) && !NO_ROWS_FAULT.has(state.slice(0, 2));
}

/** Finds the row on which a batch failed, by halving the batch, and words the error. The tries are rolled back. */
export async function failingRow(
  context: StepContext,
  table: TableInfo,
  key: readonly KeyColumn[],
  statement: BackfillStatement,
  batch: KeyRange,
  cause: unknown,
): Promise<VerdigrisError> {
  let range = batch;
  let error = cause;
  for (;;) {
    context.signal.throwIfAborted();
    const middle = await middleOf(context, table, key, range);
    if (middle === undefined) break;
    const first = { after: range.after, upTo: middle };
    const failed = await errorOf(context, table, key, statement, first);
    range = failed === undefined ? { after: middle, upTo: range.upTo } : first;
    error = failed ?? error;
  }
  const row = range.upTo === null ? 'unknown' : describeKey(key, range.upTo);
  return new VerdigrisError({
    type: 'BackfillFailed',
    message: `the backfill of table ${formatTableName(table.name)} failed on the row with ${row}: ${messageOf(error)}`,
    nextStep:
      'correct the row on blue and go on: the backfill continues behind its last batch; or roll back and make the "up" expression accept such rows',
    cause: error,
  });
}

/** The key in the middle of a range; undefined when it holds no more than one row. */
async function middleOf(
  context: StepContext,
  table: TableInfo,
  key: readonly KeyColumn[],
  range: KeyRange,
): Promise<KeyValues | undefined> {
  const parameters = new Parameters();
  const where = inRange(key, range, parameters);
  const { rows } = await context.session.query<Record<string, unknown>>(
    `SELECT ${keyTexts(key)}
       FROM (SELECT ${keyList(key)}, row_number() OVER (ORDER BY ${keyList(key)}) AS verdigris_n, count(*) OVER () AS verdigris_total
               FROM ${table.kind === 'partitioned' ? '' : 'ONLY '}${qualified(table.name)} WHERE ${where}) batch
      WHERE verdigris_total > 1 AND verdigris_n = verdigris_total / 2`,
    parameters.values,
  );
  return rows[0] && keyInRow(key, rows[0]);
}

async function errorOf(
  context: StepContext,
  table: TableInfo,
  key: readonly KeyColumn[],
  statement: BackfillStatement,
  range: KeyRange,
): Promise<unknown> {
  const parameters = new Parameters();
  const sql = statement.update(table.name, inRange(key, range, parameters));
  await context.session.query(BEGIN);
  try {
    await context.session.query(sql, parameters.values);
    return undefined;
  } catch (error) {
    if (!mayBeARow(error)) throw error;
    return error;
  } finally {
    await context.session.query('ROLLBACK').catch(() => undefined);
  }
}
