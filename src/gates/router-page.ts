import {
  LATENCY_BUCKETS_MS,
  packLatency,
  type EndpointCounters,
  type MirroredCounts,
  type RouterMetrics,
  type SideCounters,
} from '../router/metrics-snapshot.js';
import type { Side } from '../side.js';
import type { ExposedSample } from './exposition.js';

/** What a router's metrics page says, in the form in which routers write it to the database. */
export interface RouterPage {
  readonly epoch: number;
  readonly generation: number;
  readonly metrics: RouterMetrics;
}

const NAMES = {
  requests: 'verdigris_router_requests_total',
  bucket: 'verdigris_router_request_duration_seconds_bucket',
  fallbacks: 'verdigris_router_fallbacks_total',
  retried: 'verdigris_router_retried_writes_total',
  mirrored: 'verdigris_router_mirrored_reads_total',
  epoch: 'verdigris_router_route_epoch',
  generation: 'verdigris_router_route_generation',
} as const;

/** Reads the samples of a router's page; undefined when it is no router's page, or one with other buckets. */
export function readRouterPage(samples: readonly ExposedSample[]): RouterPage | undefined {
  const sum = (name: string, labels: Readonly<Record<string, string>>): number =>
    samples
      .filter(
        (sample) => sample.name === name && Object.entries(labels).every(([key, is]) => sample.labels[key] === is),
      )
      .reduce((total, { value }) => total + value, 0);
  const epoch = samples.find(({ name }) => name === NAMES.epoch);
  const generation = samples.find(({ name }) => name === NAMES.generation);
  if (epoch === undefined || generation === undefined || !hasOurBuckets(samples)) return undefined;

  const countersOf = (labels: Readonly<Record<string, string>>): SideCounters => {
    const cumulative = BOUNDS.map((le) => sum(NAMES.bucket, { ...labels, le }));
    return {
      requests: sum(NAMES.requests, labels),
      errors: sum(NAMES.requests, { ...labels, outcome: 'error' }),
      latency: cumulative.map((count, bucket) => count - (cumulative[bucket - 1] ?? 0)),
    };
  };
  const counters = (side: Side, kind: 'read' | 'write'): SideCounters => countersOf({ side, kind });
  const endpointNames = new Set(
    samples
      .filter(({ name, labels }) => name === NAMES.requests && labels['kind'] === 'read')
      .map(({ labels }) => labels['endpoint'] ?? ''),
  );
  const endpoint = (name: string): Record<Side, EndpointCounters> => {
    const of = (side: Side): EndpointCounters => {
      const all = countersOf({ side, kind: 'read', endpoint: name });
      return { ...all, latency: packLatency(all.latency) };
    };
    return { blue: of('blue'), green: of('green') };
  };
  const mirrored = (outcome: string, labels: Readonly<Record<string, string>> = {}): number =>
    sum(NAMES.mirrored, { outcome, ...labels });
  const mirroredNames = new Set(
    samples.flatMap(({ name, labels }) => (name === NAMES.mirrored ? [labels['endpoint'] ?? ''] : [])),
  );
  const mirroredOf = (endpointName: string): MirroredCounts => {
    const of = (outcome: string): number => mirrored(outcome, { endpoint: endpointName });
    const different = of('different') + of('failed');
    return { compared: of('same') + different, different };
  };
  return {
    epoch: epoch.value,
    generation: generation.value,
    metrics: {
      reads: { blue: counters('blue', 'read'), green: counters('green', 'read') },
      writes: { blue: counters('blue', 'write'), green: counters('green', 'write') },
      fallbacks: {
        behind: sum(NAMES.fallbacks, { reason: 'behind' }),
        error: sum(NAMES.fallbacks, { reason: 'error' }),
      },
      retriedWrites: sum(NAMES.retried, {}),
      mirroredReads: {
        same: mirrored('same'),
        different: mirrored('different'),
        failed: mirrored('failed'),
        unsettled: mirrored('unsettled'),
        skipped: mirrored('skipped'),
        examples: [],
        endpoints: Object.fromEntries([...mirroredNames].sort().map((name) => [name, mirroredOf(name)])),
      },
      endpoints: Object.fromEntries([...endpointNames].sort().map((name) => [name, endpoint(name)])),
    },
  };
}

/** The upper bounds as they stand on a page, in seconds. */
const BOUNDS: readonly string[] = [...LATENCY_BUCKETS_MS.map((ms) => String(ms / 1_000)), '+Inf'];

function hasOurBuckets(samples: readonly ExposedSample[]): boolean {
  const bounds = new Set(samples.flatMap(({ name, labels }) => (name === NAMES.bucket ? [labels['le'] ?? ''] : [])));
  // A router that has had no request yet shows none.
  return bounds.size === 0 || (bounds.size === BOUNDS.length && BOUNDS.every((bound) => bounds.has(bound)));
}
