import { formatTableName } from '../../plan/table-name.js';
import { closeSession } from '../session.js';
import { BackfillBrake, type BackfillLimits } from './backfill-brake.js';
import { BackfillLane, type RangeJob } from './backfill-lane.js';
import { BackfillPace, type PaceOptions } from './backfill-pace.js';
import { beginBackfill, finishBackfill, readBackfill, type StoredBackfill } from './backfill-progress.js';
import { cutIntoRanges } from './backfill-ranges.js';
import { backfillStatement } from './backfill-statement.js';
import { readChangedTables, type ChangedTable } from './changed-table.js';
import { expandKey, type ExpandState } from './expand-table.js';
import { openInternalSession, type InternalSession } from './internal-session.js';
import type { TableWork } from './plan-work.js';
import { readProgress } from './progress-row.js';
import { RateMeter, type StepContext } from './step-context.js';

/*
 * Fills the derived columns of the rows that were there before the trigger. Each table is cut into ranges along its key
 * up to the largest key at the start: what arrives later has been completed by the trigger. Lanes take one range after
 * the other, of whatever table, and work along it in batches. Only rows that are not right yet are written, so a second
 * run writes nothing. A range's cursor is written in the transaction of its batch: whatever dies, the next run goes on
 * behind the last batch that was committed.
 */

export interface BackfillOptions extends BackfillLimits, PaceOptions {
  /** After each transaction on green. */
  readonly onTransaction?: () => void;
}

export interface BackfillResult {
  readonly table: string;
  /** Rows looked at by the run, earlier tries included. */
  readonly rows: number;
  /** Rows written by the run, earlier tries included; 0 when they were all right. */
  readonly written: number;
}

/**
 * Backfills one table, its partitions too.
 *
 * @throws VerdigrisError BackfillFailed that names the row when an expression fails on one.
 */
export async function backfillTable(
  context: StepContext,
  work: TableWork,
  options: BackfillOptions,
): Promise<BackfillResult> {
  const [result] = await backfillTables(context, [work], options);
  return result ?? { table: formatTableName(work.table), rows: 0, written: 0 };
}

/**
 * Backfills several tables, `parallel` ranges at once. Results are in the order of `works`.
 *
 * @throws VerdigrisError BackfillFailed that names the row when an expression fails on one; the other lanes stop.
 */
export async function backfillTables(
  context: StepContext,
  works: readonly TableWork[],
  options: BackfillOptions,
): Promise<readonly BackfillResult[]> {
  const tables = await readProgressOf(context, works);
  const open = tables.filter((table) => !table.isDone);
  if (open.length > 0) {
    const internal = await openInternalSession(context);
    try {
      await begin(context, internal, open, options.parallel ?? 1);
      await runLanes(context, internal, open, options);
    } finally {
      await closeSession(internal.session);
    }
  }
  return tables.map((table) => table.result);
}

/** One table: what is known of it, and what its lanes have done. */
class TableBackfill {
  readonly name: string;
  jobs: RangeJob[] = [];
  private rangesLeft = 0;
  private rows = 0;
  private written = 0;
  private total = 0;
  private bytes = 0;
  private done = false;
  private meter: RateMeter | undefined;

  constructor(
    private readonly context: StepContext,
    readonly work: TableWork,
    readonly stored: StoredBackfill | undefined,
  ) {
    this.name = formatTableName(work.table);
    this.done = stored?.done === true || !work.derived.some(({ up }) => up !== undefined);
    if (stored !== undefined) this.count(stored);
  }

  get isDone(): boolean {
    return this.done;
  }

  get size(): number {
    return this.bytes;
  }

  get result(): BackfillResult {
    return { table: this.name, rows: this.rows, written: this.written };
  }

  begun(stored: StoredBackfill, jobs: RangeJob[]): void {
    this.count(stored);
    this.jobs = jobs;
    this.rangesLeft = jobs.length;
  }

  private count(stored: StoredBackfill): void {
    const sum = (of: 'rows' | 'written'): number => stored.ranges.reduce((n, { state }) => n + state[of], 0);
    ({ total: this.total, bytes: this.bytes } = stored.state);
    this.rows = stored.done ? stored.state.rows : sum('rows');
    this.written = stored.done ? stored.state.written : sum('written');
  }

  batch(rows: number, written: number): void {
    this.rows += rows;
    this.written += written;
    this.report();
  }

  /** After the last range, or at once when none is left. */
  async rangeOver(): Promise<void> {
    this.rangesLeft -= 1;
    if (this.rangesLeft > 0) return;
    const { rows, written } = await finishBackfill(this.context.session, this.context.runId, this.work.table);
    [this.rows, this.written, this.done] = [Number(rows), Number(written), true];
    this.report();
  }

