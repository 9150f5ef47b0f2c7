import type { Gate } from '../plan/schema.js';
import type { Side } from '../side.js';
import type { HttpEndpoint } from './http-source.js';
import { shortened } from './promql-ranges.js';
import { queryPrometheus, STALE_AFTER_SECONDS, type PrometheusAnswer } from './prometheus-query.js';

export type PrometheusGate = Extract<Gate, { metric: 'prometheus' }>;

/** All that a gate asked Prometheus, and the answers. Plain data. */
export interface PrometheusMeasurement {
  readonly green: PrometheusAnswer;
  readonly requests?: PrometheusAnswer;
  /** The same on blue, where the query is by side. */
  readonly blue?: PrometheusAnswer;
  readonly blueRequests?: PrometheusAnswer;
  /** Over the last moments alone: whether the series still live. Only where the query looks back further. */
  readonly recent?: PrometheusAnswer;
  /** The query for green as it was sent: for the evidence. */
  readonly query: string;
}

/** What Prometheus has told one gate. */
export interface PrometheusSeries {
  /** Oldest first; the last one is of now. */
  readonly measured: readonly PrometheusMeasurement[];
  /** Why there is no answer of now. */
  readonly failure?: string;
  /** Blue's number from before a stage that leaves it too few reads for one of its own. */
  readonly blueBefore?: number;
}

export interface MeasurementScope {
  readonly migration: string;
  readonly stage: number;
  readonly windowSeconds: number;
  /** Evaluation time, ms since 1970. Default: now, by the clock of Prometheus. */
  readonly atMs?: number;
  readonly signal?: AbortSignal;
}

/** Rates need two samples, and Prometheus takes one a minute or more often. */
const SHORTEST_WINDOW_SECONDS = 15;

/** A query with the names between double braces filled in. None of the values can hold a quote. */
export function fillTemplate(
  template: string,
  scope: Pick<MeasurementScope, 'migration' | 'stage' | 'windowSeconds'>,
  side: Side,
): string {
  const values: Readonly<Record<string, string>> = {
    migration: scope.migration,
    stage: String(scope.stage),
    side,
    window: `${Math.max(SHORTEST_WINDOW_SECONDS, Math.floor(scope.windowSeconds))}s`,
  };
  return template.replaceAll(/\{\{\s*(\w+)\s*\}\}/g, (whole, name: string) => values[name] ?? whole);
}

/** Whether a query has a name between double braces. */
function mentions(template: string | undefined, name: 'side' | 'window'): boolean {
  return template !== undefined && new RegExp(`\\{\\{\\s*${name}\\s*\\}\\}`).test(template);
}

/** Asks everything that a gate needs, at one moment of evaluation. */
export async function measurePrometheus(
  endpoint: HttpEndpoint,
  gate: PrometheusGate,
  scope: MeasurementScope,
): Promise<PrometheusMeasurement> {
  const more = scope.signal === undefined ? {} : { signal: scope.signal };
  const clock = await momentOf(endpoint, scope);
  const send = (query: string): PrometheusAnswer | Promise<PrometheusAnswer> =>
    clock.kind === 'value' ? queryPrometheus(endpoint, query, { ...more, atMs: clock.value * 1_000 }) : clock;
  const askFor = (template: string, side: Side): PrometheusAnswer | Promise<PrometheusAnswer> =>
    send(fillTemplate(template, scope, side));
  const bySide = mentions(gate.query, 'side') || mentions(gate.requests, 'side');
  const ofNow = recentQuery(gate, scope);
  const [green, requests, blue, blueRequests, recent] = await Promise.all([
    askFor(gate.query, 'green'),
    gate.requests === undefined ? undefined : askFor(gate.requests, 'green'),
    bySide ? askFor(gate.query, 'blue') : undefined,
    bySide && gate.requests !== undefined ? askFor(gate.requests, 'blue') : undefined,
    ofNow === undefined ? undefined : send(ofNow),
  ]);
  return {
    green,
    ...(requests === undefined ? {} : { requests }),
    ...(blue === undefined ? {} : { blue }),
    ...(blueRequests === undefined ? {} : { blueRequests }),
    ...(recent === undefined ? {} : { recent }),
    query: fillTemplate(gate.query, scope, 'green'),
  };
}

/**
 * What shows whether the series of a gate still live: its query over the last moments. A range goes on to answer for as long
 * as it looks back. Undefined where it looks back no further.
 */
function recentQuery(gate: PrometheusGate, scope: MeasurementScope): string | undefined {
  const counted = gate.requests ?? gate.query;
  const recent = { ...scope, windowSeconds: Math.min(scope.windowSeconds, STALE_AFTER_SECONDS) };
  const query = shortened(fillTemplate(counted, recent, 'green'), STALE_AFTER_SECONDS);
  return query === fillTemplate(counted, scope, 'green') ? undefined : query;
}

/** The moment of evaluation, s since 1970, or why Prometheus does not tell its time. */
async function momentOf(endpoint: HttpEndpoint, { atMs, signal }: MeasurementScope): Promise<PrometheusAnswer> {
  if (atMs !== undefined) return { kind: 'value', value: atMs / 1_000 };
  return queryPrometheus(endpoint, 'time()', signal === undefined ? {} : { signal });
}

/**
 * Requests a second that a gate counts, both sides together, over a window; undefined where its query is not by side and
 * window, or Prometheus has no number for blue. Green may have had no request yet.
 */
export async function requestsPerSecond(
  endpoint: HttpEndpoint,
  { requests }: PrometheusGate,
  scope: MeasurementScope,
): Promise<number | undefined> {
  if (requests === undefined || !mentions(requests, 'side') || !mentions(requests, 'window')) return undefined;
  const { atMs, signal } = scope;
  const options = { atMs, ...(signal === undefined ? {} : { signal }) };
  const [blue, green] = await Promise.all(
    (['blue', 'green'] as const).map((side) => queryPrometheus(endpoint, fillTemplate(requests, scope, side), options)),
  );
  if (blue?.kind !== 'value') return undefined;
  return (blue.value + (green?.kind === 'value' ? green.value : 0)) / scope.windowSeconds;
}
