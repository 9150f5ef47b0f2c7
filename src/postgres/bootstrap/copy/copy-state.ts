import { randomUUID } from 'node:crypto';
import type { TableName } from '../../../plan/table-name.js';
import { describeBlockers, type Blocker } from '../../blockers.js';
import { briefLocks } from '../../brief-lock.js';
import { isLockNotHad } from '../../lock-watch.js';
import { writeProgress } from '../../migrate/progress-row.js';
import { noted } from '../../migrate/step-context.js';
import { inTransaction, type Session } from '../../session.js';
import type { ComputedTable } from './computed-table.js';
import type { Parcel } from './plan-parcels.js';

/*
 * What is known of a copy, in verdigris.progress of green:
 *
 *   'copy', 'state'          one row: which snapshots may be read, and whether rows may still be copied
 *   'copy parcel', '<id>'    what each parcel holds: decided once, but for partitions that blue got before the snapshots
 *   'copy piece', '<key>'    one row a piece, inserted in the transaction that copies its rows
 *   'copy part', '<key>'     what the earlier statements of a piece have copied, and in which transaction, which may be
 *                            rolled back: only to be shown, nobody goes by it
 *
 * Every transaction that copies holds the state row FOR SHARE: whoever changes it knows that no such transaction is
 * open, and one that begins later sees the change. So a worker that was frozen and wakes up writes nothing.
 */

export interface CopyState {
  /**
   * planned   no snapshot yet: the holder is about to make them
   * ready     parcels may be copied from `snapshots`
   * lost      the holder is gone and rows have been copied: no snapshot will fit them again
   * closed    nothing is copied any more; `left` is for tablesync
   */
  readonly phase: 'planned' | 'ready' | 'lost' | 'closed';
  /** Another one for every set of snapshots. */
  readonly incarnation: string;
  /** Name of the exported snapshot of each stream. */
  readonly snapshots: Readonly<Record<string, string>>;
  /** The sessions on blue that hold them. An older worker does not say. */
  readonly holders?: readonly Holder[];
  /** By name: tables of the plan whose new columns blue computes. Those of others are computed by green's trigger. */
  readonly computed: Readonly<Record<string, ComputedTable>>;
  /** How long blue took to answer before rows were copied, ms; where the copy is to give way to others. */
  readonly usualAnswerMs?: number;
  /** Whether others were at work on blue then: the copy begins slowly. */
  readonly othersWork?: boolean;
  /** Once closed: tables (topmost parents) that have not been copied whole. */
  readonly left: readonly TableName[];
}

/** A session on blue. Process numbers are used again, so its beginning belongs to it. */
export interface Holder {
  readonly pid: number;
  /** pg_stat_activity.backend_start, UTC, to the microsecond. */
  readonly since: string;
}

export interface PieceDone {
  readonly rows: number;
  readonly bytes: number;
}

/** What the statements of a piece have copied in a transaction that may still be rolled back. */
export interface PiecePart extends PieceDone {
  /** That of green, as beginPiece gives it. An older worker does not say. */
  readonly transaction?: string;
}

const STATE = { step: 'copy', object: 'state' } as const;
/** What is waited for, for people. */
const STATE_LOCK = 'state of the copy';
const PARCEL_STEP = 'copy parcel';
const PIECE_STEP = 'copy piece';
const PART_STEP = 'copy part';

export type RowLock = '' | 'FOR SHARE' | 'FOR UPDATE';

/** Undefined before the copy is planned. */
export async function readCopyState(
  session: Session,
  runId: string,
  lock: RowLock = '',
): Promise<CopyState | undefined> {
  const { rows } = await session.query<{ state: CopyState }>(
    `SELECT state FROM verdigris.progress WHERE run_id = $1 AND step = $2 AND object = $3 ${lock}`,
    [runId, STATE.step, STATE.object],
  );
  return rows[0]?.state;
}