  report(note?: string): void {
    this.meter ??= new RateMeter(this.rows);
    const total = this.done ? this.rows : Math.max(this.total, this.rows);
    const rates = this.meter.rates(this.rows, total);
    const bytesPerRow = total === 0 ? 0 : this.bytes / total;
    this.context.onProgress({
      step: 'backfill',
      object: this.name,
      done: this.rows,
      total,
      ...rates,
      bytes: Math.round(this.rows * bytesPerRow),
      bytesPerSecond: Math.round(rates.rowsPerSecond * bytesPerRow),
      ...(note === undefined ? {} : { note }),
    });
  }
}

async function readProgressOf(context: StepContext, works: readonly TableWork[]): Promise<TableBackfill[]> {
  const tables: TableBackfill[] = [];
  for (const work of works) {
    tables.push(new TableBackfill(context, work, await readBackfill(context.session, context.runId, work.table)));
  }
  return tables;
}

/** Fixes and stores the ranges of tables that were never begun, and makes the jobs of all that is left. */
async function begin(
  context: StepContext,
  internal: InternalSession,
  tables: readonly TableBackfill[],
  lanes: number,
): Promise<void> {
  const { session } = internal;
  const changed = await readChangedTables(
    session,
    tables.map(({ work }) => work.table),
  );
  for (const [i, found] of changed.entries()) {
    const table = tables[i];
    if (table === undefined) continue;
    context.signal.throwIfAborted();
    const { work } = table;
    await internal.enter(found.info, found.searchPath);
    const stored = table.stored ?? (await cut(context, internal, found, lanes));
    const expanded = await readProgress<ExpandState>(session, expandKey(context.runId, work));
    const added = new Set(expanded?.state.added ?? []);
    const statement = await backfillStatement(session, found.info, work.derived, added);
    const jobs = stored.ranges
      .filter(({ done }) => !done)
      .flatMap(({ number, state }): RangeJob[] => {
        const leaf = leavesOf(found).find(({ name }) => formatTableName(name) === formatTableName(state.leaf));
        // A partition that somebody has dropped or detached has no rows of this table any more.
        return leaf === undefined ? [] : [{ table: work.table, leaf, statement, number, state, changed: found }];
      });
    table.begun(stored, jobs);
    if (jobs.length === 0) await table.rangeOver();
  }
}

async function cut(
  context: StepContext,
  { session }: InternalSession,
  changed: ChangedTable,
  lanes: number,
): Promise<StoredBackfill> {
  const ranges = [];
  let [total, bytes] = [0, 0];
  for (const leaf of leavesOf(changed)) {
    const found = await cutIntoRanges(session, leaf, lanes);
    total += found.rows;
    bytes += found.bytes;
    ranges.push(...found.ranges.map((range) => ({ ...range, leaf: leaf.name })));
  }
  const state = { rows: 0, written: 0, total, bytes };
  return beginBackfill(session, context.runId, changed.info.name, state, ranges);
}

/** The root's key where a leaf has none; a leaf's own may be another, and cursors are compared in the order of one index. */
function leavesOf({ info, leaves }: ChangedTable): ChangedTable['leaves'] {
  return leaves.map((leaf) => ({ ...leaf, key: leaf.key ?? info.key }));
}

/** The lanes share a queue: the largest table first, so that no lane is left alone with it at the end. */
async function runLanes(
  context: StepContext,
  first: InternalSession,
  tables: readonly TableBackfill[],
  options: BackfillOptions,
): Promise<void> {
  const queue = [...tables]
    .sort((a, b) => b.size - a.size)
    .flatMap((table) => table.jobs.map((job) => ({ table, job })));
  const failed = new AbortController();
  const signal = AbortSignal.any([context.signal, failed.signal]);
  const brake = new BackfillBrake(options);
  const pace = new BackfillPace(options);
  const lane = async (internal: InternalSession): Promise<void> => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const { table, job } = next;
      await internal.enter(job.changed.info, job.changed.searchPath);
      const range = new BackfillLane({ ...context, signal }, internal, job, {
        pace,
        brake,
        onBatch: (rows, written) => {
          options.onTransaction?.();
          table.batch(rows, written);
        },
        onWait: (note) => {
          table.report(note);
        },
      });
      await range.run();
      await table.rangeOver();
    }
  };
  const another = async (): Promise<void> => {
    const internal = await openInternalSession(context);
    try {
      await lane(internal);
    } finally {
      await closeSession(internal.session);
    }
  };
  const stopping = (error: unknown): void => {
    failed.abort(error);
  };
  brake.watch();
  try {
    const more = Math.min(options.parallel ?? 1, queue.length) - 1;
    const lanes = [lane(first), ...Array.from({ length: Math.max(0, more) }, another)];
    await Promise.all(lanes.map((running) => running.catch(stopping)));
  } finally {
    brake.release();
  }
  context.signal.throwIfAborted();
  // The first that failed has stopped the others.
  if (failed.signal.aborted) throw failed.signal.reason;
}
