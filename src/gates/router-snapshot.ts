import { LATENCY_BUCKETS_MS, type RouterMetrics, type SideCounters } from '../router/metrics-snapshot.js';
import type { Side } from '../side.js';

/** Requests of a side, and those of them that failed there. */
export type RequestCount = Pick<SideCounters, 'requests' | 'errors'>;

export type EndpointCounters = Readonly<Record<Side, RequestCount>>;

/** What gates read of a router. */
export interface CountedMetrics extends RouterMetrics {
  /** Reads by endpoint and side, where the router tells. */
  readonly endpoints?: Readonly<Record<string, EndpointCounters>>;
}

/** What one router last wrote down. Plain data. */
export interface RouterSnapshot {
  readonly instance: string;
  readonly epoch: number;
  readonly generation: number;
  /** How long ago it was written, by the database's clock. */
  readonly ageSeconds: number;
  readonly metrics: CountedMetrics;
}

/** The routers of a migration at one time. Plain data, fit for storage. */
export interface RouterSnapshots {
  /** ISO 8601, by the database's clock. */
  readonly at: string;
  /** Those that report. */
  readonly live: readonly RouterSnapshot[];
  /** Those that no longer report: ended, or cut off. */
  readonly stale: readonly RouterSnapshot[];
  /** Names of those whose metrics this version can't read. */
  readonly unreadable: readonly string[];
  /** Metrics pages that were asked and did not answer, each with the reason. */
  readonly unreachable?: readonly string[];
}

/** Whether a value from the database is what routers of this version write. */
export function isRouterMetrics(value: unknown): value is CountedMetrics {
  if (!isRecord(value)) return false;
  const { reads, writes, fallbacks, retriedWrites, mirroredReads, endpoints } = value;
  return (
    isRecord(reads) &&
    isRecord(writes) &&
    isRecord(fallbacks) &&
    [reads['blue'], reads['green'], writes['blue'], writes['green']].every(isSideCounters) &&
    [fallbacks['behind'], fallbacks['error'], retriedWrites].every(isCount) &&
    (mirroredReads === undefined ||
      (isRecord(mirroredReads) && ['same', 'different', 'failed'].every((name) => isCount(mirroredReads[name])))) &&
    (endpoints === undefined || (isRecord(endpoints) && Object.values(endpoints).every(isEndpointCounters)))
  );
}

function isEndpointCounters(value: unknown): value is EndpointCounters {
  return (
    isRecord(value) &&
    [value['blue'], value['green']].every(
      (side) => isRecord(side) && isCount(side['requests']) && isCount(side['errors']),
    )
  );
}

function isSideCounters(value: unknown): value is SideCounters {
  if (!isRecord(value)) return false;
  const { requests, errors, latency } = value;
  return (
    isCount(requests) &&
    isCount(errors) &&
    Array.isArray(latency) &&
    latency.length === LATENCY_BUCKETS_MS.length + 1 &&
    latency.every(isCount)
  );
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}
