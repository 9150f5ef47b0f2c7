import PQueue from 'p-queue';
import { VerdigrisError } from '../../errors.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { findTable } from '../migrate/changed-table.js';
import { workOfTable, type Work } from '../migrate/plan-work.js';
import { readProgress, writeProgress, type ProgressKey } from '../migrate/progress-row.js';
import { RateMeter, type OnProgress } from '../migrate/step-context.js';
import { closeSession, openSession, withSession } from '../session.js';
import { LISTED, type Difference } from './difference.js';
import { SideSessions, type Sides } from './side-sessions.js';
import { tablePair, type TablePair } from './table-pair.js';
import { UNVERIFIED, verifyTable, type TableState } from './verify-table.js';

/** How many tables are compared at once. */
const PARALLEL_TABLES = 2;

export interface VerifyOptions extends Sides {
  readonly runId: string;
  /**
   * Names this pass: another try of the same pass goes on where the last one was, another pass starts over. The id of
   * the activity is one.
   */
  readonly pass: string;
  /** Ordinary tables and the topmost of partitioned ones. */
  readonly tables: readonly TableName[];
  readonly work: Work;
  readonly onProgress: OnProgress;
  readonly parallelTables?: number;
}

export interface Verification {
  readonly tables: number;
  /** Rows of the source that were compared. */
  readonly rowsVerified: number;
  /** All that was found; the search in a table ends at a thousand. */
  readonly differingRows: number;
  /** The first hundred of them, by table and key. */
  readonly differing: readonly Difference[];
  /** Values of derived columns that were checked against their `up`. */
  readonly derivedChecked: number;
  /** Columns that the target lacks, or has with another type: `public.orders.note`. */
  readonly notCompared: readonly string[];
}

/**
 * Compares every table of the two sides row by row while the application writes, and the derived columns of the target
 * with their `up` while blue is written. Reads only, but for the markers and its own cursors.
 *
 * @throws VerdigrisError VerificationFailed when a table can't be compared, ReplicationStalled when the feed stands.
 */
export async function verifyTables(options: VerifyOptions): Promise<Verification> {
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const queue = new PQueue({ concurrency: options.parallelTables ?? PARALLEL_TABLES });
  await forgetOtherPasses(options);
  const outcomes = await Promise.allSettled(
    options.tables.map((table) =>
      queue
        .add(() => verifyOne({ ...options, signal }, table))
        .catch((error: unknown) => {
          stop.abort(error);
          throw error;
        }),
    ),
  );
  options.signal.throwIfAborted();
  if (outcomes.some(({ status }) => status === 'rejected')) throw stop.signal.reason;
  const verified = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
  const sum = (of: (state: TableState) => number): number => verified.reduce((n, { state }) => n + of(state), 0);
  return {
    tables: verified.length,
    rowsVerified: sum((state) => state.rows),
    differingRows: sum((state) => state.differingRows),
    differing: verified.flatMap(({ state }) => state.differing).slice(0, LISTED),
    derivedChecked: sum((state) => state.derivedChecked),
    notCompared: verified.flatMap(({ pair }) => pair.leftOut.map((name) => `${pair.object}.${name}`)),
  };
}

async function verifyOne(options: VerifyOptions, table: TableName): Promise<{ state: TableState; pair: TablePair }> {
  options.signal.throwIfAborted();
  const sessions = await SideSessions.open(options);
  const cursors = await openSession(options.target, { purpose: 'verify progress' });
  try {
    const pair = await readPair(sessions, options, table);
    const key = progressKey(options, pair.object);
    const known = await readProgress<TableState>(cursors, key);
    if (known?.done === true) return { state: known.state, pair };
    const from = known?.state ?? UNVERIFIED;
    const meter = new RateMeter(from.rows);
    const state = await verifyTable(sessions, pair, from, async (now, done) => {
      await writeProgress(cursors, key, now, done);
      const total = Math.max(pair.estimatedRows, now.rows);
      const step = { step: 'verify', object: pair.object, done: now.rows, total };
      const note = now.differingRows === 0 ? {} : { note: `${now.differingRows} rows differ` };
      options.onProgress({ ...step, ...meter.rates(now.rows, total), ...note });
    });
    return { state, pair };
  } finally {
    await Promise.all([sessions.close(), closeSession(cursors)]);
  }
}

async function readPair(sessions: SideSessions, options: VerifyOptions, table: TableName): Promise<TablePair> {
  const [source, target] = await sessions.each((session) => findTable(session, table));
  if (source === undefined || target === undefined) {
    const side = source === undefined ? options.source.side : options.target.side;
    throw new VerdigrisError({
      type: 'VerificationFailed',
      message: `table ${formatTableName(table)} is not there on ${side}`,
      nextStep: 'find out who dropped or renamed it; blue must not be changed by DDL during a run',
    });
  }
  return tablePair(source, target, workOfTable(options.work, table)?.derived ?? [], options.direction);
}

function progressKey(options: VerifyOptions, object: string): ProgressKey {
  return { runId: options.runId, step: `verify ${options.pass}`, object };
}

/** Cursors of earlier passes are worth nothing: the rows have been written since. */
async function forgetOtherPasses(options: VerifyOptions): Promise<void> {
  await withSession(options.target, { purpose: 'verify progress' }, (session) =>
    session.query(
      `DELETE FROM verdigris.progress WHERE run_id = $1 AND starts_with(step, 'verify ') AND step <> 'verify ' || $2`,
      [options.runId, options.pass],
    ),
  );
}
