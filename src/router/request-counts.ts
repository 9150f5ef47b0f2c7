import type { Side } from '../side.js';
import {
  LATENCY_BUCKETS_MS,
  MAX_ENDPOINTS,
  OTHER_ENDPOINTS,
  packLatency,
  type EndpointCounters,
  type RouterMetrics,
  type SideCounters,
} from './metrics-snapshot.js';

export type RequestKind = 'read' | 'write';

/** `refused`: the application's own statement or code is the cause, on any side; it counts against none. */
export type RequestOutcome = 'ok' | 'error' | 'refused';

/** The requests of one side, kind and endpoint. */
export interface Series {
  readonly side: Side;
  readonly kind: RequestKind;
  readonly endpoint: string;
  readonly outcomes: Record<RequestOutcome, number>;
  /** By bucket of LATENCY_BUCKETS_MS, not cumulative, and one more for the rest. */
  readonly latency: number[];
  sumMs: number;
}

type ByEndpoint = Map<string, Series>;

/**
 * Counts requests: once, with a few additions, since every request pays for it. Prometheus and the gates read from
 * here. (An observation in a prom-client histogram looks its series up by a text made of its labels, each time.)
 */
export class RequestCounts {
  readonly #series: Readonly<Record<RequestKind, Readonly<Record<Side, ByEndpoint>>>> = {
    read: { blue: new Map(), green: new Map() },
    write: { blue: new Map(), green: new Map() },
  };

  /** The endpoints that are told apart, for any side and kind. */
  readonly #known = new Set<string>();

  record(side: Side, kind: RequestKind, endpoint: string, outcome: RequestOutcome, ms: number): void {
    const ofSide = this.#series[kind][side];
    const series = ofSide.get(endpoint) ?? this.#seriesOf(side, kind, endpoint);
    const bucket = bucketOf(ms);
    series.outcomes[outcome] += 1;
    series.latency[bucket] = (series.latency[bucket] ?? 0) + 1;
    series.sumMs += ms;
  }

  /** The name under which an endpoint is counted. */
  nameOf(asked: string): string {
    const name = this.#known.has(asked) ? asked : asJsonb(asked);
    if (!this.#known.has(name) && this.#known.size >= MAX_ENDPOINTS) return OTHER_ENDPOINTS;
    this.#known.add(name);
    return name;
  }

  /** Off the usual path: of an endpoint that this side has not met, or that is one too many. */
  #seriesOf(side: Side, kind: RequestKind, asked: string): Series {
    const endpoint = this.nameOf(asked);
    const ofSide = this.#series[kind][side];
    const there = ofSide.get(endpoint);
    if (there !== undefined) return there;
    const series: Series = {
      ...{ side, kind, endpoint, sumMs: 0 },
      outcomes: { ok: 0, error: 0, refused: 0 },
      latency: noLatencies(),
    };
    ofSide.set(endpoint, series);
    return series;
  }

  /** Reads by endpoint, for the gates. */
  readsByEndpoint(): NonNullable<RouterMetrics['endpoints']> {
    const { blue, green } = this.#series.read;
    const names = [...new Set([...blue.keys(), ...green.keys()])];
    return Object.fromEntries(
      names.map((name) => [name, { blue: countersOf(blue.get(name)), green: countersOf(green.get(name)) }]),
    );
  }

  all(): Series[] {
    return Object.values(this.#series).flatMap((sides) =>
      Object.values(sides).flatMap((ofSide) => [...ofSide.values()]),
    );
  }

  /** What gates read of a side: all endpoints together. */
  countersOf(kind: RequestKind, side: Side): SideCounters {
    const total = { requests: 0, errors: 0, latency: noLatencies() };
    for (const { outcomes, latency } of this.#series[kind][side].values()) {
      total.requests += outcomes.ok + outcomes.error + outcomes.refused;
      total.errors += outcomes.error;
      latency.forEach((count, bucket) => (total.latency[bucket] = (total.latency[bucket] ?? 0) + count));
    }
    return total;
  }
}

/** The text as jsonb takes it: without NUL, and without half of a surrogate pair. */
export function asJsonb(text: string): string {
  return text.replaceAll(/[\0\p{Surrogate}]/gu, '\ufffd');
}

function countersOf(series: Series | undefined): EndpointCounters {
  if (series === undefined) return { requests: 0, errors: 0, latency: [] };
  const { outcomes, latency } = series;
  return {
    requests: outcomes.ok + outcomes.error + outcomes.refused,
    errors: outcomes.error,
    latency: packLatency(latency),
  };
}

/** A loop, not a search: most requests are in the first few buckets. */
function bucketOf(ms: number): number {
  let bucket = 0;
  for (const upper of LATENCY_BUCKETS_MS) {
    if (ms <= upper) return bucket;
    bucket += 1;
  }
  return bucket;
}

function noLatencies(): number[] {
  return LATENCY_BUCKETS_MS.map(() => 0).concat(0);
}
