import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../../../errors.js';
import { formatTableName, type TableName } from '../../../plan/table-name.js';
import { readTables, type TableInfo } from '../../catalog.js';
import { backendPid } from '../../migrate/step-context.js';
import { openSession, type Session } from '../../session.js';
import { byName } from './copied-tables.js';
import type { CopyContext } from './copy-context.js';
import { endSession, takeOver } from './copy-lock.js';
import { CastFailed, PieceCopy } from './copy-piece.js';
import { openSnapshotSession, openTargetSession, whileWatched } from './copy-sessions.js';
import { endParcel, readCopyState, readParcel, readPieces, type CopyState } from './copy-state.js';
import { endGone, type ChangedTable } from './gone-pieces.js';
import { openPace, type Pace } from './pace.js';
import { TableChanged } from './piece-failed.js';
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
/** After so long the parcel makes room: a worker whose places are all taken by waiting parcels has none for the holder. */
const WAIT_FOR_HOLDER_MS = 10_000;

/** Tables of a parcel on whose rows the copy has failed, with the error that names the first of each. */
type FailedTables = Map<string, VerdigrisError>;

/**
 * Copies the rows of a parcel, piece by piece; pieces that are on green are left alone. Where a row fails, the other
 * tables of the parcel are copied all the same.
 *
 * @throws VerdigrisError BackfillFailed that names the row on which an `up` failed; SqlError; ConnectionFailed (retryable)
 *   while nobody holds a snapshot
 */
export async function copyParcel(context: CopyContext, id: number): Promise<ParcelResult> {
  const { databases, run, signal } = context;
  const green = await openSession(databases.green, { purpose: 'copy watch' });
  try {
    const failed: FailedTables = new Map();
    const changed = new Map<string, ChangedTable>();
    let heldAt = performance.now();
    for (;;) {
      signal.throwIfAborted();
      const state = await readCopyState(green, run.runId);
      // After the state: whoever makes snapshots may give it pieces of partitions that are new.
      const parcel = await readParcel(green, run.runId, id);
      if (parcel === undefined) return { outcome: 'lost', rows: 0, bytes: 0 };
      const done = await readPieces(green, run.runId);
      const left = parcel.pieces.filter(
        ({ key, root, source }) =>
          !done.has(key) && !failed.has(formatTableName(root)) && !changed.has(formatTableName(source)),
      );
      if (state?.phase === 'ready' && changed.size > 0) await endGone(context, green, state, parcel, changed);
      if (left.length === 0) return await copied(green, run.runId, parcel, failed);
      if (state === undefined || state.phase === 'closed' || state.phase === 'lost')
        return result('lost', parcel, done, failed);
      const outcome =
        state.phase === 'planned'
          ? 'later'
          : await copyPieces({ context, green, parcel, pieces: left, state, failed, changed });
      if (outcome === 'copied') return await copied(green, run.runId, parcel, failed);
      // While nothing has been copied, the holder that comes next makes new snapshots.
      if (outcome === 'gone' && done.size > 0) return result('lost', parcel, done, failed);
      if (outcome === 'again') continue;
      if (outcome === 'later' && state.phase !== 'planned') heldAt = performance.now();
      if (performance.now() - heldAt > WAIT_FOR_HOLDER_MS) throw noHolder(parcel);
      await sleep(LOOK_AGAIN_MS, undefined, { signal });
    }
  } finally {
    await green.end().catch(() => undefined);
  }
}

function noHolder(parcel: Parcel): VerdigrisError {
  return new VerdigrisError({
    type: 'ConnectionFailed',
    message: `blue: nobody holds the snapshot from which ${parcel.label} is copied`,
    nextStep: 'nothing: the parcel is tried again when there is one',
    retryable: true,
  });
}

/**
 * Pieces are committed without waiting for the disk, and a parcel that was copied is never looked at again: so they are
 * on the disk when it is.
 *
 * @throws VerdigrisError BackfillFailed when a row has failed.
 */
async function copied(green: Session, runId: string, parcel: Parcel, failed: FailedTables): Promise<ParcelResult> {
  await endParcel(green, runId, parcel.id);
  return result('copied', parcel, await readPieces(green, runId), failed);
}

/** @throws VerdigrisError BackfillFailed when a row has failed. */
function result(
  outcome: ParcelResult['outcome'],
  parcel: Parcel,
  done: ReadonlyMap<string, { rows: number; bytes: number }>,
  failed: FailedTables,
): ParcelResult {
  if (failed.size > 0) throw allOf([...failed.values()]);
  const mine = parcel.pieces.flatMap(({ key }) => done.get(key) ?? []);
  const sum = (of: 'rows' | 'bytes'): number => mine.reduce((total, piece) => total + piece[of], 0);
  return { outcome, rows: sum('rows'), bytes: sum('bytes') };
}

