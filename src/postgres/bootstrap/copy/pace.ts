import { setTimeout as sleep } from 'node:timers/promises';
import pLimit from 'p-limit';
import type { Plan } from '../../../plan/schema.js';
import { parseSize } from '../../lag.js';
import { closeSession, openSession, type Database, type Session } from '../../session.js';
import { answerTime, BlueLoad } from './blue-load.js';
import { RateControl } from './rate-control.js';
import { RateLimit } from './rate-limit.js';

/*
 * How fast rows are copied: `bootstrap.maxRate`, and with `pace: auto` less than that while others work on blue. The
 * parcels of one worker share one watch: a parcel that begins knows at once what the others have learned. The workers of
 * a run share `maxRate` by the number of parcels that each has, and do not talk to each other.
 */

/** The pace of one parcel. */
export interface Pace {
  /** Told about each buffer. @returns how long to wait before the next one, ms. */
  after(bytes: number): number;
  /** How much one statement may ask of blue: a server at work is not to be kept from it for longer than a moment. */
  bytesAtATime(): number;
  /** One statement. While the copy is slowed down one runs at a time on this worker: together they would be a burst. */
  inTurn<T>(work: () => Promise<T>): Promise<T>;
  /** For people; empty when nothing slows the copy down. */
  describe(): { readonly pace?: string };
  close(): void;
}

const LOOK_EVERY_MS = 250;
/** While nothing slows the copy down: small enough for the pace to change within a second, too large to cost anything. */
const FREE_BYTES = 64 * 2 ** 20;
/** Otherwise so much: blue's processor is taken for less than a millisecond, while a statement costs a tenth of one. */
const PACED_BYTES = 128 * 2 ** 10;
/** At high rates as much as passes in this time: timers are not more exact. */
const PACED_MS = 4;
/** A watch whose session was lost is begun again after this. */
const WATCH_AGAIN_MS = 1_000;
/** The watch outlives its last parcel so long: another one mostly follows. */
const LINGER_MS = 2_000;

/** What was known of blue before the copy began. */
export interface Before {
  /** How long it took to answer, ms. */
  readonly usualAnswerMs?: number;
  /** Whether others were at work on it. */
  readonly othersWork?: boolean;
}

/** The pace of a parcel of this run. */
export function openPace(runId: string, blue: Database, bootstrap: Plan['bootstrap'], before: Before): Pace {
  const shared = PACES.get(runId) ?? new SharedPace(runId, blue, bootstrap, before);
  PACES.set(runId, shared);
  shared.join();
  return {
    after: (bytes) => shared.after(bytes),
    bytesAtATime: () => shared.bytesAtATime(),
    inTurn: (work) => shared.inTurn(work),
    describe: () => shared.describe(),
    close: () => shared.leave(),
  };
}

/** By run. */
const PACES = new Map<string, SharedPace>();

class SharedPace {
  private readonly most: number;
  private readonly limit: RateLimit;
  private readonly control: RateControl;
  private readonly turns = pLimit(1);
  private parcels = 0;
  private copied = 0;
  private leaving: NodeJS.Timeout | undefined;
  private over = false;

  constructor(
    private readonly runId: string,
    private readonly blue: Database,
    private readonly bootstrap: Plan['bootstrap'],
    before: Before,
  ) {
    this.most = bootstrap.maxRate === undefined ? Number.POSITIVE_INFINITY : parseSize(bootstrap.maxRate);
    this.limit = new RateLimit(this.most);
    this.control = new RateControl(bootstrap.pace === 'auto' ? before : {});
    if (bootstrap.pace === 'auto') void this.keepWatching();
  }

  join(): void {
    clearTimeout(this.leaving);
    this.parcels++;
    this.adjust();
  }

  leave(): void {
    this.parcels--;
    this.adjust();
    if (this.parcels > 0) return;
    this.leaving = setTimeout(() => {
      this.over = true;
      PACES.delete(this.runId);
    }, LINGER_MS).unref();
  }

  after(bytes: number): number {
    this.copied += bytes;
    return this.limit.after(bytes);
  }

  bytesAtATime(): number {
    const rate = this.limit.bytesPerSecond;
    return Math.min(FREE_BYTES, Math.max(PACED_BYTES, (rate * PACED_MS) / 1_000));
  }

  inTurn<T>(work: () => Promise<T>): Promise<T> {
    return Number.isFinite(this.limit.bytesPerSecond) ? this.turns(work) : work();
  }

  describe(): { readonly pace?: string } {
    const rate = this.limit.bytesPerSecond;
    if (!Number.isFinite(rate)) return {};
    const why = rate < this.share() ? 'others work on blue' : 'bootstrap.maxRate';
    return { pace: `at most ${(rate / 2 ** 20).toFixed(0)} MB/s on this worker: ${why}` };
  }

  /** This worker's part of `maxRate`. */
  private share(): number {
    return (this.most * Math.min(this.parcels, this.bootstrap.parallel)) / this.bootstrap.parallel;
  }

  private adjust(): void {
    this.limit.bytesPerSecond = Math.min(this.share() || this.most, this.control.bytesPerSecond);
  }

  /** While nobody can look the last pace holds; whether blue is there at all, the copy itself finds out. */
  private async keepWatching(): Promise<void> {
    while (!this.over) {
      await this.watch().catch(() => undefined);
      if (!this.over) await sleep(WATCH_AGAIN_MS, undefined, { ref: false });
    }
  }

  private async watch(): Promise<void> {
    const session = await openSession(this.blue, { purpose: 'copy pace' });
    try {
      await this.follow(session);
    } finally {
      await closeSession(session);
    }
  }

  private async follow(session: Session): Promise<void> {
    const load = new BlueLoad(session);
    let lookedAt = performance.now();
    let then = this.copied;
    while (!this.over) {
      const answerMs = await answerTime(session);
      const others = await load.read();
      const now = performance.now();
      const bytesPerSecond = ((this.copied - then) * 1_000) / Math.max(1, now - lookedAt);
      [lookedAt, then] = [now, this.copied];
      // Nothing is learned about the copies while none runs.
      if (this.parcels > 0) this.control.look({ ...others, answerMs, bytesPerSecond });
      this.adjust();
      await sleep(LOOK_EVERY_MS, undefined, { ref: false });
    }
  }
}
