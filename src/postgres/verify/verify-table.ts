import { setTimeout as sleep } from 'node:timers/promises';
import { BatchSize } from '../migrate/batch-size.js';
import { describeKey, inRange, keyInRow, keyList, keyTexts, Parameters, type KeyValues } from '../migrate/key-range.js';
import { compareRows, sumColumns, wrongRowsOf, type Rows, type Sum } from './compare-rows.js';
import { ENOUGH, LISTED, type Difference, type RowDifference } from './difference.js';
import type { SideSessions } from './side-sessions.js';
import { fromTable, keyHash, type TablePair } from './table-pair.js';

/** How far the verification of a table is. Small: it is written down after each chunk. */
export interface TableState {
  /** The last key compared; null before the first chunk. */
  readonly cursor: KeyValues | null;
  readonly rows: number;
  /** Values of derived columns that were checked. */
  readonly derivedChecked: number;
  readonly differingRows: number;
  /** The first hundred. */
  readonly differing: readonly Difference[];
}

export const UNVERIFIED: TableState = { cursor: null, rows: 0, derivedChecked: 0, differingRows: 0, differing: [] };

/** Told after each chunk; `done` with the last one. */
export type OnChunk = (state: TableState, done: boolean) => Promise<void>;

/** A chunk takes about so long on each side, so that no snapshot is held for long. */
const CHUNK_MS = 500;
const CHUNK_ROWS = { start: 20_000, min: 1_000, max: 50_000 };
/** Rows of a bucket, about. */
const BUCKET_ROWS = 1_000;
const MAX_BUCKETS = 65_536;
/** Rows of differing buckets that are fetched at once, to stay small in memory. */
const FETCH_ROWS = 200_000;
/** Share of the time in which the verification rests. */
const REST = 0.1;

/** Compares one table, from where `from` says that it had got to. */
export async function verifyTable(
  sessions: SideSessions,
  pair: TablePair,
  from: TableState,
  onChunk: OnChunk,
): Promise<TableState> {
  await sessions.each((session) => session.query(`SELECT set_config('search_path', $1, false)`, [pair.searchPath]));
  try {
    return pair.ordered ? await byRanges(sessions, pair, from, onChunk) : await byBuckets(sessions, pair, onChunk);
  } finally {
    await sessions
      .each((session) =>
        session.query(
          `SELECT set_config('search_path', 'pg_catalog', false), set_config('enable_seqscan', 'off', false)`,
        ),
      )
      .catch(() => undefined);
  }
}

/**
 * Along the key, by the source's index. The first range has no beginning and the last no end, so that rows of the
 * target before and behind the source's are seen.
 */
async function byRanges(
  sessions: SideSessions,
  pair: TablePair,
  from: TableState,
  onChunk: OnChunk,
): Promise<TableState> {
  const size = new BatchSize(CHUNK_MS, CHUNK_ROWS);
  let state = from;
  for (;;) {
    const started = performance.now();
    const end = await endOfChunk(sessions, pair, state.cursor, size.current);
    const parameters = new Parameters();
    const rows: Rows = {
      where: inRange(pair.key, { after: state.cursor, upTo: end ?? null }, parameters),
      values: parameters.values,
    };
    const found = await compareChunk(sessions, pair, rows);
    state = { ...added(pair, state, found), cursor: end ?? state.cursor };
    const over = end === undefined || state.differingRows >= ENOUGH;
    await onChunk(state, over);
    if (over) return state;
    const ms = performance.now() - started;
    size.took(size.current, ms);
    await sleep(ms * REST, undefined, { signal: sessions.sides.signal });
  }
}

async function endOfChunk(
  sessions: SideSessions,
  pair: TablePair,
  after: KeyValues | null,
  size: number,
): Promise<KeyValues | undefined> {
  const parameters = new Parameters();
  const where = inRange(pair.key, { after, upTo: null }, parameters);
  const { rows } = await sessions.on('source', (session) =>
    session.query<Record<string, unknown>>(
      `SELECT ${keyTexts(pair.key)} ${fromTable(pair)} WHERE ${where} ORDER BY ${keyList(pair.key)} OFFSET ${size - 1} LIMIT 1`,
      parameters.values,
    ),
  );
  return rows[0] && keyInRow(pair.key, rows[0]);
}

interface ChunkOutcome {
  readonly rows: number;
  readonly differences: readonly RowDifference[];
  /** Differences beyond those that are listed. */
  readonly unlisted: number;
}

/** Compares the sums; then again behind a marker, since the target may only be late; then row by row. */
async function compareChunk(sessions: SideSessions, pair: TablePair, rows: Rows): Promise<ChunkOutcome> {
  let [source, target] = await sums(sessions, pair, rows);
  if (!agree(source, target)) {
    await sessions.catchUp();
    [source, target] = await sums(sessions, pair, rows);
  }
  const differences = agree(source, target) ? [] : await compareRows(sessions, pair, rows);
  const wrong = await wrongIn(sessions, pair, target, rows);
  return { rows: Number(source.rows), differences: [...differences, ...wrong.listed], unlisted: wrong.unlisted };
}

