import { LATENCY_BUCKETS_MS } from '../../src/router/metrics-snapshot.js';
import type { Chance } from './chance.js';

/** The kinds of green that are simulated. `healthy` has noise; the others are bad in one way. */
export const GREENS = ['healthy', 'broken', 'slow', 'lagging', 'wrong'] as const;
export type Green = (typeof GREENS)[number];

export const ABOUT: Readonly<Record<Green, string>> = {
  healthy: 'as good as blue, with noise',
  broken: '0.5 % of its reads fail',
  slow: '200 ms slower',
  lagging: '5 s behind blue',
  wrong: 'wrong rows for one endpoint of ten',
};

/** So long is one step of the simulation. */
export const TICK_SECONDS = 5;

export interface Counts {
  readonly requests: number;
  readonly errors: number;
  readonly latency: readonly number[];
}

/** What happened within one tick. */
export interface Tick {
  readonly green: Counts;
  readonly blue: Counts;
  readonly mirrored: { readonly compared: number; readonly different: number };
  readonly lagMs: number;
  /** Reads of users that the fault has touched. */
  readonly harmed: number;
}

/** Errors that both sides have on any day. */
const ORDINARY_ERRORS = 0.0002;
/** A blip of green's: on average one in ten minutes, of a moment in which reads fail and are slow. */
const BLIP_EVERY_TICKS = 120;
/** One lag in five hundred is above a second: a checkpoint, a large transaction. */
const LATE_MARKERS = 0.002;
/** Share of blue's reads that routers mirror. */
const MIRRORED = 0.01;

/** One tick of a stage. */
export function tick(chance: Chance, green: Green, readsPerSecond: number, percent: number): Tick {
  const reads = readsPerSecond * TICK_SECONDS;
  const onGreen = chance.poisson((reads * percent) / 100);
  const onBlue = chance.poisson((reads * (100 - percent)) / 100);
  const blip = chance.next() < 1 / BLIP_EVERY_TICKS;
  const errorRate = (green === 'broken' ? 0.005 : ORDINARY_ERRORS) + (blip ? 0.02 : 0);
  const errors = chance.binomial(onGreen, errorRate);
  const compared = chance.binomial(onBlue, MIRRORED);
  const different = green === 'wrong' ? chance.binomial(compared, 0.1) : 0;
  return {
    green: {
      requests: onGreen,
      errors,
      latency: latencies(chance, onGreen, green === 'slow' ? 200 : 0, blip ? 0.05 : 0),
    },
    blue: {
      requests: onBlue,
      errors: chance.binomial(onBlue, ORDINARY_ERRORS),
      latency: latencies(chance, onBlue, 0, 0),
    },
    mirrored: { compared, different },
    lagMs:
      green === 'lagging' ? 5_000 + 300 * chance.next() : chance.next() < LATE_MARKERS ? 2_500 : 5 + 60 * chance.next(),
    harmed: harmed(green, onGreen, errors),
  };
}

function harmed(green: Green, onGreen: number, errors: number): number {
  switch (green) {
    case 'healthy':
      return 0;
    case 'broken':
      return errors;
    case 'wrong':
      return onGreen / 10;
    // A read that green is too far behind for is answered by blue: late, not wrong.
    case 'slow':
    case 'lagging':
      return onGreen;
  }
}

/** A log-normal time with a median of 4 ms and a p99 of about 41 ms, in the routers' buckets. */
const MEDIAN_MS = 4;
const SIGMA = 1;

function latencies(chance: Chance, requests: number, addedMs: number, stalled: number): number[] {
  const counts: number[] = [];
  const late = chance.binomial(requests, stalled);
  let left = requests - late;
  let below = 0;
  for (const upper of [...LATENCY_BUCKETS_MS, Infinity]) {
    const upTo = shareBelow(upper - addedMs);
    const inBucket =
      upper === Infinity ? left : chance.binomial(left, Math.min(1, (upTo - below) / Math.max(1e-12, 1 - below)));
    counts.push(inBucket + (upper === 1_000 ? late : 0));
    left -= inBucket;
    below = upTo;
  }
  return counts;
}

const known = new Map<number, number>();

function shareBelow(ms: number): number {
  if (ms <= 0) return 0;
  if (ms === Infinity) return 1;
  const cached = known.get(ms);
  if (cached !== undefined) return cached;
  // The normal distribution function (Abramowitz & Stegun 26.2.17).
  const z = Math.log(ms / MEDIAN_MS) / SIGMA;
  const t = 1 / (1 + 0.2316419 * Math.abs(z));
  const density = Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
  const tail =
    density * t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  const share = z >= 0 ? 1 - tail : tail;
  known.set(ms, share);
  return share;
}

/** The p99 of a healthy side: what a rule with a fixed limit of latency would be set by. */
export const HEALTHY_P99_MS = MEDIAN_MS * Math.exp(2.3263 * SIGMA);
