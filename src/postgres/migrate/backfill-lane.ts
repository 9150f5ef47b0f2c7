import { setTimeout as sleep } from 'node:timers/promises';
import type { TableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import { qualified } from '../identifier.js';
import { CANCELED, DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE, SERIALIZATION_FAILURE, sqlState } from '../sqlstate.js';
import type { BackfillBrake } from './backfill-brake.js';
import { runBatch } from './backfill-batch.js';
import type { BackfillPace } from './backfill-pace.js';
import { readBackfill, type RangeState } from './backfill-progress.js';
import type { BackfillStatement } from './backfill-statement.js';
import { BatchSize } from './batch-size.js';
import type { ChangedTable } from './changed-table.js';
import { failingRow, mayBeARow } from './failing-row.js';
import type { InternalSession } from './internal-session.js';
import { inRange, keyInRow, keyList, keyOf, keyTexts, Parameters, type KeyRange, type KeyValues } from './key-range.js';
import { RepeatedStatements } from './repeated-statements.js';
import { cancellable, type StepContext } from './step-context.js';

/** Rows of a batch: from a size that never holds anybody up to one whose transaction stays small in memory and WAL. */
const BATCH_ROWS = { start: 200, min: 10, max: 50_000 };
/**
 * How long to rest for each session of others that is at work in the database, in shares of the batch's time, and at
 * most as long as the batch: an application that has the processors to itself half of the time stays quick on a small
 * machine, and a database that nobody uses is filled at full speed.
 */
const REST_PER_SESSION = 0.1;
/**
 * Commits in between need not reach the disk at once: a batch and its cursor are one transaction, so a crash of the server
 * takes both back, and the next commit of anybody that does wait makes them durable, the one that ends the table
 * included. Waiting each time would make a short batch wait for the disk as often as an application; without ever waiting, whoever commits seldom
 * would find our WAL to flush before its own.
 */
const DURABLE_EVERY_MS = 50;
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
  readonly pace: BackfillPace;
  readonly brake: BackfillBrake;
  /** After each batch: what it has added. */
  readonly onBatch: (rows: number, written: number) => void;
  /** What the lane waits for. */
  readonly onWait: (note: string) => void;
}

/** Works on one range, batch by batch, to its end. */
export class BackfillLane {
  private readonly size = new BatchSize(BATCH_ROWS);
  private readonly statements: RepeatedStatements;
  private state: RangeState;
  private done = false;
  /** Most rows of the last batches were right or NULL for good. */
  private careful = false;
  private timeoutMs: number;
  private lastDurable = performance.now();

  constructor(
    private readonly context: StepContext,
    private readonly internal: InternalSession,
    private readonly job: RangeJob,
    private readonly options: RangeOptions,
  ) {
    this.state = job.state;
    this.statements = new RepeatedStatements(internal.session);
    this.timeoutMs = internal.statementMs;
  }

  /** @throws VerdigrisError BackfillFailed that names the row when an expression fails on one. */
  async run(): Promise<void> {
    const { session } = this.internal;
    await this.limitStatements();
    let lost = 0;
    while (!this.done) {
      try {
        await this.options.pace.turn(async () => {
          await this.options.brake.passed(this.context.signal, this.options.onWait);
          const rest = await cancellable(this.context, session, () => this.batch());
          lost = 0;
          if (rest > 0) await this.pause(rest);
        });
      } catch (error) {
        if (!isLost(error) || ++lost > MAX_LOST_RACES) throw error;
        // One row can take longer than all of a batch should.
        const slow = sqlState(error) === CANCELED;
        if (slow && this.size.isSmallest) {
          this.timeoutMs *= 2;
          await this.limitStatements();
        }
        this.size.halve();
        this.options.onWait(
          slow ? 'a batch took too long: smaller ones follow' : 'waits for a lock that another session holds',
        );
        await this.pause(50 + Math.random() * Math.min(1_000, 50 * 2 ** lost));
      }
    }
    await this.statements.forget();
  }

  /** @returns how long to rest after it, in milliseconds. */
  private async batch(): Promise<number> {
    const { session } = this.internal;
    const started = performance.now();
    const limit = this.size.current;
    const end = await this.endOfBatch(limit);
    const range = { after: this.state.cursor ?? this.state.after, upTo: end.key };
    const { table, number, leaf, statement } = this.job;
    const durable = started - this.lastDurable > DURABLE_EVERY_MS;
    const next = { ...this.state, cursor: end.key, rows: this.state.rows + end.rows };
    const { moved, written, held, active } = await runBatch(session, this.statements, {
      ...{ runId: this.context.runId, table, number, leaf, range },
      update: this.careful ? statement.careful : statement.update,
      ...{ before: this.state, after: next, done: end.last, durable },
    }).catch(async (error: unknown) => {
      throw mayBeARow(error) && !this.context.signal.aborted ? await this.failedOn(range, error) : error;
    });
    if (!moved) return this.readAgain();
    this.state = { ...next, written: this.state.written + written };
    this.done = end.last;
    this.careful = written < end.rows / 2;
    this.options.onBatch(end.rows, written);
    const ended = performance.now();
    const ms = ended - started;
    if (durable) this.lastDurable = ended;
    this.options.pace.saw(active);
    if (held === 0) {
      this.size.took(end.rows, ms, this.wantedMs);
      return ms * Math.min(1, active * REST_PER_SESSION);
    }
    this.size.halve();
    // Whoever waited gets its turn, and some time for what it came for.
    return ms;
  }

  /** At most half of the time after which a statement is given up, so that an ordinary batch never comes near it. */
  private get wantedMs(): number {
    return Math.min(this.options.pace.batchMs, this.internal.statementMs / 2);
  }

  private async limitStatements(): Promise<void> {
    await this.internal.session.query(`SELECT set_config('statement_timeout', $1, false)`, [String(this.timeoutMs)]);
  }

  private failedOn(range: KeyRange, error: unknown): Promise<Error> {
    const { leaf, statement } = this.job;
    const context = { ...this.context, session: this.internal.session };
    return failingRow(context, leaf, keyOf(leaf), statement, range, error);
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
    const rest = { after: this.state.cursor ?? this.state.after, upTo: this.state.upTo };
    const parameters = new Parameters();
    const where = inRange(key, rest, parameters);
    const from = `FROM ONLY ${qualified(this.job.leaf.name)} WHERE ${where}`;
    const counting = [...parameters.values];
    const { rows } = await this.statements.query<Record<string, unknown>>(
      `SELECT ${keyTexts(key)} ${from} ORDER BY ${keyList(key)} OFFSET ${parameters.add(String(limit - 1))}::bigint LIMIT 1`,
      parameters.values,
    );
    if (rows[0] !== undefined) return { key: keyInRow(key, rows[0]), rows: limit, last: false };
    const counted = await this.internal.session.query<{ n: string }>(`SELECT count(*) AS n ${from}`, counting);
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
  return LOST.has(sqlState(error) ?? '');
}

const LOST: ReadonlySet<string> = new Set([LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED, SERIALIZATION_FAILURE, CANCELED]);
