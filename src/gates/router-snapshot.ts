import {
  LATENCY_BUCKETS_MS,
  type EndpointCounters,
  type RouterMetrics,
  type SideCounters,
} from '../router/metrics-snapshot.js';

/** A router that has not reported for so long has ended or is cut off; it reports every second. */
export const LIVE_SECONDS = 5;

/** What one router last wrote down. Plain data. */
export interface RouterSnapshot {
  readonly instance: string;
  readonly epoch: number;
  readonly generation: number;
  /** How long ago it was written, by the database's clock. */
  readonly ageSeconds: number;
  readonly metrics: RouterMetrics;
  /** Of a metrics page whose process was restarted in the stage: its name, and how often it was. */
  readonly page?: string;
  readonly restarts?: number;
  /** When that was of late, ISO 8601; left out by versions that did not keep it. */
  readonly restartedAt?: readonly string[];
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
export function isRouterMetrics(value: unknown): value is RouterMetrics {
  if (!isRecord(value)) return false;
  const { reads, writes, fallbacks, retriedWrites, mirroredReads, endpoints } = value;
  return (
    isRecord(reads) &&
    isRecord(writes) &&
    isRecord(fallbacks) &&
    [reads['blue'], reads['green'], writes['blue'], writes['green']].every(isSideCounters) &&
    [fallbacks['behind'], fallbacks['error'], retriedWrites].every(isCount) &&
    (mirroredReads === undefined ||
      (isRecord(mirroredReads) &&
        ['same', 'different', 'failed'].every((name) => isCount(mirroredReads[name])) &&
        areMirrored(mirroredReads['endpoints']))) &&
    (endpoints === undefined || (isRecord(endpoints) && Object.values(endpoints).every(isEndpoint)))
  );
}

/** By endpoint; routers of an earlier version don't tell. */
function areMirrored(value: unknown): boolean {
  if (value === undefined) return true;
  return (
    isRecord(value) &&
    Object.values(value).every((one) => isRecord(one) && isCount(one['compared']) && isCount(one['different']))
  );
}

function isEndpoint(value: unknown): boolean {
  return isRecord(value) && [value['blue'], value['green']].every(isEndpointCounters);
}

function isEndpointCounters(value: unknown): value is EndpointCounters {
  if (!isRecord(value)) return false;
  const { requests, errors, latency } = value;
  return (
    isCount(requests) &&
    isCount(errors) &&
    (latency === undefined ||
      (Array.isArray(latency) &&
        latency.every(isCount) &&
        Number(latency[0] ?? 0) + latency.length - 1 <= LATENCY_BUCKETS_MS.length + 1))
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
