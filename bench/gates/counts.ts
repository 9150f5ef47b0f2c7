import { LATENCY_BUCKETS_MS } from '../../src/router/metrics-snapshot.js';

export interface Counts {
  readonly requests: number;
  readonly errors: number;
  readonly latency: readonly number[];
}

export const EMPTY_SIDE: Counts = {
  requests: 0,
  errors: 0,
  latency: Array.from({ length: LATENCY_BUCKETS_MS.length + 1 }, () => 0),
};

export function plus(a: Counts, b: Counts): Counts {
  return {
    requests: a.requests + b.requests,
    errors: a.errors + b.errors,
    latency: a.latency.map((count, bucket) => count + (b.latency[bucket] ?? 0)),
  };
}
