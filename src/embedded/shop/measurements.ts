import type { Side } from '../../side.js';
import { LatencyHistogram, type Quantiles } from './latency-histogram.js';

/** Parts of the application's life: before the migration starts, while it runs, after the last switch of writes. */
export const WINDOWS = ['before', 'during', 'after'] as const;
export type Window = (typeof WINDOWS)[number];

export interface RequestResult {
  readonly kind: 'read' | 'write';
  /** The side that answered; null when it is not known because the request failed. */
  readonly side: Side | null;
  /** performance.now() */
  readonly startedAt: number;
  readonly finishedAt: number;
  /** What went wrong, in a word or two; undefined when the request was answered. */
  readonly failure?: string;
}

export interface ShopStatistics {
  readonly window: Window;
  readonly requests: number;
  readonly failedRequests: number;
  readonly reads: Readonly<Record<Side, number>>;
  readonly writes: Readonly<Record<Side, number>>;
  /** Failures by what went wrong. */
  readonly failures: Readonly<Record<string, number>>;
  /** Failed requests by all; null when a window had none. */
  readonly errorRate: Readonly<Record<Window, number | null>>;
  readonly latencyMs: Readonly<Record<Side, Quantiles>>;
  /** The write that took longest, from the call to its answer, by part of the run. */
  readonly maxWriteMs: Readonly<Record<Window, number>>;
  /** Time during which every write that was tried failed. */
  readonly downtimeMs: number;
  /** Longest time without an acknowledged write. */
  readonly longestWriteGapMs: number;
  readonly uptimeMs: number;
}

/** A whole demo, and the latest hours of a long `npm run dev`. */
const SECONDS_KEPT = 4 * 3_600;

/** What the application measures of itself, from the outside of the router: calls and their answers. */
export class Measurements {
  readonly #startedAt = performance.now();
  #window: Window = 'before';
  #requests: Record<Window, number> = { before: 0, during: 0, after: 0 };
  #failed: Record<Window, number> = { before: 0, during: 0, after: 0 };
  #reads: Record<Side, number> = { blue: 0, green: 0 };
  #writes: Record<Side, number> = { blue: 0, green: 0 };
  #failures = new Map<string, number>();
  #latency = { blue: new LatencyHistogram(), green: new LatencyHistogram() };
  #maxWrite: Record<Window, number> = { before: 0, during: 0, after: 0 };
  readonly #maxWriteBySecond = new Map<number, number>();
  #downtime = new WriteDowntime();
  #lastAcknowledged: number | undefined;
  #longestGap = 0;

  enter(window: Window): void {
    this.#window = window;
  }

  /** Begins anew. The longest writes by second are kept: whoever asks names the time. */
  forget(): void {
    this.#requests = { before: 0, during: 0, after: 0 };
    this.#failed = { before: 0, during: 0, after: 0 };
    this.#reads = { blue: 0, green: 0 };
    this.#writes = { blue: 0, green: 0 };
    this.#failures = new Map();
    this.#latency = { blue: new LatencyHistogram(), green: new LatencyHistogram() };
    this.#maxWrite = { before: 0, during: 0, after: 0 };
    this.#downtime = new WriteDowntime();
    this.#longestGap = 0;
  }

  record(result: RequestResult): void {
    const window = this.#window;
    const ms = result.finishedAt - result.startedAt;
    this.#requests[window] += 1;
    if (result.failure !== undefined) {
      this.#failed[window] += 1;
      this.#failures.set(result.failure, (this.#failures.get(result.failure) ?? 0) + 1);
    } else if (result.side !== null) {
      (result.kind === 'read' ? this.#reads : this.#writes)[result.side] += 1;
      this.#latency[result.side].record(ms);
    }
    if (result.kind === 'write') {
      this.#maxWrite[window] = Math.max(this.#maxWrite[window], ms);
      this.#rememberSecond(ms);
      this.#recordWrite(result);
    }
  }

  #recordWrite(result: RequestResult): void {
    this.#downtime.record(result.startedAt, result.finishedAt, result.failure === undefined);
    if (result.failure !== undefined) return;
    if (this.#lastAcknowledged !== undefined) {
      this.#longestGap = Math.max(this.#longestGap, result.finishedAt - this.#lastAcknowledged);
    }
    this.#lastAcknowledged = result.finishedAt;
  }

  statistics(): ShopStatistics {
    return {
      window: this.#window,
      requests: sum(this.#requests),
      failedRequests: sum(this.#failed),
      reads: { ...this.#reads },
      writes: { ...this.#writes },
      failures: Object.fromEntries(this.#failures),
      errorRate: {
        before: this.#errorRate('before'),
        during: this.#errorRate('during'),
        after: this.#errorRate('after'),
      },
      latencyMs: { blue: this.#latency.blue.quantiles(), green: this.#latency.green.quantiles() },
      maxWriteMs: { ...this.#maxWrite },
      downtimeMs: this.#downtime.totalMs(),
      longestWriteGapMs: this.#longestGap,
      uptimeMs: performance.now() - this.#startedAt,
    };
  }

  /** The longest of the writes that ended between two moments (milliseconds since 1970), to the second. */
  longestWriteBetween(from: number, to: number): number {
    const seconds = [...this.#maxWriteBySecond].filter(([at]) => at >= Math.floor(from / 1_000) && at * 1_000 <= to);
    return Math.max(0, ...seconds.map(([, ms]) => ms));
  }

  #rememberSecond(ms: number): void {
    const second = Math.floor(Date.now() / 1_000);
    this.#maxWriteBySecond.set(second, Math.max(this.#maxWriteBySecond.get(second) ?? 0, ms));
    // A Map keeps the order of insertion: the first key is the oldest second.
    const [oldest] = this.#maxWriteBySecond.keys();
    if (this.#maxWriteBySecond.size > SECONDS_KEPT && oldest !== undefined) this.#maxWriteBySecond.delete(oldest);
  }

  #errorRate(window: Window): number | null {
    return this.#requests[window] === 0 ? null : this.#failed[window] / this.#requests[window];
  }
}

/**
 * Time during which every write that was tried failed: from the start of the first failed write (but not before the last
 * one that succeeded had its answer) to the end of the last failed one before the next success. No failed write, no
 * downtime.
 */
export class WriteDowntime {
  #total = 0;
  #lastSuccess = -Infinity;
  #since: number | undefined;
  #until = 0;

  record(startedAt: number, finishedAt: number, acknowledged: boolean): void {
    if (acknowledged) {
      this.#total += this.#open();
      this.#since = undefined;
      this.#lastSuccess = finishedAt;
    } else {
      this.#since = Math.min(this.#since ?? startedAt, startedAt);
      this.#until = finishedAt;
    }
  }

  totalMs(): number {
    return this.#total + this.#open();
  }

  #open(): number {
    return this.#since === undefined ? 0 : Math.max(0, this.#until - Math.max(this.#since, this.#lastSuccess));
  }
}

function sum(counts: Readonly<Record<Window, number>>): number {
  return counts.before + counts.during + counts.after;
}
