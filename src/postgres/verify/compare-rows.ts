import { keyInRow, keyTexts, type KeyValues } from '../migrate/key-range.js';
import { ENOUGH, LISTED, type RowDifference } from './difference.js';
import { differingColumns, settleRows } from './settle-rows.js';
import type { SideSessions } from './side-sessions.js';
import { fromTable, type TablePair } from './table-pair.js';

/** Some rows of a table, as a condition; the same rows on both sides. */
export interface Rows {
  readonly where: string;
  readonly values: readonly unknown[];
  /** Along the key's index, or by a pass over the table. */
  readonly read: 'by key' | 'all';
}

/** Rows that are fetched at once, to stay small in memory. */
const FETCH_ROWS = 20_000;
/** About so many rows in a bucket. */
const BUCKET_ROWS = 250;
const MAX_BUCKETS = 65_536;

/**
 * Finds the rows of a part that differ, once both sides are past the same marker: first the buckets, by a hash of the
 * key, whose sums differ; then the rows of those; then each by itself (see settle-rows.ts).
 */
export async function compareRows(
  sessions: SideSessions,
  pair: TablePair,
  rows: Rows,
  count: number,
): Promise<RowDifference[]> {
  const mask = bucketMask(count);
  const bucket = `(${pair.keyHash} & ${mask})`;
  await sessions.catchUp();
  const sums = await sessions.each(async (session) => {
    const found = await session.query<{ bucket: number; rows: number; hash: string }>(
      `SELECT ${bucket}::int AS bucket, count(*)::int AS rows, sum(${pair.rowHash})::text AS hash
         ${fromTable(pair)} WHERE ${rows.where} GROUP BY 1`,
      [...rows.values],
    );
    return new Map(found.rows.map((sum) => [sum.bucket, sum]));
  });
  const differing = [...new Set(sums.flatMap((side) => [...side.keys()]))].flatMap((number) => {
    const [here, there] = [sums[0].get(number), sums[1].get(number)];
    if (here?.rows === there?.rows && here?.hash === there?.hash) return [];
    return [{ number, rows: (here?.rows ?? 0) + (there?.rows ?? 0) }];
  });
  const differences: RowDifference[] = [];
  for (const group of groups(differing)) {
    const where = `(${rows.where}) AND ${bucket}::int = ANY ($${rows.values.length + 1}::int[])`;
    const candidates = await candidatesIn(sessions, pair, { ...rows, where, values: [...rows.values, group] });
    await sessions.prepare(pair.searchPath, 'by key');
    differences.push(...(await settleRows(sessions, pair, candidates)));
    await sessions.prepare(pair.searchPath, rows.read);
    if (differences.length >= ENOUGH) break;
  }
  return withColumns(sessions, pair, differences);
}

/** The keys of rows that one side has not, or has otherwise. */
async function candidatesIn(sessions: SideSessions, pair: TablePair, rows: Rows): Promise<KeyValues[]> {
  const [source, target] = await sessions.each(async (session) => {
    const found = await session.query<Record<string, string> & { hash: string }>(
      `SELECT ${keyTexts(pair.key)}, ${pair.rowHash}::text AS hash ${fromTable(pair)} WHERE ${rows.where}`,
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
  return candidates;
}

/** Adds the columns that differ, to as many as will be listed. */
export async function withColumns(
  sessions: SideSessions,
  pair: TablePair,
  differences: readonly RowDifference[],
): Promise<RowDifference[]> {
  const worded: RowDifference[] = [];
  for (const [i, difference] of differences.entries()) {
    if (difference.kind !== 'different' || i >= LISTED) worded.push(difference);
    else worded.push({ ...difference, columns: await differingColumns(sessions, pair, difference.key) });
  }
  return worded;
}

/** A power of two less one. */
export function bucketMask(rows: number): number {
  const buckets = 2 ** Math.ceil(Math.log2(Math.max(16, rows / BUCKET_ROWS)));
  return Math.min(MAX_BUCKETS, buckets) - 1;
}

function groups(differing: readonly { number: number; rows: number }[]): number[][] {
  const all: number[][] = [];
  let rows = Number.POSITIVE_INFINITY;
  for (const bucket of differing) {
    if (rows + bucket.rows > FETCH_ROWS) {
      all.push([]);
      rows = 0;
    }
    rows += bucket.rows;
    all.at(-1)?.push(bucket.number);
  }
  return all;
}
