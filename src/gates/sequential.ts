/*
 * Statements that stay true however often they are looked at. A gate that watches a stage looks hundreds of times; with
 * an ordinary 95 % bound at each look, a healthy green would exceed its limit at one of them sooner or later. Here the
 * evidence against a hypothesis is a mixture of likelihood ratios, a martingale where the hypothesis holds: the chance
 * that it ever reaches 1/a is at most a (Ville 1939; Robbins 1970, "Statistical methods related to the law of the
 * iterated logarithm").
 */

/** The chance that a share which keeps its limit ever counts as exceeding it, over all looks of a stage together. */
export const FALSE_ALARM = 0.001;

/** By how much worse than allowed a green may be: each has the same weight, as nobody knows beforehand. */
const ODDS_RATIOS = [1.5, 2, 3, 5, 10, 30, 100, 300] as const;

/**
 * Whether `k` of `n` shows that the true share is above `share`, whenever one looks. More hits never show less.
 *
 * @param among how many questions are asked side by side: one of them must not fail by being one of many (Bonferroni)
 */
export function surelyAbove(share: number, k: number, n: number, among = 1): boolean {
  return n > 0 && k > 0 && logEvidence(share, k, n - k) >= -Math.log(FALSE_ALARM / among);
}

/**
 * Whether `k1` of `n1` shows, beside `k2` of `n2`, that the first true share is the larger one, whenever one looks.
 * Where the two are equal, each hit belongs to the first sample with the chance n1 / (n1 + n2), whatever their size.
 */
export function surelyLarger(k1: number, n1: number, k2: number, n2: number, among = 1): boolean {
  if (k1 <= 0 || n1 <= 0 || n2 <= 0) return false;
  return logEvidence(n1 / (n1 + n2), k1, k2) >= -Math.log(FALSE_ALARM / among);
}

/** ln of the mean likelihood ratio of larger shares to `share`, given hits and misses. */
function logEvidence(share: number, hits: number, misses: number): number {
  const odds = share / (1 - share);
  const logs = ODDS_RATIOS.map((ratio) => {
    const larger = (ratio * odds) / (1 + ratio * odds);
    return hits * Math.log(larger / share) + misses * Math.log((1 - larger) / (1 - share));
  });
  const most = Math.max(...logs);
  return most + Math.log(logs.reduce((sum, log) => sum + Math.exp(log - most), 0) / logs.length);
}
