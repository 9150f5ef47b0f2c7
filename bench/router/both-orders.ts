import { median } from '../data/statistics.js';

/** What pool and router had right one after the other. */
export interface Pair<T> {
  readonly pool: T;
  readonly router: T;
}

/**
 * The median over each two pairs, of which one had the pool first and the other one the router: whoever comes second may
 * have it easier, or harder, each time, and the median of the single pairs would lie in one of two heaps.
 *
 * @param pairs in the order in which they were measured, by turns with the pool and with the router first
 * @param value what of a contender is looked at
 * @param of compares the means of two pairs
 * @returns null of no pair; of an odd number of them the last one is left out, unless it is the only one
 */
export function overBothOrders<T>(
  pairs: readonly Pair<T>[],
  value: (one: T) => number,
  of: (router: number, pool: number) => number,
): number | null {
  const twice = pairs.flatMap((pair, n) => {
    const other = pairs[n + 1];
    return n % 2 === 0 && other !== undefined ? [[pair, other]] : [];
  });
  const mean = (both: readonly Pair<T>[], contender: keyof Pair<T>): number =>
    both.reduce((total, pair) => total + value(pair[contender]), 0) / both.length;
  const looked = pairs.length === 1 ? [pairs] : twice;
  return median(looked.map((both) => of(mean(both, 'router'), mean(both, 'pool'))));
}
