import { setTimeout as sleep } from 'node:timers/promises';
import { formatTableName } from '../../../plan/table-name.js';
import { readTables, type TableInfo } from '../../catalog.js';
import { qualified } from '../../identifier.js';
import { backendPid } from '../../migrate/step-context.js';
import { openSession, type Session } from '../../session.js';
import { byName } from './copied-tables.js';
import type { CopyContext } from './copy-context.js';
import { endSession, takeOver } from './copy-lock.js';
import { copyFormat } from './copy-format.js';
import { copyInto, copyOut, copyQuery, inBlocks, NOTHING_COMPUTED } from './copy-query.js';
import { openSnapshotSession, openTargetSession } from './copy-sessions.js';
import { beginPiece, endPiece, readCopyState, readParcel, readPieces, type CopyState } from './copy-state.js';
import { CopyFailure, streamRows } from './copy-stream.js';
import { pieceFailed } from './piece-failed.js';
import { openPace, type Pace } from './pace.js';
import type { Parcel, Piece } from './plan-parcels.js';

export interface ParcelResult {
  /** `lost` when the snapshot is gone, or the copying has been closed. */
  readonly outcome: 'copied' | 'lost';
  /** Of all its pieces, those of earlier tries included. */
  readonly rows: number;
  readonly bytes: number;
}

/** How long to wait for a holder that is only about to make its snapshots. */
const LOOK_AGAIN_MS = 200;

/**
 * Copies the rows of a parcel, piece by piece; pieces that are on green are left alone.
 *
 * @throws VerdigrisError BackfillFailed that names the row on which an `up` failed; SqlError
 */
export async function copyParcel(context: CopyContext, id: number): Promise<ParcelResult> {
  const { databases, run, signal } = context;
  const green = await openSession(databases.green, { purpose: 'copy watch' });
  try {
    const parcel = await readParcel(green, run.runId, id);
    if (parcel === undefined) return { outcome: 'lost', rows: 0, bytes: 0 };
    for (;;) {
      signal.throwIfAborted();
      const state = await readCopyState(green, run.runId);
      const done = await readPieces(green, run.runId);
      const left = parcel.pieces.filter(({ key }) => !done.has(key));
      if (left.length === 0) return result('copied', parcel, done);
      if (state === undefined || state.phase === 'closed' || state.phase === 'lost')
        return result('lost', parcel, done);
      const outcome = state.phase === 'planned' ? 'later' : await copyPieces(context, green, parcel, left, state);
      if (outcome === 'copied') return result('copied', parcel, await readPieces(green, run.runId));
      // While nothing has been copied, the holder that comes next makes new snapshots.
      if (outcome === 'gone' && done.size > 0) return result('lost', parcel, done);
      await sleep(LOOK_AGAIN_MS, undefined, { signal });
    }
  } finally {
    await green.end().catch(() => undefined);
  }
}

function result(
  outcome: ParcelResult['outcome'],
  parcel: Parcel,
  done: ReadonlyMap<string, { rows: number; bytes: number }>,
): ParcelResult {
  const mine = parcel.pieces.flatMap(({ key }) => done.get(key) ?? []);
  const sum = (of: 'rows' | 'bytes'): number => mine.reduce((total, piece) => total + piece[of], 0);
  return { outcome, rows: sum('rows'), bytes: sum('bytes') };
}

/** 'gone': the snapshot is; 'later': another one is being made. */
async function copyPieces(
  context: CopyContext,
  watch: Session,
  parcel: Parcel,
  pieces: readonly Piece[],
  state: CopyState,
): Promise<'copied' | 'gone' | 'later'> {
  const { databases, plan, signal } = context;
  const snapshot = state.snapshots[parcel.stream];
  const source =
    snapshot === undefined
      ? undefined
      : await openSnapshotSession(databases.blue, 'copy rows', snapshot, (session) =>
          takeOver(session, parcel.id, signal),
        );
  if (source === undefined) return 'gone';
  let target: Session | undefined;
  let pace: Pace | undefined;
  let fine = false;
  try {
    target = await openTargetSession(databases.green, 'copy rows', source);
    await takeOver(target, parcel.id, signal);
    pace = openPace(context.run.runId, databases.blue, plan.bootstrap, state.usualAnswerMs);
    const onBlue = byName(await readTables(source, plan.tables));
    const onGreen = byName(await readTables(target, plan.tables));
    const copy = new PieceCopy(context, state, source, target, pace, parcel);
    for (const piece of pieces) {
      signal.throwIfAborted();
      const [from, to] = [onBlue.get(formatTableName(piece.source)), onGreen.get(formatTableName(piece.target))];
      if (from === undefined || to === undefined) continue;
      if (!(await copy.run(piece, from, to))) return 'later';
    }
    fine = true;
    return 'copied';
  } finally {
    pace?.close();
    const sessions = [source, ...(target === undefined ? [] : [target])];
    if (fine) await Promise.all(sessions.map((session) => session.end().catch(() => undefined)));
    else {
      // What has failed or been cancelled is over when this returns, on the servers, too.
      if (target !== undefined) await endSession(watch, target, backendPid(target));
      await endSession(watch, source, 0);
    }
  }
}

