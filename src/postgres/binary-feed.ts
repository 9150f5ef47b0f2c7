import { formatTableName } from '../plan/table-name.js';
import { copyFormat } from './bootstrap/copy/copy-format.js';
import { NOTHING_COMPUTED } from './bootstrap/copy/copy-query.js';
import type { TableInfo } from './catalog.js';
import { readProgress, writeProgress, type ProgressKey } from './migrate/progress-row.js';
import type { Run } from './ownership.js';
import type { LockRetryOptions } from './retry.js';
import type { Session } from './session.js';
import { streamNames } from './streams.js';
import { takeAsText } from './subscription.js';

/**
 * Whether a feed of these tables may send values in binary form (`binary` of ensureSubscription): every column that is
 * replicated has the same type on both sides, with a binary form that is the same in all versions and holds no OID.
 * Unlike text, binary values can't go into a column of another type: a statement that changes one later would stop the
 * feed, also where it is made on both sides, or is taken back: rows are sent as they were when they were written. So it
 * is for plans without raw SQL, and until somebody's DDL has been noticed (sendAsText).
 *
 * @param source the moved tables of the side that is read, @param target those of the side that is filled.
 */
export function isBinarySafe(source: readonly TableInfo[], target: readonly TableInfo[]): boolean {
  const there = new Map(target.map((table) => [formatTableName(table.name), table]));
  return source.every((table) => {
    const other = there.get(formatTableName(table.name));
    const columns = table.columns.filter((column) => !column.generated).map((column) => column.name);
    if (other === undefined) return false;
    return columns.length === 0 || copyFormat(table, other, columns, NOTHING_COMPUTED) === 'binary';
  });
}

/** On blue: green may still be its standby. */
function asTextKey({ runId }: Run): ProgressKey {
  return { runId, step: 'feed as text', object: 'to_green' };
}

/** Whether the feed to green is to be text, whatever its columns are. */
export async function isToBeText(blue: Session, run: Run): Promise<boolean> {
  return (await readProgress(blue, asTextKey(run))) !== undefined;
}

/**
 * Has the feed to green go as text from here on, also one that is made later: rows that are on their way may be of
 * another type than their column is by now.
 *
 * @throws VerdigrisError LockNotHad (retryable)
 */
export async function sendAsText(
  { blue, green }: { readonly blue: Session; readonly green: Session },
  run: Run,
  streams: number,
  patience?: LockRetryOptions,
): Promise<void> {
  await writeProgress(blue, asTextKey(run), {}, true);
  for (const name of streamNames(run.migration, 'to_green', streams)) await takeAsText(green, name, patience);
}
