import { LATENCY_BUCKETS_MS } from '../router/metrics-snapshot.js';

/*
 * What a histogram can say. A bucket knows only that its requests took longer than its lower and at most its upper
 * bound, so every statement here is either a range, or says on which side it errs.
 */

/** A quantile lies between these two, in ms. The last bucket has no upper bound. */
export interface QuantileRange {
  readonly from: number;
  readonly to: number;
}

/** How many requests took longer than `limitMs`: at least the ones in buckets above it, at most also those in its own. */
export function slowerThan(limitMs: number, latency: readonly number[]): { surely: number; possibly: number } {
  let surely = 0;
  let possibly = 0;
  latency.forEach((count, bucket) => {
    if (lowerEdge(bucket) >= limitMs) surely += count;
    if (upperEdge(bucket) > limitMs) possibly += count;
  });
  return { surely, possibly };
}

/** The bounds of a bucket. */
export function edgesOf(bucket: number): QuantileRange {
  return { from: lowerEdge(bucket), to: upperEdge(bucket) };
}

/** The quantile as a number for people: straight between the bounds of its bucket. undefined without requests. */
export function quantileMs(quantile: number, latency: readonly number[]): number | undefined {
  const total = latency.reduce((a, b) => a + b, 0);
  if (total === 0) return undefined;
  const rank = Math.max(1, Math.ceil(quantile * total));
  let before = 0;
  for (const [bucket, count] of latency.entries()) {
    if (before + count >= rank) {
      const [from, to] = [lowerEdge(bucket), upperEdge(bucket)];
      return to === Infinity ? from : from + ((to - from) * (rank - before)) / count;
    }
    before += count;
  }
  return undefined;
}

function lowerEdge(bucket: number): number {
  return bucket === 0 ? 0 : (LATENCY_BUCKETS_MS[bucket - 1] ?? 0);
}

function upperEdge(bucket: number): number {
  return LATENCY_BUCKETS_MS[bucket] ?? Infinity;
}
