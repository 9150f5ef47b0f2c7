import { RateMeter } from '../migrate/step-context.js';
import { rememberedFiles, rememberFiles } from '../partition-files.js';
import { withSession, type Session } from '../session.js';
import { cutTable, isSmall, PART_SIZE, type TableSize } from './cut-table.js';
import { ENOUGH } from './difference.js';
import { fingerprint, forgetLastPass, isCoveredBy, notePass, onGreen, writeLastPass, type Since } from './last-pass.js';
import { Pace } from './pace.js';
import { together, unverified, type PassProgress, type PassStart, type SegmentState } from './pass-progress.js';
import type { SideSessions } from './side-sessions.js';
import { partsOfSegment, segmentsOf, uncut, type TableCut } from './table-cut.js';
import type { TablePair } from './table-pair.js';
import type { SizedPair } from './table-pairs.js';
import { verifySegment } from './verify-segment.js';
import type { Verification, VerifyOptions } from './verify-tables.js';

/** A table in the course of a pass. */
interface PassTable {
  readonly pair: TablePair;
  readonly size: TableSize;
  readonly since: Since | undefined;
  readonly cut: TableCut;
  readonly segments: SegmentState[];
  /** Since the first part of this try. */
  meter?: RateMeter;
}

const DEFAULT_REST = 0.1;

/** One pass over all tables. */
export class Pass {
  private readonly tables: PassTable[] = [];
  private readonly pace: Pace;
  private waitingFor: string | undefined;

  constructor(
    private readonly options: VerifyOptions,
    private readonly progress: PassProgress,
    private readonly pairs: readonly SizedPair[],
    private readonly start: PassStart,
    private readonly lanes: readonly SideSessions[],
    private readonly stop: AbortController,
  ) {
    const onWait = (why: string | undefined): void => {
      this.waitingFor = why;
      this.report(this.tables.find(({ segments, cut }) => segments.length < segmentsOf(cut)) ?? this.tables.at(-1));
    };
    const { rest = DEFAULT_REST, mayWork, signal } = options;
    this.pace = new Pace({ rest, mayWork, signal, onWait });
  }

  async run(): Promise<Verification> {
    await this.inLanes(this.pairs, (sessions, table) => this.cut(sessions, table));
    this.tables.sort((a, b) => b.cut.rows - a.cut.rows);
    const segments = this.tables.flatMap((table) =>
      Array.from({ length: segmentsOf(table.cut) }, (_, number) => ({ table, number })),
    );
    await this.inLanes(segments, (sessions, { table, number }) => this.verify(sessions, table, number));
    const found = this.result();
    await this.rememberFiles(found.differingRows === 0);
    await onGreen(this.options, (green) => this.remember(green, found.differingRows === 0));
    return found;
  }

  /** Each lane takes the next item as soon as it has done its last one. The first error ends all. */
  private async inLanes<T>(
    items: readonly T[],
    work: (sessions: SideSessions, item: T) => Promise<void>,
  ): Promise<void> {
    const rest = items.values();
    const outcomes = await Promise.allSettled(
      this.lanes.map(async (sessions) => {
        try {
          for (const item of rest) {
            this.options.signal.throwIfAborted();
            await work(sessions, item);
          }
        } catch (error) {
          this.stop.abort(error);
          throw error;
        }
      }),
    );
    if (outcomes.some(({ status }) => status === 'rejected')) throw this.stop.signal.reason;
  }

  private async cut(sessions: SideSessions, { pair, size }: SizedPair): Promise<void> {
    const known = this.progress.cutOf(pair.object);
    const { partSize = PART_SIZE } = this.options;
    const small = isSmall(size, partSize);
    const cut = known ?? (small ? uncut(pair.estimatedRows) : await cutTable(sessions, pair, size, partSize));
    // A small table is cut again in no time.
    if (known === undefined && !small) await this.progress.cut(pair.object, cut);
    const { since } = this.start;
    this.tables.push({
      pair,
      size,
      since: since !== null && isCoveredBy(since, pair) ? since.began : undefined,
      cut,
      segments: Array.from({ length: segmentsOf(cut) }, (_, number) => {
        return this.progress.segment(pair.object, number) ?? unverified(partsOfSegment(cut, number).first);
      }),
    });
  }

