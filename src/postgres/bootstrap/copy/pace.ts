import type { Plan } from '../../../plan/schema.js';
import { parseSize } from '../../lag.js';
import type { Database } from '../../session.js';

/** How fast one parcel may be copied. */
export interface Pace {
  /** Told about each buffer. @returns how long to wait before the next one, ms. */
  after(bytes: number): number;
  /** For people; empty when nothing slows the copy down. */
  describe(): { readonly pace?: string };
  close(): Promise<void>;
}

/** Shorter waits are saved up: a timer takes a millisecond at least. */
const SHORTEST_WAIT_MS = 5;

/** Lets so many bytes pass a second, evenly; what was not used in the last moments is used up first. */
export class RateLimit {
  private readyAt = performance.now();

  constructor(
    public bytesPerSecond: number,
    private readonly burstMs = 100,
  ) {}

  /** @returns ms to wait. */
  after(bytes: number, now = performance.now()): number {
    if (!Number.isFinite(this.bytesPerSecond)) return 0;
    this.readyAt = Math.max(this.readyAt, now - this.burstMs) + (bytes / this.bytesPerSecond) * 1_000;
    const wait = this.readyAt - now;
    return wait < SHORTEST_WAIT_MS ? 0 : wait;
  }
}

export async function openPace(blue: Database, bootstrap: Plan['bootstrap']): Promise<Pace> {
  const { maxRate, parallel } = bootstrap;
  const share = maxRate === undefined ? Number.POSITIVE_INFINITY : parseSize(maxRate) / parallel;
  const limit = new RateLimit(share);
  return Promise.resolve({
    after: (bytes: number) => limit.after(bytes),
    describe: () => (blue.connection === '' ? {} : {}),
    close: () => Promise.resolve(),
  });
}
