import pLimit, { type LimitFunction } from 'p-limit';

/** How fast the lanes of a backfill may go, alone and while others are at work in the database. */
export interface PaceOptions {
  /** How long one batch should take while nobody else is at work. */
  readonly batchMs: number;
  /** How many ranges are worked on at once. Default 1. */
  readonly parallel?: number | undefined;
  /** The same while others are at work. */
  readonly besideOthers?: BesideOthers | undefined;
}

export interface BesideOthers {
  /**
   * Default 10 ms: a batch holds the rows that it has written until its end, and a writer that wants one of them waits so
   * long at the most.
   */
  readonly batchMs: number;
  /** Default 1: two lanes take two processors, and add least where the application misses them most. */
  readonly parallel: number;
}

export const BESIDE_OTHERS: BesideOthers = { batchMs: 10, parallel: 1 };

/** Batches stay short for so long after somebody was last seen at work. */
const QUIET_AFTER_MS = 2_000;
/** Others count as being at work all the time when they were at the end of one batch in ten, of late. */
const AT_WORK = 0.1;
/** The part of the newest look in that mean: about the last thirty batches count. */
const NEWEST = 1 / 15;

/**
 * What the lanes of one backfill know together of the others in the database. It begins as if somebody were at work, and
 * goes faster once it has seen that nobody is.
 */
export class BackfillPace {
  private readonly besideOthers: BesideOthers;
  private readonly parallel: number;
  private readonly lanes: LimitFunction;
  private lastSeen = performance.now();
  /** How often others were at work at the end of a batch: 0 to 1, the last ones count most. */
  private share = 1;

  constructor(private readonly options: PaceOptions) {
    this.parallel = options.parallel ?? 1;
    this.besideOthers = options.besideOthers ?? BESIDE_OTHERS;
    this.lanes = pLimit(this.parallel);
    this.steer();
  }

  /** How long the next batch should take. */
  get batchMs(): number {
    const { batchMs } = this.options;
    return this.isQuiet() ? batchMs : Math.min(batchMs, this.besideOthers.batchMs);
  }

  /** How many lanes may work at once. */
  get lanesNow(): number {
    return this.lanes.concurrency;
  }

  /** Runs a lane's batch when it is its turn. Lanes take turns, so none is left alone with a range that it has begun. */
  turn<T>(batch: () => Promise<T>): Promise<T> {
    return this.lanes(batch);
  }

  /** After a batch: how many sessions of others were at work at its end. */
  saw(active: number): void {
    if (active > 0) this.lastSeen = performance.now();
    this.share += (Math.min(1, active) - this.share) * NEWEST;
    this.steer();
  }

  private isQuiet(): boolean {
    return performance.now() - this.lastSeen > QUIET_AFTER_MS;
  }

  private steer(): void {
    const wanted = this.share > AT_WORK ? Math.min(this.parallel, this.besideOthers.parallel) : this.parallel;
    if (wanted !== this.lanes.concurrency) this.lanes.concurrency = wanted;
  }
}
