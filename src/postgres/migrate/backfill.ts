import { setTimeout as sleep } from 'node:timers/promises';
import { formatTableName } from '../../plan/table-name.js';
import type { KeyColumn, TableInfo } from '../catalog.js';
import { ident, qualified } from '../identifier.js';
import { closeSession, inTransaction } from '../session.js';
import { sqlState } from '../sqlstate.js';
import { backfillStatement, type BackfillStatement } from './backfill-statement.js';
import { BatchSize } from './batch-size.js';
import { sessionsBlockedBy } from './blockers.js';
import { readTable } from './changed-table.js';
import { failingRow } from './failing-row.js';
import { inRange, keyInRow, keyList, keyOf, keyTexts, Parameters, type KeyRange, type KeyValues } from './key-range.js';
import { openInternalSession } from './internal-session.js';
import type { TableWork } from './plan-work.js';
import { readProgress, writeProgress, type ProgressKey } from './progress-row.js';
import { backendPid, cancellable, RateMeter, type StepContext } from './step-context.js';
import { isTransient } from './step-failed.js';

/*
 * Fills the derived columns of the rows that were there before the trigger. Batches along the key, up to the largest
 * key at the start: what arrives later has been completed by the trigger. Only rows that are not right yet are written,
 * so a second run writes nothing. The cursor is written in the transaction of its batch: whatever dies, the next run
 * goes on behind the last batch that was committed.
 */

/** Rows of a batch: from a size that never holds anybody up to one whose transaction stays small in memory and WAL. */
const BATCH_ROWS = { start: 500, min: 10, max: 50_000 };
/** How often the lag is asked for, which costs a marker's round trip. */
const LAG_EVERY_MS = 1_000;
/** Losing so many races in a row for the same batch, already at its smallest, is no bad luck. */
const MAX_LOST_RACES = 60;

export interface BackfillOptions {
  /** How long one batch should take. */
  readonly batchMs: number;
  readonly maxLagSeconds: number;
  /** How far this database is behind now. */
  readonly lagSeconds: () => Promise<number>;
}

export interface BackfillResult {
  /** Rows looked at by the run, earlier tries included. */
  readonly rows: number;
  /** Rows written by the run, earlier tries included; 0 when they were all right. */
  readonly written: number;
}

interface BackfillState {
  /** The last key done; null at the start. */
  readonly cursor: KeyValues | null;
  /** The largest key at the start; null when the table was empty. */
  readonly bound: KeyValues | null;
  readonly rows: number;
  readonly written: number;
  readonly total: number;
}

/**
 * Backfills one table, its partitions one after the other.
 *
 * @throws VerdigrisError BackfillFailed that names the row when an expression fails on one.
 */
export async function backfillTable(
  context: StepContext,
  work: TableWork,
  options: BackfillOptions,
): Promise<BackfillResult> {
  const { info, leaves, searchPath } = await readTable(context.session, work.table);
  const result = { rows: 0, written: 0 };
  if (!work.derived.some(({ up }) => up !== undefined)) return result;
  const session = await openInternalSession(context, info, searchPath);
  try {
    const statement = await backfillStatement(session, info, work.derived);
    for (const leaf of leaves) {
      // The root's key: a leaf's own may be another, and cursors are compared in the order of one index.
      const table = { ...leaf, key: leaf.key ?? info.key };
      const state = await new LeafBackfill({ ...context, session }, table, statement, options).run();
      result.rows += state.rows;
      result.written += state.written;
    }
    return result;
  } finally {
    await closeSession(session);
  }
}

class LeafBackfill {
  private readonly key: readonly KeyColumn[];
  private readonly progress: ProgressKey;
  private readonly size: BatchSize;
  private readonly object: string;
  private lagAsked = 0;
  private meter = new RateMeter(0);

  constructor(
    private readonly context: StepContext,
    private readonly table: TableInfo,
    private readonly statement: BackfillStatement,
    private readonly options: BackfillOptions,
  ) {
    this.key = keyOf(table);
    this.object = formatTableName(table.name);
    this.progress = { runId: context.runId, step: 'backfill', object: this.object };
    this.size = new BatchSize(options.batchMs, BATCH_ROWS);
  }

  async run(): Promise<BackfillState> {
    const { session } = this.context;
    const found = await readProgress<BackfillState>(session, this.progress);
    let state = found?.state ?? (await this.begin());
    if (found?.done === true) return state;
    this.meter = new RateMeter(state.rows);
    let lost = 0;
    for (let over = state.bound === null; !over;) {
      await this.waitForLag(state);
      try {
        const next = await cancellable(this.context, session, () => this.batch(state));
        over = next.over;
        state = next.state;
        lost = 0;
        this.report(state);
      } catch (error) {
        if (!isLockConflict(error) || ++lost > MAX_LOST_RACES) throw error;
        this.size.halve();
        this.report(state, 'waits for a lock that another session holds');
        await this.pause(50 + Math.random() * Math.min(1_000, 50 * 2 ** lost));
      }
    }
    await writeProgress(session, this.progress, state, true);
    this.report(state);
    return state;
  }

