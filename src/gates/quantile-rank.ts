import { atLeast, atMost, CONFIDENCE } from './binomial.js';

/*
 * Between which requests of a sorted sample the true quantile lies (distribution-free: the number of requests below it
 * is binomial; e.g. Conover, "Practical Nonparametric Statistics", 3.2).
 */

/** The highest rank that the true quantile is not below, with confidence; 0 when the sample is too small for one. */
export function lowestRank(quantile: number, n: number): number {
  return lastWhere(n, (rank) => atLeast(rank, n, quantile) >= CONFIDENCE);
}

/** The lowest rank that the true quantile is not above, with confidence; n + 1 when the sample is too small for one. */
export function highestRank(quantile: number, n: number): number {
  return lastWhere(n, (rank) => atMost(rank - 1, n, quantile) < CONFIDENCE) + 1;
}

/** The last rank of 1..n for which a condition holds that holds for all before it; 0 when it holds for none. */
function lastWhere(n: number, holds: (rank: number) => boolean): number {
  let low = 0;
  let high = n + 1;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (holds(middle)) low = middle;
    else high = middle;
  }
  return low;
}
