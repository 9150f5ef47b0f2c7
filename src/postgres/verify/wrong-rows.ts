import { keyInRow, keyTexts } from '../migrate/key-range.js';
import type { Rows } from './compare-rows.js';
import { LISTED, type RowDifference } from './difference.js';
import type { SideSessions } from './side-sessions.js';
import { fromTable, type TablePair } from './table-pair.js';

/** Derived columns are written with their row, so there is no lag to wait for: what is wrong now is wrong. */
export async function wrongIn(
  sessions: SideSessions,
  pair: TablePair,
  wrong: readonly string[],
  rows: Rows,
): Promise<{ listed: RowDifference[]; unlisted: number }> {
  const listed: RowDifference[] = [];
  let unlisted = 0;
  for (const [check, count] of wrong.entries()) {
    if (count === '0') continue;
    const found = await wrongRowsOf(sessions, pair, check, rows);
    listed.push(...found);
    // Rows may have been put right since they were counted; those that are found are the least.
    unlisted += found.length === LISTED ? Math.max(0, Number(count) - LISTED) : 0;
  }
  return { listed, unlisted };
}

/** The rows that a check of the target finds wrong, the first hundred. */
async function wrongRowsOf(
  sessions: SideSessions,
  pair: TablePair,
  check: number,
  rows: Rows,
): Promise<RowDifference[]> {
  const { column, condition } = pair.checks[check] ?? { column: '', condition: 'false' };
  const found = await sessions.on('target', (session) =>
    session.query<Record<string, unknown>>(
      `SELECT ${keyTexts(pair.key)} ${fromTable(pair)} WHERE (${rows.where}) AND (${condition}) LIMIT ${LISTED}`,
      [...rows.values],
    ),
  );
  return found.rows.map((row) => ({ key: keyInRow(pair.key, row), kind: 'derived', columns: [column] }));
}
