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
  return crossing((p) => Math.log(atMost(k, n, p) / alpha), k / n, Math.min(1, (k + 3 * Math.sqrt(k) + 4) / n), 1);
}

/** The smallest true share that `k` of `n` does not speak against. */
export function lowerBound(k: number, n: number): number {
  if (n <= 0 || k <= 0) return 0;
  return crossing((p) => Math.log(atLeast(k, n, p) / ALPHA), k / n, Math.max(0, (k - 3 * Math.sqrt(k)) / n), 0);
}

/** Whether the true share is at most `share`, with confidence. */
export function isAtMost(share: number, k: number, n: number): boolean {
  // The median is at most n * share + 1: from there on, the chance of `k` or fewer is a half at least.
  return n > 0 && k < n && k < n * share + 1 && atMost(k, n, share) <= ALPHA;
}

/** The smallest sample in which `k` still shows that the true share is at most `share`. */
export function neededSample(k: number, share: number): number {
  if (k > 0) return smallestSample(k, share);
  // Asked at every look, for the same few limits.
  const known = withoutHits.get(share) ?? smallestSample(0, share);
  if (withoutHits.size < 1_000) withoutHits.set(share, known);
  return known;
}

const withoutHits = new Map<number, number>();

function smallestSample(k: number, share: number): number {
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
  return (x - 0.5) * Math.log(x) - x + HALF_LOG_TWO_PI + 1 / (12 * x) - 1 / (360 * x ** 3);
}

const HALF_LOG_TWO_PI = 0.5 * Math.log(2 * Math.PI);

const SMALL_LOG_FACTORIALS: readonly number[] = (() => {
  const logs = [0];
  for (let i = 1; i < 256; i++) logs.push((logs[i - 1] ?? 0) + Math.log(i));
  return logs;
})();

/**
 * The share at which `excess` is 0, to 9 digits. It is above 0 at `near`, and below 0 at `guess` or at `limit` beyond it.
 * By the rule of false position, in the form of Illinois, which keeps the share between two known ones.
 */
function crossing(excess: (p: number) => number, near: number, guess: number, limit: number): number {
  let above = { p: near, value: excess(near) };
  let below = { p: guess, value: finite(excess(guess)) };
  if (below.value >= 0) [above, below] = [below, { p: limit, value: finite(excess(limit)) }];
  let last: 'above' | 'below' | undefined;
  for (let i = 0; i < 100 && Math.abs(above.p - below.p) > 1e-9 * Math.max(above.p, below.p); i++) {
    const step = above.value / (above.value - below.value);
    // Near an end the rule creeps: every fourth time the interval is halved.
    const p = above.p + (i % 4 === 3 ? 0.5 : step) * (below.p - above.p);
    const value = finite(excess(p));
    if (value === 0) return p;
    if (value > 0) {
      if (last === 'above') below = { p: below.p, value: below.value / 2 };
      [above, last] = [{ p, value }, 'above'];
    } else {
      if (last === 'below') above = { p: above.p, value: above.value / 2 };
      [below, last] = [{ p, value }, 'below'];
    }
  }
  return (above.p + below.p) / 2;
}

/** The logarithm of a probability that is too small for a number. */
function finite(log: number): number {
  return Math.max(log, -800);
}