class PieceCopy {
  private rows = 0;
  private bytes = 0;
  private reported = 0;

  constructor(
    private readonly context: CopyContext,
    private readonly state: CopyState,
    private readonly source: Session,
    private readonly target: Session,
    private readonly pace: Pace,
    private readonly parcel: Parcel,
  ) {}

  /** @returns false when the copying has been closed, or its snapshots are others now. */
  async run(piece: Piece, from: TableInfo, to: TableInfo): Promise<boolean> {
    const { source, target } = this;
    const { runId } = this.context.run;
    await target.query('BEGIN');
    const now = await readCopyState(target, runId, 'FOR SHARE');
    if (now?.phase !== 'ready' || now.incarnation !== this.state.incarnation) {
      await target.query('ROLLBACK');
      return false;
    }
    if (!(await beginPiece(target, runId, piece.key))) {
      await target.query('ROLLBACK');
      return true;
    }
    const { rows, bytes } = await this.copy(piece, from, to);
    if (await this.wasRewritten(piece)) {
      // Rows have moved to other blocks since the parcels were cut: the table is left for tablesync.
      await target.query('ROLLBACK');
      return true;
    }
    await endPiece(target, runId, piece.key, { rows, bytes });
    await target.query('COMMIT');
    this.rows += rows;
    this.bytes += bytes;
    await source.query(`SELECT set_config('search_path', 'pg_catalog', true)`);
    return true;
  }

  private async copy(piece: Piece, from: TableInfo, to: TableInfo): Promise<{ rows: number; bytes: number }> {
    const { source, target } = this;
    const computed = this.state.computed[formatTableName(piece.root)];
    const columns = computed?.columns ?? NOTHING_COMPUTED;
    const query = copyQuery(from, piece.root.name, to, columns);
    const select = query.select(inBlocks(piece.fromBlock, piece.toBlock));
    const path = computed?.searchPath ?? 'pg_catalog';
    // The text of some types (regclass) depends on it, so it is the same on both sides.
    for (const session of [source, target]) {
      if (computed !== undefined) await session.query(`SELECT set_config('search_path', $1, true)`, [path]);
    }
    if (query.columns.length === 0) return this.countRows(piece, from, to);
    const format = copyFormat(from, to, query.columns, columns);
    let bytes = 0;
    try {
      const rows = await streamRows(source, copyOut(select, format), target, copyInto(to.name, query.columns, format), {
        signal: this.context.signal,
        onBytes: (count) => {
          bytes += count;
          this.report(piece, bytes);
          return this.pace.after(count);
        },
      });
      return { rows, bytes };
    } catch (error) {
      if (!(error instanceof CopyFailure)) throw error;
      throw await pieceFailed(this.context, this.state, this.parcel, piece, from, { query, path }, error);
    }
  }

  /** COPY has no form for rows without columns, once green's have some. */
  private async countRows(piece: Piece, from: TableInfo, to: TableInfo): Promise<{ rows: number; bytes: number }> {
    const { rows } = await this.source.query<{ n: string }>(
      `SELECT count(*)::text AS n FROM ONLY ${qualified(from.name)} WHERE ${inBlocks(piece.fromBlock, piece.toBlock)}`,
    );
    const count = rows[0]?.n ?? '0';
    await this.target.query(`INSERT INTO ${qualified(to.name)} SELECT FROM generate_series(1, $1::bigint)`, [count]);
    return { rows: Number(count), bytes: 0 };
  }

  /** Asked when the table has been read, so no rewrite can begin before the transaction ends. */
  private async wasRewritten(piece: Piece): Promise<boolean> {
    const { rows } = await this.source.query<{ node: number }>(
      `SELECT pg_relation_filenode(to_regclass($1))::int8::float8 AS node`,
      [qualified(piece.source)],
    );
    return rows[0]?.node !== piece.fileNode;
  }

  private report(piece: Piece, bytes: number): void {
    const now = performance.now();
    if (now - this.reported < 200) return;
    this.reported = now;
    this.context.report({
      parcel: this.parcel.label,
      table: formatTableName(piece.source),
      rows: this.rows,
      bytes: this.bytes + bytes,
      bytesOnBlue: this.parcel.bytes,
      ...this.pace.describe(),
    });
  }
}
