import { keyInRow, keyTexts, type KeyValues } from '../migrate/key-range.js';
import { ENOUGH, LISTED, type RowDifference } from './difference.js';
import { differingColumns, settleRows, together } from './settle-rows.js';
import type { SideSessions } from './side-sessions.js';
import { fromTable, type TablePair } from './table-pair.js';

/** Some rows of a table, as a condition; the same rows on both sides. */
export interface Rows {
  readonly where: string;
  readonly values: readonly unknown[];
  /** Along the key's index, or by a pass over the table. */
  readonly read: 'by key' | 'all';
}

/** What is held in memory at once, on either side. */
export interface BucketLimits {
  /** Rows that are fetched. */
  readonly fetchRows: number;
  /** About so many rows in a bucket. */
  readonly bucketRows: number;
  /** A power of two: each level of buckets takes so many bits of the hash. */
  readonly buckets: number;
}

const LIMITS: BucketLimits = { fetchRows: 20_000, bucketRows: 250, buckets: 65_536 };

/**
 * Finds the rows of a part that differ, once both sides are past the same marker: first the buckets, by a hash of the
 * key, whose sums differ; then the rows of those; then each by itself (see settle-rows.ts). Where a part has so many rows
 * that its buckets are large, those that differ are divided into buckets once more: the rows are fetched in passes over
 * the table, a few thousand at a time.
 */
export async function compareRows(
  sessions: SideSessions,
  pair: TablePair,
  rows: Rows,
  count: number,
  limits = LIMITS,
): Promise<RowDifference[]> {
  return withColumns(sessions, pair, await compareBuckets(sessions, pair, { rows, count, level: 0, limits }));
}

interface Divided {
  readonly rows: Rows;
  /** How many these are, about. */
  readonly count: number;
  /** How often they have been divided before. */
  readonly level: number;
  readonly limits: BucketLimits;
}

async function compareBuckets(
  sessions: SideSessions,
  pair: TablePair,
  { rows, count, level, limits }: Divided,
): Promise<RowDifference[]> {
  const { fetchRows, bucketRows, buckets } = limits;
  const bucket = `((${pair.keyHash} >> ${level * Math.log2(buckets)}) & ${bucketMask(count, limits)})`;
  const atOnce = buckets * bucketRows;
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
  for (const group of groups(differing, count > atOnce ? atOnce : fetchRows)) {
    const where = `(${rows.where}) AND ${bucket}::int = ANY ($${rows.values.length + 1}::int[])`;
    const some = { ...rows, where, values: [...rows.values, group.numbers] };
    differences.push(
      ...(group.rows > fetchRows && count > atOnce
        ? await compareBuckets(sessions, pair, { rows: some, count: group.rows, level: level + 1, limits })
        : await compareEach(sessions, pair, some)),
    );
    if (differences.length >= ENOUGH) break;
  }
  return differences;
}

async function compareEach(sessions: SideSessions, pair: TablePair, rows: Rows): Promise<RowDifference[]> {
  const candidates = await candidatesIn(sessions, pair, rows);
  await sessions.prepare(pair.searchPath, 'by key');
  const differences = await settleRows(sessions, pair, candidates);
  await sessions.prepare(pair.searchPath, rows.read);
  return differences;
}

/** The keys of rows that one side has not, or has otherwise. */
async function candidatesIn(sessions: SideSessions, pair: TablePair, rows: Rows): Promise<KeyValues[]> {
  const [source, target] = await sessions.each(async (session) => {
    const found = await session.query<Record<string, string> & { hash: string }>(
      `SELECT ${keyTexts(pair.key)}, ${pair.rowHash}::text AS hash ${fromTable(pair)} WHERE ${rows.where}`,
      [...rows.values],
    );
    const all = new Map<string, { readonly key: KeyValues; hash: string }>();
    for (const row of found.rows) {
      const key = keyInRow(pair.key, row);
      const text = JSON.stringify(key);
      const same = all.get(text);
      if (same === undefined) all.set(text, { key, hash: row.hash });
      // Nothing may keep the key unique here any more.
      else same.hash = together([...same.hash.split('+'), row.hash]);
    }
    return all;
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
function bucketMask(rows: number, { buckets, bucketRows }: BucketLimits): number {
  const wanted = 2 ** Math.ceil(Math.log2(Math.max(16, rows / bucketRows)));
  return Math.min(buckets, wanted) - 1;
}

/** Buckets that are looked into together, with the rows of both sides. */
interface BucketGroup {
  readonly numbers: number[];
  rows: number;
}

function groups(differing: readonly { number: number; rows: number }[], most: number): BucketGroup[] {
  const all: BucketGroup[] = [];
  for (const bucket of differing) {
    let group = all.at(-1);
    if (group === undefined || group.rows + bucket.rows > most) {
      group = { numbers: [], rows: 0 };
      all.push(group);
    }
    group.rows += bucket.rows;
    group.numbers.push(bucket.number);
  }
  return all;
}
