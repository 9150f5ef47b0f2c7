/** Quantiles of a latency in milliseconds; null when nothing was measured. */
export interface Quantiles {
  readonly p50: number | null;
  readonly p95: number | null;
  readonly p99: number | null;
}

/** Each bucket is 2 % wider than the one before: the error of a quantile stays below that, for days of load. */
const GROWTH = Math.log(1.02);
const SMALLEST_MS = 0.05;

/** Counts latencies in buckets that grow geometrically; memory does not grow with the number of requests. */
export class LatencyHistogram {
  readonly #counts: number[] = [];
  #total = 0;

  record(ms: number): void {
    const bucket = Math.max(0, Math.ceil(Math.log(Math.max(ms, SMALLEST_MS) / SMALLEST_MS) / GROWTH));
    while (this.#counts.length <= bucket) this.#counts.push(0);
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1;
    this.#total += 1;
  }

  quantiles(): Quantiles {
    return { p50: this.#quantile(0.5), p95: this.#quantile(0.95), p99: this.#quantile(0.99) };
  }

  #quantile(share: number): number | null {
    let left = Math.ceil(this.#total * share);
    if (left === 0) return null;
    for (const [bucket, count] of this.#counts.entries()) {
      left -= count;
      // The upper bound of the bucket: never smaller than what was measured.
      if (left <= 0) return Math.round(SMALLEST_MS * Math.exp(bucket * GROWTH) * 100) / 100;
    }
    return null;
  }
}
