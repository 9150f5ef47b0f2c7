/*
 * Statements that stay true however often they are looked at. A gate that watches a stage looks hundreds of times; with
 * an ordinary 95 % bound at each look, a healthy green would exceed its limit at one of them sooner or later. Here the
 * evidence against a hypothesis is a mixture of likelihood ratios, a martingale where the hypothesis holds: the chance
 * that it ever reaches 1/a is at most a (Ville 1939; Robbins 1970, "Statistical methods related to the law of the
 * iterated logarithm"). These are the statements about sums; persistent-evidence.ts is what gates fail by.
 */

/** The chance that a share which keeps its limit ever counts as exceeding it, where no other is named. */
const OF_A_SUM = 1e-4;

/** By how much worse than allowed a green may be: each has the same weight, as nobody knows beforehand. */
export const ODDS_RATIOS = [1.5, 2, 3, 5, 10, 30, 100, 300] as const;

/** Whether `k` of `n` shows that the true share is above `share`, whenever one looks. More hits never show less. */
export function surelyAbove(share: number, k: number, n: number): boolean {
  return n > 0 && k > 0 && logEvidence(share, k, n - k) >= -Math.log(OF_A_SUM);
}

/**
 * Whether `k1` of `n1` shows, beside `k2` of `n2`, that the first true share is the larger one, whenever one looks.
 * Where the two are equal, each hit belongs to the first sample with the chance n1 / (n1 + n2), whatever their size.
 */
export function surelyLarger(k1: number, n1: number, k2: number, n2: number): boolean {
  if (k1 <= 0 || n1 <= 0 || n2 <= 0) return false;
  return logEvidence(n1 / (n1 + n2), k1, k2) >= -Math.log(OF_A_SUM);
}

/** ln of the likelihood ratio of a share with odds `ratio` times those of `share`, given hits and misses. */
export function logRatio(share: number, ratio: number, hits: number, misses: number): number {
  // (1 - larger) / (1 - share) = 1 / (1 + (ratio - 1) share), and larger / share is ratio times that.
  return hits * Math.log(ratio) - (hits + misses) * Math.log1p((ratio - 1) * share);
}

/** ln of the mean likelihood ratio of larger shares to `share`, given hits and misses. */
function logEvidence(share: number, hits: number, misses: number): number {
  const logs = ODDS_RATIOS.map((ratio) => logRatio(share, ratio, hits, misses));
  const most = Math.max(...logs);
  return most + Math.log(logs.reduce((sum, log) => sum + Math.exp(log - most), 0) / logs.length);
}
