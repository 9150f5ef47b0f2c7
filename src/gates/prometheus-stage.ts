import { excessOf } from './prometheus-limits.js';
import {
  fillTemplate,
  isBySide,
  measurePrometheus,
  SHORTEST_WINDOW_SECONDS,
  type CountsAtOpening,
  type MeasurementScope,
  type PrometheusGate,
  type PrometheusMeasurement,
} from './prometheus-measurement.js';
import { countsFromTheStart, rangesOf } from './promql-ranges.js';
import { queryPrometheus, STALE_AFTER_SECONDS, type PrometheusAnswer } from './prometheus-query.js';
import type { HttpEndpoint } from './http-source.js';
import type { Side } from '../side.js';

/*
 * What a gate asks Prometheus in a stage, beside the numbers of now. Prometheus remembers: what a worker has not seen
 * itself, it asks about the moment in which it was so.
 */

/** What begins with a number beyond its limit, and lasts no longer than this, is one moment: it fails nothing. */
export const MOMENT_SECONDS = 15;
/** What comes after it is judged over a quarter of what the query looks back, and over no more than this. */
const LATER_SECONDS = 60;
/** A worker that has just come looks at so many moments of before, so far apart. */
const EARLIER = { looks: 8, everySeconds: 15 } as const;
/** The last number from before the stage counts though Prometheus was away for so long. */
const OPENING_LOOK_BACK_SECONDS = 3_600;

/** What is known of a gate in its stage. */
export interface KnownOfStage {
  /** The measurement before this one; undefined for the first one of a worker. */
  readonly before: PrometheusMeasurement | undefined;
  /** Blue's number from before a stage that leaves it too few reads. */
  readonly blueBefore?: number | undefined;
}

/** Asks everything that a gate needs in a stage that has been open for `windowSeconds`. */
export async function measureStage(
  endpoint: HttpEndpoint,
  gate: PrometheusGate,
  scope: MeasurementScope,
  known: KnownOfStage,
): Promise<PrometheusMeasurement> {
  return gate.requests === undefined
    ? measureValue(endpoint, gate, scope, known)
    : measureCounts(endpoint, gate, gate.requests, scope, known);
}

/** A number of the stage alone: its ranges do not look back to before it opened. */
async function measureValue(
  endpoint: HttpEndpoint,
  gate: PrometheusGate,
  scope: MeasurementScope,
  { before, blueBefore }: KnownOfStage,
): Promise<PrometheusMeasurement> {
  const inStage = (windowSeconds: number, atMs?: number): Promise<PrometheusMeasurement> =>
    measurePrometheus(endpoint, gate, {
      ...{ ...scope, ...(atMs === undefined ? {} : { atMs }), windowSeconds },
      lookBackSeconds: Math.max(SHORTEST_WINDOW_SECONDS, Math.floor(windowSeconds)),
    });
  const isBeyond = (one: PrometheusMeasurement): boolean => excessOf(gate, one, blueBefore) > 0;
  const now = await inStage(scope.windowSeconds);
  const { at } = now;
  if (at === undefined || !isBeyond(now)) return now;
  let since = before?.beyondSince ?? at;
  if (before === undefined) {
    const ages = Array.from({ length: EARLIER.looks }, (_, i) => (i + 1) * EARLIER.everySeconds);
    const earlier = await Promise.all(
      ages
        .filter((age) => scope.windowSeconds - age >= SHORTEST_WINDOW_SECONDS)
        .map((age) => inStage(scope.windowSeconds - age, (at - age) * 1_000)),
    );
    const kept = earlier.findIndex((one) => !isBeyond(one));
    since = at - (kept === -1 ? earlier.length : kept) * EARLIER.everySeconds;
  }
  const laterSeconds = Math.floor(at - since - MOMENT_SECONDS);
  if (laterSeconds < laterNeeded(gate.query, scope)) return { ...now, beyondSince: since };
  const { green, blue } = await measurePrometheus(endpoint, gate, {
    ...{ ...scope, atMs: at * 1_000, lookBackSeconds: laterSeconds },
  });
  return { ...now, beyondSince: since, later: { green, ...(blue === undefined ? {} : { blue }) } };
}

/** Over how many seconds what came later is judged, at least. A range of a query is not shortened. */
function laterNeeded(template: string, scope: MeasurementScope): number {
  const ranges = rangesOf(fillTemplate(template, scope, 'green'));
  const longest = (isSubquery: boolean): number =>
    Math.max(0, ...ranges.filter((range) => range.isSubquery === isSubquery).map(({ seconds = 0 }) => seconds));
  const fixed = rangesOf(template).filter(({ isSubquery, isWindow }) => isSubquery && !isWindow);
  return Math.max(
    SHORTEST_WINDOW_SECONDS,
    Math.min(LATER_SECONDS, longest(false) / 4),
    fixed.length === 0 ? 0 : longest(true),
  );
}

/** Counts: of counters as they are, what they were at the opening, and two minutes ago. */
async function measureCounts(
  endpoint: HttpEndpoint,
  gate: PrometheusGate,
  requests: string,
  scope: MeasurementScope,
  { before }: KnownOfStage,
): Promise<PrometheusMeasurement> {
  const now = await measurePrometheus(endpoint, gate, scope);
  const { at } = now;
  if (at === undefined) return now;
  const askedAt = (age: number, lookBackSeconds: number) => {
    const windowSeconds = Math.min(scope.windowSeconds, STALE_AFTER_SECONDS);
    const options = {
      atMs: (at - age) * 1_000,
      lookBackSeconds,
      ...(scope.signal === undefined ? {} : { signal: scope.signal }),
    };
    return (template: string, side: Side): Promise<PrometheusAnswer> | undefined =>
      countsFromTheStart(template)
        ? queryPrometheus(endpoint, fillTemplate(template, { ...scope, windowSeconds }, side), options)
        : undefined;
  };
  const isAsked = before?.opening !== undefined && Object.values(before.opening).every(({ kind }) => kind !== 'failed');
  const ofOpening = askedAt(scope.windowSeconds, OPENING_LOOK_BACK_SECONDS);
  const ofBefore = askedAt(STALE_AFTER_SECONDS, STALE_AFTER_SECONDS);
  const [opening, requestsBefore] = await Promise.all([
    isAsked ? before.opening : countsAtOpening(gate, requests, ofOpening),
    scope.windowSeconds > STALE_AFTER_SECONDS ? ofBefore(requests, 'green') : undefined,
  ]);
  return {
    ...now,
    ...(opening === undefined ? {} : { opening }),
    ...(requestsBefore === undefined ? {} : { requestsBefore }),
  };
}

async function countsAtOpening(
  gate: PrometheusGate,
  requests: string,
  ask: (template: string, side: Side) => Promise<PrometheusAnswer> | undefined,
): Promise<CountsAtOpening> {
  const bySide = isBySide(gate);
  const asked = {
    ...{ green: ask(gate.query, 'green'), requests: ask(requests, 'green') },
    ...(bySide ? { blue: ask(gate.query, 'blue'), blueRequests: ask(requests, 'blue') } : {}),
  };
  const answers = await Promise.all(
    Object.entries(asked).map(async ([name, answer]) => (answer === undefined ? [] : [[name, await answer] as const])),
  );
  return Object.fromEntries(answers.flat());
}