/** So many tables at most are named: the others are met again. */
const NAMED = 10;

function allOf(errors: readonly VerdigrisError[]): unknown {
  const [first] = errors;
  if (first === undefined || errors.length === 1) return first;
  const { type } = first;
  const nextStep = [...new Set(errors.map((error) => error.nextStep))].join('; ');
  const more = errors.length > NAMED ? [`and rows of ${errors.length - NAMED} more tables`] : [];
  const message = [...errors.slice(0, NAMED).map(({ what }) => what), ...more].join('; ');
  return new VerdigrisError({ type, message, nextStep, cause: first.cause });
}

/** What is left of a parcel, with all that is needed to copy it. */
interface CopyWork {
  readonly context: CopyContext;
  /** The session by which the parcel is watched there. */
  readonly green: Session;
  readonly parcel: Parcel;
  readonly pieces: readonly Piece[];
  readonly state: CopyState;
  readonly failed: FailedTables;
  /** Tables that are others on blue now than in the snapshot: left for tablesync. */
  readonly changed: Map<string, ChangedTable>;
}

/** 'gone': the snapshot is; 'later': another one is being made; 'again': in new sessions, at once. */
async function copyPieces(work: CopyWork): Promise<'copied' | 'gone' | 'later' | 'again'> {
  const { context, parcel, state } = work;
  const snapshot = state.snapshots[parcel.stream];
  if (snapshot === undefined) return 'gone';
  const pace = openPace(context.run.runId, context.databases.blue, context.plan.bootstrap, state);
  try {
    await pace.begin(context.signal);
    return await copyFrom(snapshot, work, pace);
  } finally {
    pace.close();
  }
}

async function copyFrom(snapshot: string, work: CopyWork, pace: Pace): Promise<'copied' | 'gone' | 'later' | 'again'> {
  const { context, parcel } = work;
  const { databases, signal } = context;
  const source = await openSnapshotSession(databases.blue, 'copy rows', snapshot, (session) =>
    takeOver(session, parcel.id, signal),
  );
  if (source === undefined) return 'gone';
  return whileWatched({ database: databases.blue, session: source, signal, what: `copying of ${parcel.label}` }, () =>
    copyAll(work, source, pace),
  );
}

async function copyAll(work: CopyWork, source: Session, pace: Pace): Promise<'copied' | 'later' | 'again'> {
  const { context, green: watch, parcel, pieces, state, failed, changed } = work;
  const { databases, plan, signal } = context;
  let target: Session | undefined;
  let fine = false;
  try {
    target = await openTargetSession(databases.green, 'copy rows', source);
    await takeOver(target, parcel.id, signal);
    const read = async (session: Session, names: readonly TableName[]): Promise<ReadonlyMap<string, TableInfo>> =>
      byName(await readTables(session, plan.tables, names));
    const onBlue = await read(
      source,
      pieces.map((piece) => piece.source),
    );
    const onGreen = await read(
      target,
      pieces.map((piece) => piece.target),
    );
    const copy = new PieceCopy(context, state, source, target, pace, parcel, watch);
    for (const piece of pieces) {
      signal.throwIfAborted();
      const [from, to] = [onBlue.get(formatTableName(piece.source)), onGreen.get(formatTableName(piece.target))];
      if (from === undefined || to === undefined) {
        changed.set(formatTableName(piece.source), { ...piece, oid: from?.oid ?? null });
        continue;
      }
      try {
        if (!(await copy.run(piece, from, to))) return 'later';
      } catch (error) {
        if (error instanceof TableChanged) {
          changed.set(formatTableName(piece.source), { ...piece, oid: from.oid });
          return 'again';
        }
        if (!(error instanceof VerdigrisError) || error.type !== 'BackfillFailed') throw error;
        failed.set(formatTableName(piece.root), error);
        return 'again';
      }
    }
    fine = true;
    return changed.size > 0 ? 'again' : 'copied';
  } catch (error) {
    if (error instanceof CastFailed) return 'again';
    throw error;
  } finally {
    const sessions = [source, ...(target === undefined ? [] : [target])];
    if (fine) await Promise.all(sessions.map((session) => session.end().catch(() => undefined)));
    else {
      // What has failed or been cancelled is over when this returns, on the servers, too.
      if (target !== undefined) await endSession(watch, target, backendPid(target));
      await endSession(watch, source, 0);
    }
  }
}
