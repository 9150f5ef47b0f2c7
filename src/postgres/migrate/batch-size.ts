/** Rows of a batch: steered so that one batch takes about as long as wanted. */
export class BatchSize {
  private rows: number;
  /** After somebody waited: how far batches may grow again for now. */
  private ceiling: number;
  private lastWantedMs: number | undefined;

  constructor(private readonly bounds: { readonly start: number; readonly min: number; readonly max: number }) {
    this.rows = bounds.start;
    this.ceiling = bounds.max;
  }

  get current(): number {
    return this.rows;
  }

  get isSmallest(): boolean {
    return this.rows <= this.bounds.min;
  }

  /**
   * After a batch of `rows` that took so long, where `wantedMs` is right. At most doubled: a first fast batch may have met
   * warm pages only. Where less is wanted than before, the next batch is as much smaller at once.
   */
  took(rows: number, ms: number, wantedMs: number): void {
    const shorter = Math.min(1, wantedMs / (this.lastWantedMs ?? wantedMs));
    this.lastWantedMs = wantedMs;
    // A short last batch says little about what a full one takes.
    if (rows < this.rows / 2) return;
    this.ceiling = Math.min(this.bounds.max, this.ceiling * CAREFUL_GROWTH);
    this.set(this.rows * Math.min(2, Math.max(0.25 * shorter, wantedMs / Math.max(1, ms))));
  }

  /**
   * Somebody waited for us, or we for somebody: smaller batches hold fewer rows for a shorter time. They grow again
   * slowly, so that on a table whose rows are written all the time few batches meet a writer, and those are short.
   */
  halve(): void {
    this.ceiling = Math.max(this.bounds.min, this.rows / 2);
    this.set(this.rows / 2);
  }

  private set(rows: number): void {
    this.rows = Math.round(Math.min(this.bounds.max, this.ceiling, Math.max(this.bounds.min, rows)));
  }
}

/** One batch in fourteen meets somebody where halving and this growth are in balance. */
const CAREFUL_GROWTH = 1.05;
