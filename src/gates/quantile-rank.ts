import { atLeast, atMost, CONFIDENCE } from './binomial.js';
import { edgesOf, type QuantileRange } from './histogram.js';

/*
 * Between which requests of a sorted sample the true quantile lies (distribution-free: the number of requests below it
 * is binomial; e.g. Conover, "Practical Nonparametric Statistics", 3.2). Of a histogram only the buckets' borders can be
 * such requests.
 */

/** Where the true quantile lies, with confidence on either side; `to` is Infinity when the sample is too small. */
export function quantileRange(quantile: number, latency: readonly number[]): QuantileRange {
  const upTo: number[] = [];
  let n = 0;
  for (const count of latency) upTo.push((n += count));
  // The bucket of the highest rank that the quantile is not below, and of the lowest one that it is not above.
  const low = firstWhere(upTo, (rank) => atLeast(rank + 1, n, quantile) < CONFIDENCE);
  const high = firstWhere(upTo, (rank) => atMost(rank - 1, n, quantile) >= CONFIDENCE);
  return {
    from: edgesOf(Math.min(low, latency.length - 1)).from,
    to: high < latency.length ? edgesOf(high).to : Infinity,
  };
}

/** The first index for whose value a condition holds that holds for all after it; the length when it holds for none. */
function firstWhere(values: readonly number[], holds: (value: number) => boolean): number {
  let low = -1;
  let high = values.length;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (holds(values[middle] ?? 0)) high = middle;
    else low = middle;
  }
  return high;
}
