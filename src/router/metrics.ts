import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Side } from '../side.js';
import type { Route } from '../postgres/state.js';
import { LATENCY_BUCKETS_MS, type RouterMetrics } from './metrics-snapshot.js';

export type RequestKind = 'read' | 'write';

/** `refused`: the application's own statement or code is the cause, on any side; it counts against none. */
export type RequestOutcome = 'ok' | 'error' | 'refused';

/** Why blue had to answer a read of green's cohort. */
export type FallbackReason = 'behind' | 'error';

interface Counted {
  requests: number;
  errors: number;
  latency: number[];
}

type Series = { readonly duration: Histogram.Internal<string> } & Partial<Record<RequestOutcome, Counter.Internal>>;

/** Counts every request twice: for Prometheus, and for the gates by way of the router's heartbeat. */
export class RequestMetrics {
  readonly registry: Registry;
  readonly #counts: Record<RequestKind, Record<Side, Counted>> = {
    read: { blue: nothing(), green: nothing() },
    write: { blue: nothing(), green: nothing() },
  };
  readonly #series = {
    read: { blue: new Map<string, Series>(), green: new Map<string, Series>() },
    write: { blue: new Map<string, Series>(), green: new Map<string, Series>() },
  };
  readonly #fallbackCounts = { behind: 0, error: 0 };
  #retriedCount = 0;

  readonly #requests: Counter;
  readonly #durations: Histogram;
  readonly #fallbacks: Counter;
  readonly #retried: Counter;
  readonly #epoch: Gauge;
  readonly #generation: Gauge;
  readonly #percent: Gauge;
  readonly #writesOn: Gauge;

  constructor(registry: Registry = new Registry()) {
    this.registry = registry;
    const registers = [registry];
    this.#requests = new Counter({
      name: 'verdigris_router_requests_total',
      help: 'Requests by the side that took them. outcome: ok, error, or refused (the statement itself is the cause)',
      labelNames: ['side', 'kind', 'endpoint', 'outcome'],
      registers,
    });
    this.#durations = new Histogram({
      name: 'verdigris_router_request_duration_seconds',
      help: 'Duration of requests by the side that took them, waits for green to catch up and held writes included',
      labelNames: ['side', 'kind', 'endpoint'],
      buckets: LATENCY_BUCKETS_MS.map((ms) => ms / 1_000),
      registers,
    });
    this.#fallbacks = new Counter({
      name: 'verdigris_router_fallbacks_total',
      help: "Reads of green's users that blue answered. reason: behind (green had not caught up), error",
      labelNames: ['reason', 'endpoint'],
      registers,
    });
    this.#retried = new Counter({
      name: 'verdigris_router_retried_writes_total',
      help: 'Requests that met the fence and were run again on the other side',
      labelNames: ['endpoint'],
      registers,
    });
    this.#epoch = new Gauge({ name: 'verdigris_router_route_epoch', help: 'Epoch of the route in force', registers });
    this.#generation = new Gauge({
      name: 'verdigris_router_route_generation',
      help: 'Generation of the route in force',
      registers,
    });
    this.#percent = new Gauge({
      name: 'verdigris_router_green_read_percent',
      help: 'Share of the users whose reads go to green',
      registers,
    });
    this.#writesOn = new Gauge({
      name: 'verdigris_router_writes_on',
      help: '1 for the side that takes writes',
      labelNames: ['side'],
      registers,
    });
  }

  record(side: Side, kind: RequestKind, endpoint: string, outcome: RequestOutcome, ms: number): void {
    const series = this.#seriesOf(side, kind, endpoint);
    series.duration.observe(ms / 1_000);
    (series[outcome] ??= this.#requests.labels({ side, kind, endpoint, outcome })).inc();
    const counted = this.#counts[kind][side];
    counted.requests += 1;
    if (outcome === 'error') counted.errors += 1;
    const bucket = LATENCY_BUCKETS_MS.findIndex((upper) => ms <= upper);
    const index = bucket === -1 ? LATENCY_BUCKETS_MS.length : bucket;
    counted.latency[index] = (counted.latency[index] ?? 0) + 1;
  }

  /** Looking series up by their labels is most of what counting costs, so they are kept. */
  #seriesOf(side: Side, kind: RequestKind, endpoint: string): Series {
    const ofSide = this.#series[kind][side];
    let series = ofSide.get(endpoint);
    if (series === undefined) {
      series = { duration: this.#durations.labels({ side, kind, endpoint }) };
      ofSide.set(endpoint, series);
    }
    return series;
  }

  fallback(reason: FallbackReason, endpoint: string): void {
    this.#fallbacks.inc({ reason, endpoint });
    this.#fallbackCounts[reason] += 1;
  }

  retried(endpoint: string): void {
    this.#retried.inc({ endpoint });
    this.#retriedCount += 1;
  }

  showRoute(route: Route): void {
    this.#epoch.set(route.epoch);
    this.#generation.set(route.generation);
    this.#percent.set(route.greenReadPercent);
    for (const side of ['blue', 'green'] as const) this.#writesOn.set({ side }, route.writesOn === side ? 1 : 0);
  }

  /** What the gates read. */
  snapshot(): RouterMetrics {
    return structuredClone({
      reads: this.#counts.read,
      writes: this.#counts.write,
      fallbacks: this.#fallbackCounts,
      retriedWrites: this.#retriedCount,
    });
  }
}

function nothing(): Counted {
  return { requests: 0, errors: 0, latency: Array.from({ length: LATENCY_BUCKETS_MS.length + 1 }, () => 0) };
}
