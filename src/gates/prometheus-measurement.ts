import type { Gate } from '../plan/schema.js';
import type { Side } from '../side.js';
import type { HttpEndpoint } from './http-source.js';
import { shortened } from './promql-ranges.js';
import { queryPrometheus, STALE_AFTER_SECONDS, type PrometheusAnswer } from './prometheus-query.js';
import type { StageCounted } from './stage-counts.js';

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
  /** The moment of all answers by Prometheus' clock, s since 1970. Only where it is told. */
  readonly at?: number;
  /** What counters that are asked for as they are had counted when the stage opened: prometheus-stage.ts. */
  readonly opening?: CountsAtOpening;
  /** What such counters have counted since then. */
  readonly counted?: StageCounted;
  /** The requests on green a while ago, where their counter is asked for as it is. */
  readonly requestsBefore?: PrometheusAnswer;
  /** Since when green's number has been beyond its limits at each look that told one, by Prometheus' clock, s. */
  readonly beyondSince?: number;
  /** The last look that told so, by the same clock. */
  readonly beyondAt?: number;
  /** The numbers of what has come since then, the first moment left out. */
  readonly later?: Pick<PrometheusMeasurement, 'green' | 'blue'>;
}

/** What a gate's counters were; one that is not a counter as it is, is left out. */
export type CountsAtOpening = Partial<
  Readonly<Record<'green' | 'requests' | 'blue' | 'blueRequests', PrometheusAnswer>>
>;

/** What is known of a gate's counters in its stage: a worker that takes over goes on from it. */
export type KnownCounts = Pick<PrometheusMeasurement, 'opening' | 'counted'>;

/** What Prometheus has told one gate. */
export interface PrometheusSeries {
  /** Oldest first; the last one is of now. */
  readonly measured: readonly PrometheusMeasurement[];
  /** Why there is no answer of now. */
  readonly failure?: string;
  /** Blue's number from before a stage that leaves it too few reads for one of its own. */
  readonly blueBefore?: number;
  /** The stage leaves blue too few reads to be compared with. */
  readonly leavesBlueTooFew?: boolean;
}

export interface MeasurementScope {
  readonly migration: string;
  readonly stage: number;
  readonly windowSeconds: number;
  /** Evaluation time, ms since 1970. Default: now, by the clock of Prometheus. */
  readonly atMs?: number;
  /** Nothing that is older than this, s, is taken up. Default: as old as the query says. */
  readonly lookBackSeconds?: number;
  readonly signal?: AbortSignal;
}

/** Rates need two samples, and Prometheus takes one a minute or more often. */
export const SHORTEST_WINDOW_SECONDS = 15;

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
  const { lookBackSeconds = Infinity } = scope;
  const more = {
    ...(scope.signal === undefined ? {} : { signal: scope.signal }),
    lookBackSeconds: Math.min(lookBackSeconds, STALE_AFTER_SECONDS),
  };
  const clock = await momentOf(endpoint, scope);
  const send = (query: string): PrometheusAnswer | Promise<PrometheusAnswer> =>
    clock.kind === 'value' ? queryPrometheus(endpoint, query, { ...more, atMs: clock.value * 1_000 }) : clock;
  const askFor = (template: string, side: Side): PrometheusAnswer | Promise<PrometheusAnswer> =>
    send(queryOf(template, scope, side));
  const bySide = isBySide(gate);
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
    query: queryOf(gate.query, scope, 'green'),
    ...(clock.kind === 'value' ? { at: clock.value } : {}),
  };
}

/** Whether a gate is asked for blue as well. */
export function isBySide(gate: PrometheusGate): boolean {
  return mentions(gate.query, 'side') || mentions(gate.requests, 'side');
}

/** A query as it is sent: it looks back no further than it may. */
function queryOf(template: string, scope: MeasurementScope, side: Side): string {
  const { lookBackSeconds = Infinity, windowSeconds } = scope;
  const filled = fillTemplate(template, { ...scope, windowSeconds: Math.min(windowSeconds, lookBackSeconds) }, side);
  return lookBackSeconds === Infinity ? filled : shortened(filled, lookBackSeconds);
}

/**
 * What shows whether the series of a gate still live: its query over the last moments. A range goes on to answer for as long
 * as it looks back. Undefined where it looks back no further.
 */
function recentQuery(gate: PrometheusGate, scope: MeasurementScope): string | undefined {
  const counted = gate.requests ?? gate.query;
  const recent = { ...scope, windowSeconds: Math.min(scope.windowSeconds, STALE_AFTER_SECONDS) };
  const query = shortened(queryOf(counted, recent, 'green'), STALE_AFTER_SECONDS);
  return query === queryOf(counted, scope, 'green') ? undefined : query;
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

/** The same of now: an application that has been scraped for less than the window has fewer in it, and the last minute may have all. */
export async function requestsPerSecondNow(
  endpoint: HttpEndpoint,
  gate: PrometheusGate,
  scope: MeasurementScope,
): Promise<number | undefined> {
  const [long, short] = await Promise.all([
    requestsPerSecond(endpoint, gate, scope),
    requestsPerSecond(endpoint, gate, { ...scope, windowSeconds: Math.min(scope.windowSeconds, LAST_SECONDS) }),
  ]);
  return long === undefined ? short : Math.max(long, short ?? 0);
}

/** Where Prometheus reads so rarely that a minute has no two samples, it has no number for it, and the longer window counts. */
const LAST_SECONDS = 60;
