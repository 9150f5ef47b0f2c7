import { keyInRow, keyTexts, type KeyValues } from '../migrate/key-range.js';
import type { RowDifference } from './difference.js';
import { LISTED } from './difference.js';
import { differingColumns, settleRows } from './settle-rows.js';
import type { SideSessions } from './side-sessions.js';
import { fromTable, rowHash, type TablePair } from './table-pair.js';

/** Some rows of a table, as a condition; the same rows on both sides. */
export interface Rows {
  readonly where: string;
  readonly values: readonly unknown[];
}

/** What one side has of some rows. */
export interface Sum {
  /** Key of a group, where there are groups. */
  readonly bucket: number;
  readonly rows: string;
  /** Sum of the hashes: no order, and any change of any row changes it. */
  readonly hash: string;
  /** Rows for which each check of the pair is true. */
  readonly wrong: readonly string[];
}

/** The select list of a Sum; `side` target counts the rows that its checks find wrong, too. */
export function sumColumns(pair: TablePair, side: 'source' | 'target'): string {
  const checks = side === 'target' ? pair.checks : [];
  const wrong = checks.map(({ condition }) => `count(*) FILTER (WHERE ${condition})`);
  return (
    `count(*)::text AS rows, coalesce(sum(${rowHash(pair)}), 0)::text AS hash, ` +
    `ARRAY[${wrong.join(', ')}]::bigint[]::text[] AS wrong`
  );
}

/** Compares rows one by one, once both sides are past the same marker; says which of them really differ. */
export async function compareRows(sessions: SideSessions, pair: TablePair, rows: Rows): Promise<RowDifference[]> {
  await sessions.catchUp();
  const [source, target] = await sessions.each(async (session) => {
    const found = await session.query<Record<string, string> & { hash: string }>(
      `SELECT ${keyTexts(pair.key)}, ${rowHash(pair)}::text AS hash ${fromTable(pair)} WHERE ${rows.where}`,
      [...rows.values],
    );
    return new Map(
      found.rows.map((row) => {
        const key = keyInRow(pair.key, row);
        return [JSON.stringify(key), { key, hash: row.hash }];
      }),
    );
  });
  const candidates: KeyValues[] = [];
  for (const [text, { key, hash }] of source) if (target.get(text)?.hash !== hash) candidates.push(key);
  for (const [text, { key }] of target) if (!source.has(text)) candidates.push(key);
  const differences = await settleRows(sessions, pair, candidates);
  const worded: RowDifference[] = [];
  for (const [i, difference] of differences.entries()) {
    if (difference.kind !== 'different' || i >= LISTED) worded.push(difference);
    else worded.push({ ...difference, columns: await differingColumns(sessions, pair, difference.key) });
  }
  return worded;
}

/** The rows that a check of the target finds wrong, the first hundred. */
export async function wrongRowsOf(
  sessions: SideSessions,
  pair: TablePair,
  check: number,
  rows: Rows,
): Promise<RowDifference[]> {
  const { column, condition } = pair.checks[check] ?? { column: '', condition: 'false' };
  const found = await sessions.on('target', (session) =>
    session.query<Record<string, unknown>>(
      `SELECT ${keyTexts(pair.key)} ${fromTable(pair)} WHERE ${rows.where} AND (${condition}) LIMIT ${LISTED}`,
      [...rows.values],
    ),
  );
  return found.rows.map((row) => ({ key: keyInRow(pair.key, row), kind: 'derived', columns: [column] }));
}
