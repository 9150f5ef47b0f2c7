import {
  Counter,
  Histogram,
  type MetricObjectWithValues,
  type MetricValue,
  type MetricValueWithName,
  type Registry,
} from 'prom-client';
import { LATENCY_BUCKETS_MS } from './metrics-snapshot.js';
import type { RequestCounts, RequestOutcome, Series } from './request-counts.js';

const OUTCOMES: readonly RequestOutcome[] = ['ok', 'error', 'refused'];

const DURATION = 'verdigris_router_request_duration_seconds';

const DURATIONS = {
  name: DURATION,
  help: 'Duration of requests by the side that took them, waits for green to catch up and held writes included',
  labelNames: ['side', 'kind', 'endpoint'],
  buckets: LATENCY_BUCKETS_MS.map((ms) => ms / 1_000),
};

/** The counted requests as Prometheus reads them: made when it asks. */
export class RequestCounter extends Counter {
  readonly #counts: RequestCounts;

  constructor(registry: Registry, counts: RequestCounts) {
    super({
      name: 'verdigris_router_requests_total',
      help: 'Requests by the side that took them. outcome: ok, error, or refused (the statement itself is the cause)',
      labelNames: ['side', 'kind', 'endpoint', 'outcome'],
      registers: [registry],
    });
    this.#counts = counts;
  }

  override async get(): Promise<MetricObjectWithValues<MetricValue<string>>> {
    const values = this.#counts.all().flatMap(({ side, kind, endpoint, outcomes }) =>
      OUTCOMES.filter((outcome) => outcomes[outcome] > 0).map((outcome) => ({
        labels: { side, kind, endpoint, outcome },
        value: outcomes[outcome],
      })),
    );
    return { ...(await super.get()), values };
  }
}

/** Their durations. */
export class RequestDurations extends Histogram {
  readonly #counts: RequestCounts;
  /** Says all that there is to say about this metric but its values. */
  readonly #description: Histogram;

  constructor(registry: Registry, counts: RequestCounts) {
    super({ ...DURATIONS, registers: [registry] });
    this.#counts = counts;
    this.#description = new Histogram({ ...DURATIONS, registers: [] });
  }

  override async get(): Promise<MetricObjectWithValues<MetricValueWithName<string>>> {
    return { ...(await this.#description.get()), values: this.#counts.all().flatMap(valuesOf) };
  }

  /** What a registry calls, where there is such a thing, when it writes its text. */
  getForPromString(): Promise<MetricObjectWithValues<MetricValueWithName<string>>> {
    return this.get();
  }
}

function valuesOf({ side, kind, endpoint, latency, sumMs }: Series): MetricValueWithName<string>[] {
  const labels = { side, kind, endpoint };
  let count = 0;
  const buckets = latency.map((inBucket, bucket) => {
    count += inBucket;
    const upper = LATENCY_BUCKETS_MS[bucket];
    const le = upper === undefined ? '+Inf' : upper / 1_000;
    return { labels: { le, ...labels }, value: count, metricName: `${DURATION}_bucket` };
  });
  return [
    ...buckets,
    { labels, value: sumMs / 1_000, metricName: `${DURATION}_sum` },
    { labels, value: count, metricName: `${DURATION}_count` },
  ];
}