  private async verify(sessions: SideSessions, table: PassTable, number: number): Promise<void> {
    const { pair, cut, since, segments } = table;
    const from = segments[number] ?? unverified(partsOfSegment(cut, number).first);
    if (together(segments).differingRows >= ENOUGH) return;
    table.meter ??= new RateMeter(together(segments).rows);
    await verifySegment(sessions, { pair, cut, number, since }, from, this.pace, async (state, done) => {
      segments[number] = state;
      await this.progress.save(pair.object, number, state, done);
      this.report(table);
    });
  }

  private report(table: PassTable | undefined): void {
    if (table === undefined) return;
    const { rows, differingRows } = together(table.segments);
    const total = Math.max(table.cut.rows, rows);
    const { cut } = table;
    const notes = [
      ...(cut.by === 'buckets' && cut.passes > 1
        ? [`${cut.passes} passes over it: the two servers sort its keys differently`]
        : []),
      ...(this.waitingFor === undefined ? [] : [`waits: ${this.waitingFor}`]),
      ...(differingRows === 0 ? [] : [`${differingRows} rows differ`]),
    ];
    const rates = table.meter?.rates(rows, total) ?? { rowsPerSecond: 0, etaSeconds: null };
    // What the source's files hold of the rows that have been compared, wide values included.
    const bytesOf = (count: number): number => Math.round((table.size.bytes * count) / Math.max(1, total));
    this.options.onProgress({
      ...{ step: 'verify', object: table.pair.object, done: rows, total, bytes: bytesOf(rows) },
      ...{ ...rates, bytesPerSecond: bytesOf(rates.rowsPerSecond) },
      ...(notes.length === 0 ? {} : { note: notes.join('; ') }),
    });
  }

  private result(): Verification {
    const order = new Map(this.options.tables.map((table, i) => [JSON.stringify([table.schema, table.name]), i]));
    const place = ({ pair }: PassTable): number => order.get(JSON.stringify([pair.table.schema, pair.table.name])) ?? 0;
    const tables = [...this.tables].sort((a, b) => place(a) - place(b));
    const { rows, differingRows, differing, derivedChecked } = together(tables.flatMap(({ segments }) => segments));
    return {
      scope: this.start.since === null ? 'all' : 'changed',
      tables: tables.length,
      rowsVerified: rows,
      differingRows,
      differing,
      derivedChecked,
      notCompared: tables.flatMap(({ pair }) => pair.leftOut.map((name) => `${pair.object}.${name}`)),
    };
  }

  /**
   * What was emptied before the pass began, it has seen. What it has found of blue must be mended before the run goes on: it
   * is looked for again. What it has found of green is told, and what comes later is told beside it.
   */
  private async rememberFiles(equal: boolean): Promise<void> {
    const { files } = this.start;
    const { source, direction, runId, isPartial = false } = this.options;
    if (files === undefined || (!equal && (isPartial || direction === 'to_green'))) return;
    await withSession(source, { purpose: 'verify progress' }, async (session) => {
      const others = isPartial ? await rememberedFiles(session, runId, 'compared') : {};
      await rememberFiles(session, runId, 'compared', { ...others, ...files });
    });
  }

  /** What the next pass over changed rows builds on. */
  private async remember(green: Session, equal: boolean): Promise<void> {
    if (this.options.isPartial === true) return;
    const { runId } = this.options;
    if (!equal) return forgetLastPass(green, runId);
    const { id, began } = this.start;
    // Blue first: what green notes is what the next pass builds on.
    if (id !== undefined) await this.lanes[0]?.onBlue((blue) => notePass(blue, runId, 'pass ended', id));
    const tables = Object.fromEntries(this.tables.map(({ pair }) => [pair.object, fingerprint(pair)]));
    return writeLastPass(green, runId, { ...(id === undefined ? {} : { id }), began, tables });
  }
}
