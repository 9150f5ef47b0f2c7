import type { TableName } from '../../plan/table-name.js';
import { formatTableName } from '../../plan/table-name.js';
import { inTransaction, type Session } from '../session.js';
import type { KeyRange, KeyValues } from './key-range.js';
import { readProgress, writeProgress, type ProgressKey } from './progress-row.js';

/*
 * How far a backfill is, in verdigris.progress. A table has one row, and each of its ranges another. All are written in
 * one transaction when the table is begun: the ranges with their bounds are fixed from then on. A range's cursor is
 * written in the transaction of its batch, and only where it is still what the writer took it for: a worker that was
 * frozen and wakes up can't move a cursor back.
 */

const TABLE_STEP = 'backfill';
const RANGE_STEP = 'backfill range';

/** The whole of a table: `done` when every range is. */
export interface TableState {
  readonly rows: number;
  readonly written: number;
  /** Rows and bytes at the start, as well as they were known. */
  readonly total: number;
  readonly bytes: number;
}

/** A part of a table, between two keys that never change. */
export interface RangeState extends KeyRange {
  /** The ordinary table or partition that holds the rows. */
  readonly leaf: TableName;
  /** The last key done; null before the first batch. */
  readonly cursor: KeyValues | null;
  /** Rows looked at, and of them those written. */
  readonly rows: number;
  readonly written: number;
}

export interface StoredRange {
  readonly number: number;
  readonly state: RangeState;
  readonly done: boolean;
}

export interface StoredBackfill {
  readonly state: TableState;
  readonly done: boolean;
  /** By number; empty once the table is done. */
  readonly ranges: readonly StoredRange[];
}

function tableKey(runId: string, table: TableName): ProgressKey {
  return { runId, step: TABLE_STEP, object: formatTableName(table) };
}

/** Where the cursor of a range is kept. */
export function rangeKey(runId: string, table: TableName, number: number): ProgressKey {
  return { runId, step: RANGE_STEP, object: `${formatTableName(table)} ${number}` };
}

/**
 * Writes down that tables need no backfill, since their rows came with their new columns computed. `tables` are those
 * of the plan: the topmost of partitioned ones. May be called again, and within a transaction of the caller.
 */
export async function markBackfilled(session: Session, runId: string, tables: readonly TableName[]): Promise<void> {
  const state: TableState = { rows: 0, written: 0, total: 0, bytes: 0 };
  for (const table of tables) await writeProgress(session, tableKey(runId, table), state, true);
}

/** What is known of a table's backfill; undefined when it was never begun. */
export async function readBackfill(
  session: Session,
  runId: string,
  table: TableName,
): Promise<StoredBackfill | undefined> {
  const found = await readProgress<TableState>(session, tableKey(runId, table));
  if (found === undefined || found.done) return found && { ...found, ranges: [] };
  const { rows } = await session.query<StoredRange>(
    `SELECT (state ->> 'number')::int AS number, state, done FROM verdigris.progress
      WHERE run_id = $1 AND step = $2 AND state ->> 'table' = $3 ORDER BY 1`,
    [runId, RANGE_STEP, formatTableName(table)],
  );
  return { ...found, ranges: rows };
}

/** Stores the ranges of a table that is begun; another worker that was quicker wins, and its ranges are returned. */
export async function beginBackfill(
  session: Session,
  runId: string,
  table: TableName,
  state: TableState,
  ranges: readonly (KeyRange & { readonly leaf: TableName })[],
): Promise<StoredBackfill> {
  return inTransaction(session, async () => {
    const key = tableKey(runId, table);
    const { rowCount } = await session.query(
      `INSERT INTO verdigris.progress (run_id, step, object, state) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
      [key.runId, key.step, key.object, JSON.stringify(state)],
    );
    if (rowCount === 1) {
      for (const [number, range] of ranges.entries()) {
        const whole = { ...range, cursor: null, rows: 0, written: 0, table: key.object, number };
        await writeProgress(session, rangeKey(runId, table, number), whole, false);
      }
    }
    const stored = await readBackfill(session, runId, table);
    return stored ?? { state, done: false, ranges: [] };
  });
}

/** Writes the end of a table down, when all its ranges are done, with what they have counted. */
export async function finishBackfill(session: Session, runId: string, table: TableName): Promise<TableState> {
  const { rows } = await session.query<{ state: TableState }>(
    `UPDATE verdigris.progress t
        SET state = t.state || jsonb_build_object('rows', r.rows, 'written', r.written), done = true,
            updated_at = clock_timestamp()
       FROM (SELECT coalesce(sum((state ->> 'rows')::bigint), 0) AS rows,
                    coalesce(sum((state ->> 'written')::bigint), 0) AS written
               FROM verdigris.progress WHERE run_id = $1 AND step = $3 AND state ->> 'table' = $4) r
      WHERE t.run_id = $1 AND t.step = $2 AND t.object = $4
      RETURNING t.state`,
    [runId, TABLE_STEP, RANGE_STEP, formatTableName(table)],
  );
  return rows[0]?.state ?? { rows: 0, written: 0, total: 0, bytes: 0 };
}

/** Forgets what is known of a table's backfill: its new columns are gone. */
export async function forgetBackfill(session: Session, runId: string, table: TableName): Promise<void> {
  await session.query(
    `DELETE FROM verdigris.progress
      WHERE run_id = $1 AND ((step = $2 AND object = $4) OR (step = $3 AND state ->> 'table' = $4))`,
    [runId, TABLE_STEP, RANGE_STEP, formatTableName(table)],
  );
}
