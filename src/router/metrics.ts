import { Counter, Gauge, Registry } from 'prom-client';
import type { Side } from '../side.js';
import type { Route } from '../postgres/state.js';
import type { MirrorExample, MirroredCounts, RouterMetrics } from './metrics-snapshot.js';
import { asJsonb, RequestCounts, type RequestKind, type RequestOutcome } from './request-counts.js';
import { RequestCounter, RequestDurations } from './request-series.js';

/** Why blue had to answer a read of green's cohort. */
export type FallbackReason = 'behind' | 'error';

/** `unsettled`: what is read changes all the time. `skipped`: one side had no answer to compare. */
export type MirrorOutcome = 'same' | 'different' | 'failed' | 'unsettled' | 'skipped';

/** So many examples of differences are kept, the newest ones. */
const EXAMPLES = 5;

/** What happens, for Prometheus, and for the gates by way of the router's heartbeat. */
export class RequestMetrics {
  readonly registry: Registry;
  readonly #own = new Registry();
  readonly #counts = new RequestCounts();
  readonly #fallbackCounts = { behind: 0, error: 0 };
  #retriedCount = 0;

  readonly #mirrored = { same: 0, different: 0, failed: 0, unsettled: 0, skipped: 0 };
  readonly #mirroredEndpoints = new Map<string, MirroredCounts>();
  readonly #examples: MirrorExample[] = [];

  readonly #mirroredReads: Counter;
  readonly #fallbacks: Counter;
  readonly #retried: Counter;
  readonly #epoch: Gauge;
  readonly #generation: Gauge;
  readonly #percent: Gauge;
  readonly #writesOn: Gauge;

  /**
   * @param given the application's registry; without one the metrics have one of their own
   * @throws RangeError when it has another router's metrics
   */
  constructor(given?: Registry) {
    this.registry = given ?? this.#own;
    const registers = [this.#own];
    new RequestCounter(this.#own, this.#counts);
    new RequestDurations(this.#own, this.#counts);
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
    this.#mirroredReads = new Counter({
      name: 'verdigris_router_mirrored_reads_total',
      help: "Reads of blue's that were run on green too. outcome: same, different, failed, unsettled, skipped",
      labelNames: ['outcome', 'endpoint'],
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
    if (given !== undefined) this.#publish(given);
  }

  #publish(given: Registry): void {
    const metrics = this.#own.getMetricsAsArray().map(({ name }) => [name, this.#own.getSingleMetric(name)] as const);
    if (metrics.some(([name]) => given.getSingleMetric(name) !== undefined)) {
      throw new RangeError(
        'the registry has the metrics of another router: give each router a registry of its own, or close the other one first',
      );
    }
    for (const [, metric] of metrics) if (metric !== undefined) given.registerMetric(metric);
  }

  /** Takes the metrics out of the application's registry, for the router that comes after this one. */
  withdraw(): void {
    if (this.registry === this.#own) return;
    for (const { name } of this.#own.getMetricsAsArray()) {
      const isOurs = this.registry.getSingleMetric(name) === this.#own.getSingleMetric(name);
      if (isOurs) this.registry.removeSingleMetric(name);
    }
  }

  record(side: Side, kind: RequestKind, endpoint: string, outcome: RequestOutcome, ms: number): void {
    this.#counts.record(side, kind, endpoint, outcome, ms);
  }

  fallback(reason: FallbackReason, asked: string): void {
    this.#fallbacks.inc({ reason, endpoint: this.#counts.nameOf(asked) });
    this.#fallbackCounts[reason] += 1;
  }

  retried(asked: string): void {
    this.#retried.inc({ endpoint: this.#counts.nameOf(asked) });
    this.#retriedCount += 1;
  }

  mirrored(asked: string, outcome: MirrorOutcome, example?: MirrorExample): void {
    const endpoint = this.#counts.nameOf(asked);
    this.#mirroredReads.inc({ outcome, endpoint });
    this.#mirrored[outcome] += 1;
    if (outcome !== 'unsettled' && outcome !== 'skipped') {
      const { compared, different } = this.#mirroredEndpoints.get(endpoint) ?? { compared: 0, different: 0 };
      const differs = outcome === 'same' ? 0 : 1;
      this.#mirroredEndpoints.set(endpoint, { compared: compared + 1, different: different + differs });
    }
    // One that counts as no difference takes no other's place.
    if (example === undefined || (outcome === 'same' && this.#examples.length === EXAMPLES)) return;
    this.#examples.push({ ...example, endpoint, statement: asJsonb(example.statement) });
    if (this.#examples.length > EXAMPLES) this.#examples.shift();
  }

  showRoute(route: Route): void {
    this.#epoch.set(route.epoch);
    this.#generation.set(route.generation);
    this.#percent.set(route.greenReadPercent);
    for (const side of ['blue', 'green'] as const) this.#writesOn.set({ side }, route.writesOn === side ? 1 : 0);
  }

  /** What the gates read. */
  snapshot(): RouterMetrics {
    const counts = this.#counts;
    return {
      reads: { blue: counts.countersOf('read', 'blue'), green: counts.countersOf('read', 'green') },
      writes: { blue: counts.countersOf('write', 'blue'), green: counts.countersOf('write', 'green') },
      endpoints: counts.readsByEndpoint(),
      fallbacks: { ...this.#fallbackCounts },
      retriedWrites: this.#retriedCount,
      mirroredReads: {
        ...this.#mirrored,
        examples: [...this.#examples],
        endpoints: Object.fromEntries(this.#mirroredEndpoints),
      },
    };
  }
}
