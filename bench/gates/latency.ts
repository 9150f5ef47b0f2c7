import { LATENCY_BUCKETS_MS } from '../../src/router/metrics-snapshot.js';
import type { Chance } from './chance.js';

/** A log-normal time with a median of 4 ms and a p99 of about 41 ms, in the routers' buckets. */
const MEDIAN_MS = 4;
const SIGMA = 1;

/** The p99 of a healthy side: what a rule with a fixed limit of latency would be set by. */
export const HEALTHY_P99_MS = MEDIAN_MS * Math.exp(2.3263 * SIGMA);

export interface LatencyLaw {
  readonly addedMs: number;
  /** Share that takes up to a second. */
  readonly stalledShare: number;
  /** To the usual times. */
  readonly factor: number;
}

/** How many of the requests fall in each bucket. */
export function latencies(chance: Chance, requests: number, { addedMs, stalledShare, factor }: LatencyLaw): number[] {
  const counts: number[] = [];
  const late = chance.binomial(requests, stalledShare);
  let left = requests - late;
  let below = 0;
  for (const upper of [...LATENCY_BUCKETS_MS, Infinity]) {
    let inBucket = left;
    if (upper !== Infinity && left > 0) {
      const upTo = shareBelow((upper - addedMs) / factor);
      inBucket = chance.binomial(left, Math.min(1, (upTo - below) / Math.max(1e-12, 1 - below)));
      below = upTo;
    }
    counts.push(inBucket + (upper === 1_000 ? late : 0));
    left -= inBucket;
  }
  return counts;
}

/** The distribution function of the time. */
function shareBelow(ms: number): number {
  if (ms <= 0) return 0;
  // The normal distribution function (Abramowitz & Stegun 26.2.17).
  const z = Math.log(ms / MEDIAN_MS) / SIGMA;
  const t = 1 / (1 + 0.2316419 * Math.abs(z));
  const density = Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
  const tail =
    density * t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return z >= 0 ? 1 - tail : tail;
}
