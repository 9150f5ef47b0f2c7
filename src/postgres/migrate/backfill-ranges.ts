import type { TableInfo } from '../catalog.js';
import { ident, qualified } from '../identifier.js';
import type { Session } from '../session.js';
import { inRange, keyInRow, keyList, keyOf, keyTexts, Parameters, type KeyRange, type KeyValues } from './key-range.js';

/*
 * Where a table is cut into ranges that are backfilled side by side. Cuts are along the key, since rows keep their keys
 * and not their places: an update of an unfinished row may move it to a page that a scan by place has passed.
 */

const MIB = 1024 * 1024;
/** Smaller tables are one range, and their rows are counted. */
const SMALL = 4 * MIB;
/** Small enough that no lane is left alone for long at the end. */
const RANGE_BYTES = 128 * MIB;
const MAX_RANGES = 64;
/** Enough to cut 64 ranges that differ by a few percent; read in a moment even from a cold disk. */
const SAMPLE_BLOCKS = 500;
const BLOCK = 8192;

export interface TableRanges {
  /** In the order of the key; the last ends at the largest key that there was. None for an empty table. */
  readonly ranges: readonly KeyRange[];
  readonly rows: number;
  readonly bytes: number;
}

/** Cuts a table (an ordinary one or a leaf) for so many lanes. */
export async function cutIntoRanges(session: Session, table: TableInfo, lanes: number): Promise<TableRanges> {
  const bound = await largestKey(session, table);
  const bytes = await sizeOf(session, table);
  if (bound === undefined) return { ranges: [], rows: 0, bytes };
  if (bytes <= SMALL) {
    return { ranges: [{ after: null, upTo: bound }], rows: await countRows(session, table), bytes };
  }
  const wanted = lanes === 1 ? 1 : Math.min(MAX_RANGES, Math.max(2 * lanes, Math.ceil(bytes / RANGE_BYTES)));
  const { cuts, rows } = await sample(session, table, bound, bytes, wanted);
  const bounds = [...cuts, bound];
  return {
    ranges: bounds.map((upTo, i) => ({ after: bounds[i - 1] ?? null, upTo })),
    rows: rows > 0 ? rows : table.estimatedRows,
    bytes,
  };
}

async function largestKey(session: Session, table: TableInfo): Promise<KeyValues | undefined> {
  const key = keyOf(table);
  const { rows } = await session.query<Record<string, unknown>>(
    `SELECT ${keyTexts(key)} FROM ONLY ${qualified(table.name)}
      ORDER BY ${key.map(({ name }) => `${ident(name)} DESC`).join(', ')} LIMIT 1`,
  );
  return rows[0] && keyInRow(key, rows[0]);
}

async function sizeOf(session: Session, table: TableInfo): Promise<number> {
  const { rows } = await session.query<{ bytes: string }>('SELECT pg_catalog.pg_relation_size($1::oid) AS bytes', [
    table.oid,
  ]);
  return Number(rows[0]?.bytes ?? 0);
}

async function countRows(session: Session, table: TableInfo): Promise<number> {
  const { rows } = await session.query<{ n: string }>(`SELECT count(*) AS n FROM ONLY ${qualified(table.name)}`);
  return Number(rows[0]?.n ?? 0);
}

/** Keys of the rows of some pages: every n-th of them is a cut, and their number tells that of the table's rows. */
async function sample(
  session: Session,
  table: TableInfo,
  bound: KeyValues,
  bytes: number,
  wanted: number,
): Promise<{ cuts: KeyValues[]; rows: number }> {
  const key = keyOf(table);
  const percent = Math.min(100, (100 * SAMPLE_BLOCKS * BLOCK) / bytes);
  const parameters = new Parameters();
  const where = inRange(key, { after: null, upTo: bound }, parameters);
  const { rows } = await session.query<Record<string, unknown> & { verdigris_total: string }>(
    `SELECT ${keyTexts(key)}, verdigris_total::text
       FROM (SELECT ${keyList(key)}, row_number() OVER (ORDER BY ${keyList(key)}) AS verdigris_n,
                    count(*) OVER () AS verdigris_total
               FROM ONLY ${qualified(table.name)} TABLESAMPLE SYSTEM (${percent}) WHERE ${where}) sample
      WHERE verdigris_n * ${wanted} / verdigris_total > (verdigris_n - 1) * ${wanted} / verdigris_total
      ORDER BY verdigris_n`,
    parameters.values,
  );
  // The last of the sample is a cut too: it only stands for the end.
  const cuts = rows.slice(0, -1).map((row) => keyInRow(key, row));
  return { cuts, rows: Math.round((Number(rows[0]?.verdigris_total ?? 0) * 100) / percent) };
}
