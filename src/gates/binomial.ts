/*
 * Exact statements about a share that is known only from a sample of yes/no answers (Clopper & Pearson 1934, "The use
 * of confidence or fiducial limits illustrated in the case of the binomial"), all one-sided. No approximation by the
 * normal distribution: at 0 errors of 3,000 it says that the true share is 0.
 */

/** All decisions are made at this confidence. */
export const CONFIDENCE = 0.95;
const ALPHA = 1 - CONFIDENCE;

/** P(X <= k) for X ~ Binomial(n, p). */
export function atMost(k: number, n: number, p: number): number {
  if (k < 0) return 0;
  if (k >= n || p <= 0) return 1;
  if (p >= 1) return 0;
  // The smaller tail is summed: the other one would lose its digits against 1.
  return k <= n * p ? tail(k, -1, n, p) : 1 - tail(k + 1, +1, n, p);
}

/** P(X >= k) for X ~ Binomial(n, p). */
export function atLeast(k: number, n: number, p: number): number {
  if (k <= 0) return 1;
  if (k > n || p <= 0) return 0;
  if (p >= 1) return 1;
  return k > n * p ? tail(k, +1, n, p) : 1 - tail(k - 1, -1, n, p);
}

/** The largest true share that `k` of `n` does not speak against, but for the chance `alpha`. */
export function upperBound(k: number, n: number, alpha = ALPHA): number {
  if (n <= 0 || k >= n) return 1;
  return bisect((p) => atMost(k, n, p) > alpha);
}

/** The smallest true share that `k` of `n` does not speak against. */
export function lowerBound(k: number, n: number): number {
  if (n <= 0 || k <= 0) return 0;
  return bisect((p) => atLeast(k, n, p) < ALPHA);
}

/** Whether the true share is at most `share`, with confidence. */
export function isAtMost(share: number, k: number, n: number): boolean {
  return n > 0 && k < n && atMost(k, n, share) <= ALPHA;
}

/** The smallest sample in which `k` still shows that the true share is at most `share`. */
export function neededSample(k: number, share: number): number {
  let high = Math.ceil((k + 1) / share);
  while (!isAtMost(share, k, high)) high *= 2;
  let low = k;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (isAtMost(share, k, middle)) high = middle;
    else low = middle;
  }
  return high;
}

/** Sum of the probabilities from `k` outwards, away from the middle, until they no longer matter. */
function tail(k: number, step: -1 | 1, n: number, p: number): number {
  let term = Math.exp(logProbability(k, n, p));
  let sum = term;
  const odds = p / (1 - p);
  for (let i = k; step === 1 ? i < n : i > 0; i += step) {
    term *= step === 1 ? ((n - i) / (i + 1)) * odds : i / (n - i + 1) / odds;
    sum += term;
    if (term <= sum * 1e-17) break;
  }
  return Math.min(sum, 1);
}

function logProbability(k: number, n: number, p: number): number {
  return logFactorial(n) - logFactorial(k) - logFactorial(n - k) + k * Math.log(p) + (n - k) * Math.log1p(-p);
}

/** ln n!, exact below 256 and by Stirling's series above, where its error is below 1e-16. */
function logFactorial(n: number): number {
  if (n < SMALL_LOG_FACTORIALS.length) return SMALL_LOG_FACTORIALS[n] ?? 0;
  const x = n + 1;
  return (x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + 1 / (12 * x) - 1 / (360 * x ** 3);
}

const SMALL_LOG_FACTORIALS: readonly number[] = (() => {
  const logs = [0];
  for (let i = 1; i < 256; i++) logs.push((logs[i - 1] ?? 0) + Math.log(i));
  return logs;
})();

/** The share at which `isBelow` turns false, by halving. */
function bisect(isBelow: (p: number) => boolean): number {
  let low = 0;
  let high = 1;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (isBelow(middle)) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}
