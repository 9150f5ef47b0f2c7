/** Rows of a batch: steered so that one batch takes about as long as wanted. */
export class BatchSize {
  private rows: number;

  constructor(
    private readonly targetMs: number,
    private readonly bounds: { readonly start: number; readonly min: number; readonly max: number },
  ) {
    this.rows = bounds.start;
  }

  get current(): number {
    return this.rows;
  }

  /** After a batch of `rows` that took so long. At most doubled: a first fast batch may have met warm pages only. */
  took(rows: number, ms: number): void {
    // A short last batch says little about what a full one takes.
    if (rows < this.rows / 2) return;
    this.set(this.rows * Math.min(2, Math.max(0.25, this.targetMs / Math.max(1, ms))));
  }

  /** Somebody waited for us, or we for somebody: smaller batches hold fewer rows for a shorter time. */
  halve(): void {
    this.set(this.rows / 2);
  }

  private set(rows: number): void {
    this.rows = Math.round(Math.min(this.bounds.max, Math.max(this.bounds.min, rows)));
  }
}
