import { ident } from '../identifier.js';
import { keyInRow, keyList, keyTexts, keyValue, type KeyValues } from '../migrate/key-range.js';
import type { SideSessions } from './side-sessions.js';
import { uncut, type TableCut } from './table-cut.js';
import { fromTable, type TablePair } from './table-pair.js';

/** A part has about so many rows, or so many bytes where rows are wide. */
export interface PartSize {
  readonly rows: number;
  readonly bytes: number;
}

/** A tenth of a second or so on each side. */
export const PART_SIZE: PartSize = { rows: 100_000, bytes: 64 * 1024 * 1024 };
/** So many parts at most: their bounds are one row of verdigris.progress. */
const MAX_PARTS = 20_000;
/** A pass over the table for each bucket: few, and so much the larger. */
const BUCKET_ROWS = 4_000_000;
/** And no more than so many, or a table of twice the size would take four times as long. */
const MAX_PASSES = 25;
/** Pages that are read for the bounds: enough of each part that parts are about equal. */
const PAGES_OF_PART = 10;
const PAGES = { min: 200, max: 5_000 };
/** Keys that both servers are asked to put in order. */
const ORDERED_KEYS = 2_000;

/** What a table takes on the source. */
export interface TableSize {
  /** With what is stored out of line. */
  readonly bytes: number;
  /** Of the table itself. */
  readonly pages: number;
}

/** Whether the table is so small that it is compared in one statement. */
export function isSmall(size: TableSize, part: PartSize): boolean {
  return size.bytes <= part.bytes / 4;
}

/**
 * Finds the bounds of a table's parts, from a sample of its pages on the source: a few megabytes, whatever the size of
 * the table, and no pass over its index.
 *
 * Where the two servers may put keys into another order (text under a collation, enums), both are asked to sort some
 * of them. Ranges are right in any case, since rows that one side has elsewhere are looked up by key; but where the
 * orders differ there would be too many of them, and the table is cut by a hash of the key instead.
 */
export async function cutTable(
  sessions: SideSessions,
  pair: TablePair,
  size: TableSize,
  part: PartSize,
): Promise<TableCut> {
  if (isSmall(size, part)) return uncut(pair.estimatedRows);
  await sessions.prepare(pair.searchPath, 'all');
  const { bounds, rows } = await sampleBounds(sessions, pair, size, part);
  if (pair.ordered || (await sameOrder(sessions, pair, thinned(bounds)))) return { by: 'keys', bounds, rows };
  return inBuckets(rows);
}

/** Cuts a table by a hash of its key. */
export function inBuckets(rows: number): TableCut {
  return { by: 'buckets', passes: Math.min(MAX_PASSES, Math.max(1, Math.ceil(rows / BUCKET_ROWS))), rows };
}

async function sampleBounds(
  sessions: SideSessions,
  pair: TablePair,
  size: TableSize,
  part: PartSize,
): Promise<{ bounds: KeyValues[]; rows: number }> {
  const guessedParts = Math.max(size.bytes / part.bytes, pair.estimatedRows / part.rows);
  const wanted = Math.min(PAGES.max, Math.max(PAGES.min, guessedParts * PAGES_OF_PART));
  const percent = Math.min(100, (100 * wanted) / Math.max(1, size.pages));
  const columns = keyList(pair.key);
  // The columns of the key are in it by their own names: none of these may be one of a user's.
  const { rows } = await sessions.on('source', (session) =>
    session.query<Record<string, unknown> & { verdigris_rows: string }>(
      `WITH sample AS MATERIALIZED (
         SELECT ${columns}, row_number() OVER (ORDER BY ${columns}) AS verdigris_n
           ${fromTable(pair)} TABLESAMPLE SYSTEM (${percent})),
       seen AS (SELECT count(*) AS verdigris_total FROM sample),
       cut AS (SELECT verdigris_total, verdigris_total * 100 / ${percent}::float8 AS verdigris_rows,
                      LEAST(${MAX_PARTS}, verdigris_total,
                            GREATEST(1, ceil(verdigris_total * 100 / ${percent}::float8 / ${part.rows}),
                                     ceil(${size.bytes}::float8 / ${part.bytes}))) AS verdigris_parts FROM seen)
       SELECT ${keyTexts(pair.key)}, verdigris_rows::bigint::text AS verdigris_rows
         FROM cut LEFT JOIN sample
           ON floor(verdigris_n * verdigris_parts / verdigris_total) > floor((verdigris_n - 1) * verdigris_parts / verdigris_total)
          AND verdigris_n < verdigris_total
        ORDER BY verdigris_n`,
    ),
  );
  const bounds = rows.filter((row) => row['verdigris_k0'] !== null).map((row) => keyInRow(pair.key, row));
  return { bounds, rows: Number(rows[0]?.verdigris_rows ?? 0) };
}

function thinned(bounds: readonly KeyValues[]): KeyValues[] {
  const step = Math.ceil(bounds.length / ORDERED_KEYS);
  return bounds.filter((_, i) => i % step === 0);
}

/** Whether the target sorts these keys as the source has. The column gives the collation, the keys are values. */
async function sameOrder(sessions: SideSessions, pair: TablePair, keys: readonly KeyValues[]): Promise<boolean> {
  const names = pair.key.map((_, i) => `k${i}`);
  const typed = pair.key.map((column, i) => keyValue(column, `wanted.k${i}`));
  const { rows } = await sessions.on('target', (session) =>
    session.query<{ verdigris_place: number }>(
      // ORDER BY takes the name of an output for it, before that of a column.
      `SELECT verdigris_n::int AS verdigris_place
         FROM (SELECT ${keyList(pair.key)}, 0::bigint AS verdigris_n ${fromTable(pair)} WHERE false
               UNION ALL
               SELECT ${typed.join(', ')}, n
                 FROM unnest(${names.map((_, i) => `$${i + 1}::text[]`).join(', ')}) WITH ORDINALITY AS wanted (${names.join(', ')}, n)) keys
        ORDER BY ${pair.key.map(({ name }) => ident(name)).join(', ')}`,
      pair.key.map((_, i) => keys.map((key) => key[i] ?? '')),
    ),
  );
  return rows.every(({ verdigris_place }, i) => verdigris_place === i + 1);
}
