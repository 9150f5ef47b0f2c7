import { VerdigrisError } from '../../errors.js';
import { qualified, ident } from '../identifier.js';
import type { ChangedTable } from './changed-table.js';
import { describeKey, keyInRow, keyTexts } from './key-range.js';
import { shortLocks } from './short-locks.js';
import type { StepContext } from './step-context.js';

/** So many rows are named. */
const NAMED = 10;

/** What is done about rows that break what a step makes. */
export const CORRECT_ROWS =
  'correct them on blue and see that green has the same (in phase replicate it does not follow blue yet: correct them there, too), then resume; or roll back and correct the plan';

/**
 * The keys of rows for which a condition holds, as people write them: so many as are named, and one more when there are
 * more. Empty when there are none.
 *
 * @param condition over the row, by the names of its columns or by that of the table
 */
export async function keysOfRows(
  context: StepContext,
  { info, searchPath }: ChangedTable,
  condition: string,
  object: string,
): Promise<readonly string[]> {
  const key = info.key?.columns ?? [];
  return shortLocks(context, context.session, { object, searchPath }, async () => {
    const { rows } = await context.session.query<Record<string, unknown>>(
      `SELECT ${keyTexts(key)} FROM ${qualified(info.name)} AS ${ident(info.name.name)} WHERE ${condition} LIMIT ${NAMED + 1}`,
    );
    return rows.map((row) => (key.length === 0 ? 'a row without a key' : describeKey(key, keyInRow(key, row))));
  });
}

/**
 * The error of rows of the application that break what a step makes. Its type holds the run: the rows can be corrected,
 * and the step is done again.
 */
export function rowsInTheWay(
  what: string,
  keys: readonly string[],
  { nextStep = CORRECT_ROWS, cause }: { readonly nextStep?: string; readonly cause?: unknown } = {},
): VerdigrisError {
  const named = keys.slice(0, NAMED).map((key) => `(${key})`);
  const which = named.length === 0 ? '' : `: ${named.join(', ')}${keys.length > NAMED ? ' and more' : ''}`;
  return new VerdigrisError({ type: 'BackfillFailed', message: `${what}${which}`, nextStep, cause });
}
