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
  /** To be waited for before its sessions are opened: those of all parcels at once would be a burst, too. */
  begin(signal: AbortSignal): Promise<void>;
  /** Told about each buffer. @returns how long to wait before the next one, ms. */
  after(bytes: number): number;
  /** How much one statement may ask of blue: a server at work is not to be kept from it for longer than a moment. */
  bytesAtATime(): number;
  /** One statement. While the copy is slowed down one runs at a time on this worker: together they would be a burst. */
  inTurn<T>(work: () => Promise<T>): Promise<T>;
  /** Told how long each statement was under way on both servers, its rests apart, ms. */
  took(ms: number): void;
  /** For people; empty when nothing slows the copy down. */
  describe(): { readonly pace?: string };
  close(): void;
}

const LOOK_EVERY_MS = 250;
/** While nothing slows the copy down: small enough for the pace to change within a second, too large to cost anything. */
const FREE_BYTES = 64 * 2 ** 20;
/**
 * Otherwise so much: blue's processor is taken for a fourth of a millisecond, while a statement costs a tenth of one. With
 * four times as much the slowest answers of an application on the same processor took half as long again, at any rate.
 */
const PACED_BYTES = 32 * 2 ** 10;
/** At high rates as much as passes in this time, beside that of an answer: timers are not more exact. */
const PACED_MS = 2;
/** Where answers take long no more than this, or what passes in that time: a millisecond of blue's processor at usual rates. */
const MOST_PACED_BYTES = 128 * 2 ** 10;
const MOST_PACED_MS = 4;
/** Of so many statements the quickest tells how long the ways are: the others have met a server that was busy, or large rows. */
const RECENT_STATEMENTS = 8;
/** Between the beginnings of two parcels: a session takes blue's processor for some milliseconds. */
const BEGIN_APART_MS = 80;
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
    begin: (signal) => shared.begin(signal),
    after: (bytes) => shared.after(bytes),
    bytesAtATime: () => shared.bytesAtATime(),
    inTurn: (work) => shared.inTurn(work),
    took: (ms) => shared.took(ms),
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
  /** Of blue to next to nothing, ms: most of it is the way there and back. */
  private readonly answerMs: number;
  /** How long the last statements took, ms: each waits for blue once, and for green twice. */
  private readonly recentMs: number[] = [];
  /** When the next parcel may begin, by performance.now(). */
  private mayBeginAt: number;
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
    this.answerMs = before.usualAnswerMs ?? 0;
    // The watch opens a session now.
    this.mayBeginAt = performance.now() + BEGIN_APART_MS;
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

  async begin(signal: AbortSignal): Promise<void> {
    if (!Number.isFinite(this.limit.bytesPerSecond)) return;
    const now = performance.now();
    const at = Math.max(now, this.mayBeginAt);
    this.mayBeginAt = at + BEGIN_APART_MS;
    if (at > now) await sleep(at - now, undefined, { signal });
  }

  after(bytes: number): number {
    this.copied += bytes;
    return this.limit.after(bytes);
  }

  bytesAtATime(): number {
    const in1ms = this.limit.bytesPerSecond / 1_000;
    const most = Math.min(FREE_BYTES, Math.max(MOST_PACED_BYTES, in1ms * MOST_PACED_MS));
    return Math.min(most, Math.max(PACED_BYTES, in1ms * (PACED_MS + this.waysMs())));
  }

  took(ms: number): void {
    // At full speed a statement is large: it says nothing about the ways.
    if (!Number.isFinite(this.limit.bytesPerSecond)) return;
    this.recentMs.push(ms);
    if (this.recentMs.length > RECENT_STATEMENTS) this.recentMs.shift();
  }

  /** What a statement costs however little it asks for, ms. Before the first one only blue's part is known. */
  private waysMs(): number {
    return this.recentMs.length === 0 ? this.answerMs : Math.max(this.answerMs, Math.min(...this.recentMs));
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
