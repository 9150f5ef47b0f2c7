import { writeProgress } from '../migrate/progress-row.js';
import type { Session } from '../session.js';
import type { PartitionFiles } from '../partition-files.js';
import type { Difference } from './difference.js';
import { LISTED } from './difference.js';
import type { LastPass, Since } from './last-pass.js';
import type { TableCut } from './table-cut.js';

/*
 * What a pass has done, in verdigris.progress of the target: how each table is cut, and how far each segment is. A row
 * that a crash of the server takes back costs a part that is read again, so its COMMIT is not waited for: thousands of
 * small tables are verified in seconds.
 */

/** How a pass began. */
export interface PassStart {
  /** Random; not known where an earlier version has begun it. */
  readonly id?: string;
  readonly began: Since;
  /** The pass whose results it builds on; null when it compares everything. */
  readonly since: LastPass | null;
  /** The files of the source's partitions then; not known where an earlier version has begun it. */
  readonly files?: PartitionFiles;
}

/** How far a segment is. */
export interface SegmentState {
  /** The first part that has not been compared. */
  readonly next: number;
  readonly rows: number;
  /** Values of derived columns that were checked. */
  readonly derivedChecked: number;
  readonly differingRows: number;
  /** The first hundred. */
  readonly differing: readonly Difference[];
}

export function unverified(first: number): SegmentState {
  return { next: first, rows: 0, derivedChecked: 0, differingRows: 0, differing: [] };
}

/** One result of many segments or tables. */
export function together(states: readonly SegmentState[]): Omit<SegmentState, 'next'> {
  const sum = (of: (state: SegmentState) => number): number => states.reduce((n, state) => n + of(state), 0);
  return {
    rows: sum((state) => state.rows),
    derivedChecked: sum((state) => state.derivedChecked),
    differingRows: sum((state) => state.differingRows),
    differing: states.flatMap((state) => state.differing).slice(0, LISTED),
  };
}

/** Reads and writes the rows of one pass. */
export class PassProgress {
  /** The last write: lanes share one session, which takes one statement at a time. */
  private written: Promise<void> = Promise.resolve();

  private constructor(
    private readonly session: Session,
    private readonly runId: string,
    private readonly step: string,
    private readonly known: Map<string, object>,
  ) {}

  /** Cursors of other passes are forgotten: rows have been written since. */
  static async open(session: Session, runId: string, pass: string): Promise<PassProgress> {
    const step = `verify ${pass}`;
    await session.query(`SELECT set_config('synchronous_commit', 'off', false)`);
    await session.query(
      `DELETE FROM verdigris.progress WHERE run_id = $1 AND starts_with(step, 'verify ') AND step <> $2`,
      [runId, step],
    );
    const { rows } = await session.query<{ object: string; state: object }>(
      'SELECT object, state FROM verdigris.progress WHERE run_id = $1 AND step = $2',
      [runId, step],
    );
    return new PassProgress(session, runId, step, new Map(rows.map(({ object, state }) => [object, state])));
  }

  start(): PassStart | undefined {
    return this.read<PassStart>(PASS);
  }

  begin(start: PassStart): Promise<void> {
    return this.write(PASS, start, false);
  }

  /** The pass is to begin anew. */
  async forget(): Promise<void> {
    this.known.clear();
    await this.session.query('DELETE FROM verdigris.progress WHERE run_id = $1 AND step = $2', [this.runId, this.step]);
  }

  cutOf(table: string): TableCut | undefined {
    return this.read<TableCut>(table);
  }

  cut(table: string, cut: TableCut): Promise<void> {
    return this.write(table, cut, false);
  }

  segment(table: string, segment: number): SegmentState | undefined {
    return this.read<SegmentState>(segmentName(table, segment));
  }

  save(table: string, segment: number, state: SegmentState, done: boolean): Promise<void> {
    return this.write(segmentName(table, segment), state, done);
  }

  /** What the last try has written. */
  private read<State extends object>(object: string): State | undefined {
    // Each object is written by one function above, in one shape.
    return this.known.get(object) as State | undefined;
  }

  private async write(object: string, state: object, done: boolean): Promise<void> {
    const key = { runId: this.runId, step: this.step, object };
    const writing = this.written.then(() => writeProgress(this.session, key, state, done));
    this.written = writing.catch(() => undefined);
    await writing;
  }
}

/** No table is written like this: theirs have a schema. */
const PASS = 'pass';

function segmentName(table: string, segment: number): string {
  return `${table} #${segment + 1}`;
}
