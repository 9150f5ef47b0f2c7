import { setTimeout as sleep } from 'node:timers/promises';
import type { TableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import { qualified } from '../identifier.js';
import { CANCELED, sqlState } from '../sqlstate.js';
import type { BackfillBrake } from './backfill-brake.js';
import { advanceRange, readBackfill, type RangeState } from './backfill-progress.js';
import type { BackfillStatement } from './backfill-statement.js';
import { BatchSize } from './batch-size.js';
import { sessionsBlockedBy } from './blockers.js';
import type { ChangedTable } from './changed-table.js';
import { failingRow, mayBeARow } from './failing-row.js';
import type { InternalSession } from './internal-session.js';
import { inRange, keyInRow, keyList, keyOf, keyTexts, Parameters, type KeyRange, type KeyValues } from './key-range.js';
import { backendPid, cancellable, type StepContext } from './step-context.js';

/** Rows of a batch: from a size that never holds anybody up to one whose transaction stays small in memory and WAL. */
const BATCH_ROWS = { start: 500, min: 10, max: 50_000 };
/** Losing so many races in a row for the same batch, already at its smallest, is no bad luck. */
const MAX_LOST_RACES = 60;

/** One range of one table, with all that is needed to work on it. */
export interface RangeJob {
  /** The table of the plan, under whose name progress is kept. */
  readonly table: TableName;
  readonly changed: ChangedTable;
  /** Holds the rows; with the key by which the range is cut. */
  readonly leaf: TableInfo;
  readonly statement: BackfillStatement;
  readonly number: number;
  readonly state: RangeState;
}

export interface RangeOptions {
  readonly batchMs: number;
  readonly brake: BackfillBrake;
  /** After each batch: what it has added. */
  readonly onBatch: (rows: number, written: number) => void;
  /** What the lane waits for. */
  readonly onWait: (note: string) => void;
}

/** Works on one range, batch by batch, to its end. */
export class BackfillLane {
  private readonly size: BatchSize;
  private state: RangeState;
  private done = false;
  /** Most rows of the last batches were right or NULL for good. */
  private careful = false;
  private timeoutMs: number;

  constructor(
    private readonly context: StepContext,
    private readonly internal: InternalSession,
    private readonly job: RangeJob,
    private readonly options: RangeOptions,
  ) {
    this.state = job.state;
    this.timeoutMs = internal.statementMs;
    // Half of the time after which a statement is given up, so that an ordinary batch never comes near it.
    this.size = new BatchSize(Math.min(options.batchMs, internal.statementMs / 2), BATCH_ROWS);
  }

  /** @throws VerdigrisError BackfillFailed that names the row when an expression fails on one. */
  async run(): Promise<void> {
    const { session } = this.internal;
    let lost = 0;
    while (!this.done) {
      await this.options.brake.passed(this.context.signal, this.options.onWait);
      try {
        const rest = await cancellable(this.context, session, () => this.batch());
        lost = 0;
        if (rest > 0) await this.pause(rest);
      } catch (error) {
        if (!isLost(error) || ++lost > MAX_LOST_RACES) throw error;
        // One row can take longer than all of a batch should.
        if (sqlState(error) === CANCELED && this.size.isSmallest) this.timeoutMs *= 2;
        this.size.halve();
        this.options.onWait('waits for a lock that another session holds');
        await this.pause(50 + Math.random() * Math.min(1_000, 50 * 2 ** lost));
      }
    }
  }

  /** @returns how long to rest after it, in milliseconds. */
  private async batch(): Promise<number> {
    const { session } = this.internal;
    const started = performance.now();
    const limit = this.size.current;
    const end = await this.endOfBatch(limit);
    const range = { after: this.state.cursor ?? this.state.after, upTo: end.key };
    await session.query(`BEGIN; SET LOCAL statement_timeout = ${this.timeoutMs}`);
    let held = 0;
    let next: RangeState | undefined;
    try {
      next = await this.write(range, end);
      if (next === undefined) {
        await session.query('ROLLBACK');
        return await this.readAgain();
      }
      held = await sessionsBlockedBy(session, backendPid(session));
      await session.query('COMMIT');
    } catch (error) {
      await session.query('ROLLBACK').catch(() => undefined);
      throw mayBeARow(error) && !this.context.signal.aborted ? await this.failedOn(range, error) : error;
    }
    const written = next.written - this.state.written;
    this.state = next;
    this.done = end.last;
    this.careful = written < end.rows / 2;
    this.options.onBatch(end.rows, written);
    const ms = performance.now() - started;
    if (held === 0) {
      this.size.took(end.rows, ms);
      return 0;
    }
    this.size.halve();
    // Whoever waited gets its turn, and some time for what it came for.
    return ms;
  }

  private failedOn(range: KeyRange, error: unknown): Promise<Error> {
    const { leaf, statement } = this.job;
    const context = { ...this.context, session: this.internal.session };
    return failingRow(context, leaf, keyOf(leaf), statement, range, error);
  }

  /** The rows and the cursor; undefined when somebody else has moved the range. */
  private async write(range: KeyRange, end: BatchEnd): Promise<RangeState | undefined> {
    const { session } = this.internal;
    let written = 0;
    if (end.rows > 0) {
      const parameters = new Parameters();
      const { update, careful } = this.job.statement;
      const where = inRange(keyOf(this.job.leaf), range, parameters);
      const sql = (this.careful ? careful : update)(this.job.leaf.name, where);
      written = (await session.query(sql, parameters.values)).rowCount ?? 0;
    }
    const next: RangeState = {
      ...this.state,
      cursor: end.key,
      rows: this.state.rows + end.rows,
      written: this.state.written + written,
    };
    const { table, number } = this.job;
    const moved = await advanceRange(session, this.context.runId, table, number, this.state, next, end.last);
    return moved ? next : undefined;
  }

  /** Another worker, that was taken for dead, is at this range: what it has done is done. */
  private async readAgain(): Promise<number> {
    const stored = await readBackfill(this.internal.session, this.context.runId, this.job.table);
    const mine = stored?.ranges.find(({ number }) => number === this.job.number);
    if (mine === undefined || mine.done) this.done = true;
    else this.state = mine.state;
    return 200 + Math.random() * 200;
  }

  private async endOfBatch(limit: number): Promise<BatchEnd> {
    const key = keyOf(this.job.leaf);
    const { session } = this.internal;
    const rest = { after: this.state.cursor ?? this.state.after, upTo: this.state.upTo };
    const parameters = new Parameters();
    const where = inRange(key, rest, parameters);
    const from = `FROM ONLY ${qualified(this.job.leaf.name)} WHERE ${where}`;
    const { rows } = await session.query<Record<string, unknown>>(
      `SELECT ${keyTexts(key)} ${from} ORDER BY ${keyList(key)} OFFSET ${limit - 1} LIMIT 1`,
      parameters.values,
    );
    if (rows[0] !== undefined) return { key: keyInRow(key, rows[0]), rows: limit, last: false };
    const counted = await session.query<{ n: string }>(`SELECT count(*) AS n ${from}`, parameters.values);
    return { key: rest.upTo ?? [], rows: Number(counted.rows[0]?.n ?? 0), last: true };
  }

  private async pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.context.signal });
  }
}

interface BatchEnd {
  readonly key: KeyValues;
  readonly rows: number;
  /** It is the end of the range. */
  readonly last: boolean;
}

/** A race for a lock was lost, or the statement took too long to hold its locks any longer. */
function isLost(error: unknown): boolean {
  return ['55P03', '40P01', '40001', CANCELED].includes(sqlState(error) ?? '');
}