  /** The bound is fixed and stored before the first batch, so that the backfill ends however fast rows arrive. */
  private async begin(): Promise<BackfillState> {
    const { session } = this.context;
    const { rows } = await session.query<Record<string, unknown>>(
      `SELECT ${keyTexts(this.key)} FROM ${qualified(this.table.name)}
        ORDER BY ${this.key.map(({ name }) => `${ident(name)} DESC`).join(', ')} LIMIT 1`,
    );
    const bound = rows[0] === undefined ? null : keyInRow(this.key, rows[0]);
    const state: BackfillState = { cursor: null, bound, rows: 0, written: 0, total: this.table.estimatedRows };
    await writeProgress(session, this.progress, state, false);
    return state;
  }

  private async batch(state: BackfillState): Promise<{ state: BackfillState; over: boolean }> {
    const { session } = this.context;
    const started = performance.now();
    const limit = this.size.current;
    let held = 0;
    const result = await inTransaction(session, async () => {
      const end = await this.endOfBatch(state, limit);
      if (end === undefined) return { state, rows: 0 };
      const range = { after: state.cursor, upTo: end.key };
      const written = await this.update(range);
      const next: BackfillState = {
        ...state,
        cursor: end.key,
        rows: state.rows + end.rows,
        written: state.written + written,
      };
      await writeProgress(session, this.progress, next, false);
      held = await sessionsBlockedBy(session, backendPid(session));
      return { state: next, rows: end.rows };
    });
    const ms = performance.now() - started;
    if (held > 0) {
      this.size.halve();
      // Whoever waited gets its turn, and some time for what it came for.
      await this.pause(ms);
    } else this.size.took(result.rows, ms);
    return { state: result.state, over: result.rows < limit };
  }

  private async endOfBatch(state: BackfillState, limit: number): Promise<{ key: KeyValues; rows: number } | undefined> {
    const parameters = new Parameters();
    const where = inRange(this.key, { after: state.cursor, upTo: state.bound }, parameters);
    const order = keyList(this.key);
    const { rows } = await this.context.session.query<Record<string, unknown> & { verdigris_n: string }>(
      `SELECT ${keyTexts(this.key)}, verdigris_n::text
         FROM (SELECT ${order}, row_number() OVER (ORDER BY ${order}) AS verdigris_n
                 FROM ${qualified(this.table.name)} WHERE ${where} ORDER BY ${order} LIMIT ${limit}) batch
        ORDER BY batch.verdigris_n DESC LIMIT 1`,
      parameters.values,
    );
    return rows[0] && { key: keyInRow(this.key, rows[0]), rows: Number(rows[0].verdigris_n) };
  }

  private async update(range: KeyRange): Promise<number> {
    const parameters = new Parameters();
    const sql = this.statement.update(this.table.name, inRange(this.key, range, parameters));
    try {
      return (await this.context.session.query(sql, parameters.values)).rowCount ?? 0;
    } catch (error) {
      if (isTransient(error) || this.context.signal.aborted || sqlState(error)?.startsWith('57') === true) throw error;
      await this.context.session.query('ROLLBACK');
      throw await failingRow(this.context, this.table, this.key, this.statement, range, error);
    }
  }

  private async waitForLag(state: BackfillState): Promise<void> {
    for (;;) {
      if (performance.now() - this.lagAsked < LAG_EVERY_MS) return;
      const lag = await this.options.lagSeconds();
      this.lagAsked = performance.now();
      if (lag <= this.options.maxLagSeconds) return;
      this.report(state, `waits: ${lag.toFixed(1)} s behind, at most ${this.options.maxLagSeconds} s are allowed`);
      await this.pause(LAG_EVERY_MS);
    }
  }

  private async pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.context.signal });
  }

  private report(state: BackfillState, note?: string): void {
    const total = Math.max(state.total, state.rows);
    this.context.onProgress({
      step: 'backfill',
      object: this.object,
      done: state.rows,
      total,
      ...this.meter.rates(state.rows, total),
      ...(note === undefined ? {} : { note }),
    });
  }
}

function isLockConflict(error: unknown): boolean {
  const state = sqlState(error);
  return state === '55P03' || state === '40P01' || state === '40001';
}