async function sums(sessions: SideSessions, pair: TablePair, rows: Rows): Promise<[Sum, Sum]> {
  return sessions.each(async (session, side) => {
    const found = await session.query<Sum>(
      `SELECT 0 AS bucket, ${sumColumns(pair, side)} ${fromTable(pair)} WHERE ${rows.where}`,
      [...rows.values],
    );
    return found.rows[0] ?? EMPTY;
  });
}

const EMPTY: Sum = { bucket: 0, rows: '0', hash: '0', wrong: [] };

function agree(source: Sum, target: Sum): boolean {
  return source.rows === target.rows && source.hash === target.hash;
}

/** Derived columns are written with their row, so there is no lag to wait for: what is wrong now is wrong. */
async function wrongIn(
  sessions: SideSessions,
  pair: TablePair,
  target: Sum,
  rows: Rows,
): Promise<{ listed: RowDifference[]; unlisted: number }> {
  const listed: RowDifference[] = [];
  let count = 0;
  for (const [check, wrong] of target.wrong.entries()) {
    if (wrong === '0') continue;
    const found = await wrongRowsOf(sessions, pair, check, rows);
    listed.push(...found);
    // Rows may have been put right since they were counted; those that are found are the least.
    count += Math.max(0, found.length === LISTED ? Number(wrong) - LISTED : 0);
  }
  return { listed, unlisted: count };
}

/**
 * By a hash of the key, in one pass over the table on each side: for keys whose order depends on the server's
 * collations, where a range on one side is not the same rows as on the other.
 */
async function byBuckets(sessions: SideSessions, pair: TablePair, onChunk: OnChunk): Promise<TableState> {
  const mask = bucketMask(pair.estimatedRows);
  const bucket = `(${keyHash(pair)} & ${mask})`;
  await sessions.catchUp();
  const [source, target] = await sessions.each(async (session, side) => {
    // A pass over all rows is what this is; an index would only make it slower.
    await session.query(`SELECT set_config('enable_seqscan', 'on', false)`);
    const found = await session.query<Sum>(
      `SELECT ${bucket}::int AS bucket, ${sumColumns(pair, side)} ${fromTable(pair)} GROUP BY 1`,
    );
    return new Map(found.rows.map((sum) => [sum.bucket, sum]));
  });
  let state = UNVERIFIED;
  const differing: Sum[] = [];
  for (const number of new Set([...source.keys(), ...target.keys()])) {
    const [here, there] = [source.get(number) ?? EMPTY, target.get(number) ?? EMPTY];
    const wrong = there.wrong.some((count) => count !== '0');
    if (agree(here, there) && !wrong)
      state = added(pair, state, { rows: Number(here.rows), differences: [], unlisted: 0 });
    else differing.push({ ...here, bucket: number, wrong: there.wrong });
  }
  for (const group of groups(differing)) {
    const rows: Rows = { where: `${bucket}::int = ANY ($1::int[])`, values: [group.map((sum) => sum.bucket)] };
    const differences = await compareRows(sessions, pair, rows);
    const [, now] = await sums(sessions, pair, rows);
    const wrong = await wrongIn(sessions, pair, now, rows);
    const count = group.reduce((total, sum) => total + Number(sum.rows), 0);
    state = added(pair, state, {
      rows: count,
      differences: [...differences, ...wrong.listed],
      unlisted: wrong.unlisted,
    });
    if (state.differingRows >= ENOUGH) break;
    await onChunk(state, false);
  }
  await onChunk(state, true);
  return state;
}

/** A power of two less one, so that a bucket holds about a thousand rows. */
export function bucketMask(rows: number): number {
  const buckets = 2 ** Math.ceil(Math.log2(Math.max(16, rows / BUCKET_ROWS)));
  return Math.min(MAX_BUCKETS, buckets) - 1;
}

function groups(differing: readonly Sum[]): Sum[][] {
  const all: Sum[][] = [];
  let rows = Number.POSITIVE_INFINITY;
  for (const sum of differing) {
    if (rows + Number(sum.rows) > FETCH_ROWS) {
      all.push([]);
      rows = 0;
    }
    rows += Number(sum.rows);
    all.at(-1)?.push(sum);
  }
  return all;
}

function added(pair: TablePair, state: TableState, outcome: ChunkOutcome): TableState {
  const worded = outcome.differences.map(({ key, kind, columns }): Difference => {
    const row = { table: pair.object, key: describeKey(pair.key, key), kind };
    return columns === undefined ? row : { ...row, columns };
  });
  return {
    cursor: state.cursor,
    rows: state.rows + outcome.rows,
    derivedChecked: state.derivedChecked + outcome.rows * pair.checks.length,
    differingRows: state.differingRows + worded.length + outcome.unlisted,
    differing: [...state.differing, ...worded].slice(0, LISTED),
  };
}