/** Stores the plan of the copy; the first one wins, whoever comes later finds it. */
export async function storeCopy(
  session: Session,
  runId: string,
  parcels: readonly Parcel[],
  computed: CopyState['computed'],
): Promise<void> {
  const state: CopyState = { phase: 'planned', incarnation: randomUUID(), snapshots: {}, computed, left: [] };
  await inTransaction(session, async () => {
    const { rowCount } = await session.query(
      `INSERT INTO verdigris.progress (run_id, step, object, state) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
      [runId, STATE.step, STATE.object, JSON.stringify(state)],
    );
    if (rowCount === 0) return;
    await storeParcels(session, runId, parcels);
  });
}

/** Stores parcels; those of the same numbers are replaced. To be called in the transaction that changes the state. */
export async function storeParcels(session: Session, runId: string, parcels: readonly Parcel[]): Promise<void> {
  await session.query(
    `INSERT INTO verdigris.progress (run_id, step, object, state)
     SELECT $1, $2, parcel ->> 'id', parcel FROM jsonb_array_elements($3::jsonb) parcel
         ON CONFLICT (run_id, step, object) DO UPDATE SET state = EXCLUDED.state`,
    [runId, PARCEL_STEP, JSON.stringify(parcels)],
  );
}

export async function readParcels(session: Session, runId: string): Promise<readonly Parcel[]> {
  const { rows } = await session.query<{ state: Parcel }>(
    `SELECT state FROM verdigris.progress WHERE run_id = $1 AND step = $2 ORDER BY object::int`,
    [runId, PARCEL_STEP],
  );
  return rows.map(({ state }) => state);
}

export async function readParcel(session: Session, runId: string, id: number): Promise<Parcel | undefined> {
  const { rows } = await session.query<{ state: Parcel }>(
    `SELECT state FROM verdigris.progress WHERE run_id = $1 AND step = $2 AND object = $3`,
    [runId, PARCEL_STEP, String(id)],
  );
  return rows[0]?.state;
}

/** With whom a change of the state is done. */
export interface StateChange {
  readonly signal: AbortSignal;
  /** Told whom it waits for, while it does. */
  readonly report: (progress: object) => void;
  readonly beforeTry?: () => Promise<void>;
}

/**
 * Says that a parcel is over. This commit waits for the disk, and so do all that came before it: a
 * crash of green takes none of the parcel's pieces from then on.
 */
export async function endParcel(session: Session, runId: string, id: number): Promise<void> {
  await session.query(
    `UPDATE verdigris.progress SET done = true, updated_at = clock_timestamp()
      WHERE run_id = $1 AND step = $2 AND object = $3`,
    [runId, PARCEL_STEP, String(id)],
  );
}

/**
 * Changes the state when no transaction that copies is open, which is waited for in short tries: a lock request that
 * queues for long would hold up the parcels that begin. For as long as it takes, since nobody else closes the copying; it
 * says for whom. `change` returns undefined to leave the state as it is.
 *
 * @returns the state as it is then; undefined when there is none.
 */
export async function changeCopyState(
  session: Session,
  runId: string,
  change: (now: CopyState) => Promise<CopyState | undefined>,
  { signal, report, beforeTry }: StateChange,
): Promise<CopyState | undefined> {
  const attempt = async (): Promise<CopyState | undefined> => {
    await beforeTry?.();
    return inTransaction(session, () => changeLocked(session, runId, change));
  };
  let waited = false;
  const onWait = (waitsFor: readonly Blocker[]): void => {
    waited = true;
    report(noted('locks', STATE_LOCK, `waits for ${describeBlockers(waitsFor)}`));
  };
  const changed = await briefLocks(session, (lock) => untilHad(() => lock(STATE_LOCK, attempt, { signal })), {
    onWait,
  });
  // What goes on for hours after it is not to say all the time that it waits.
  if (waited) report({ ...noted('locks', STATE_LOCK, ''), done: 1, total: 1 });
  return changed;
}

/** In rounds: each has longer tries of its own for an autovacuum, which may be back after one that was in vain. */
async function untilHad<T>(round: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await round();
    } catch (error) {
      if (!isLockNotHad(error)) throw error;
    }
  }
}

async function changeLocked(
  session: Session,
  runId: string,
  change: (now: CopyState) => Promise<CopyState | undefined>,
): Promise<CopyState | undefined> {
  const now = await readCopyState(session, runId, 'FOR UPDATE');
  if (now === undefined) return undefined;
  const next = await change(now);
  if (next === undefined) return now;
  await session.query(
    `UPDATE verdigris.progress SET state = $4, updated_at = clock_timestamp()
      WHERE run_id = $1 AND step = $2 AND object = $3`,
    [runId, STATE.step, STATE.object, JSON.stringify(next)],
  );
  return next;
}

/** Pieces whose rows are on green, with their rows and bytes. */
export async function readPieces(session: Session, runId: string): Promise<ReadonlyMap<string, PieceDone>> {
  const { rows } = await session.query<{ object: string; state: PieceDone }>(
    `SELECT object, state FROM verdigris.progress WHERE run_id = $1 AND step = $2 AND done`,
    [runId, PIECE_STEP],
  );
  return new Map(rows.map(({ object, state }) => [object, state]));
}

/**
 * Says that a piece is being copied, first thing in its transaction: the key of the row lets no second transaction
 * commit the same rows, whatever it believes. Waits while another one is open (lock_timeout).
 *
 * @returns the id of that transaction; undefined when the piece has been copied.
 */
export async function beginPiece(session: Session, runId: string, key: string): Promise<string | undefined> {
  const { rows } = await session.query<{ transaction: string }>(
    `INSERT INTO verdigris.progress (run_id, step, object) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
     RETURNING pg_catalog.pg_current_xact_id()::text AS transaction`,
    [runId, PIECE_STEP, key],
  );
  return rows[0]?.transaction;
}

export async function endPiece(session: Session, runId: string, key: string, done: PieceDone): Promise<void> {
  await session.query(
    `UPDATE verdigris.progress SET state = $4, done = true, updated_at = clock_timestamp()
      WHERE run_id = $1 AND step = $2 AND object = $3`,
    [runId, PIECE_STEP, key, JSON.stringify(done)],
  );
}

/** Notes what the statements of a piece have copied so far. To be called outside of the transaction that copies. */
export async function notePart(session: Session, runId: string, key: string, part: PiecePart): Promise<void> {
  await writeProgress(session, { runId, step: PART_STEP, object: key }, part, false);
}

/**
 * What has been noted of pieces that are made of several statements, and that are being copied: what a transaction noted
 * that has been rolled back, by whatever end of its worker, is on green no more.
 */
export async function readParts(session: Session, runId: string): Promise<ReadonlyMap<string, PieceDone>> {
  const { rows } = await session.query<{ object: string; state: PieceDone }>(
    `SELECT object, state FROM verdigris.progress
      WHERE run_id = $1 AND step = $2
        AND (state ->> 'transaction' IS NULL
             OR pg_catalog.pg_xact_status((state ->> 'transaction')::pg_catalog.xid8) = 'in progress')`,
    [runId, PART_STEP],
  );
  return new Map(rows.map(({ object, state }) => [object, state]));
}

/** Forgets the pieces of a table that is emptied. */
export async function forgetPieces(session: Session, runId: string, keys: readonly string[]): Promise<void> {
  await session.query('DELETE FROM verdigris.progress WHERE run_id = $1 AND step = $2 AND object = ANY ($3)', [
    runId,
    PIECE_STEP,
    keys,
  ]);
}
