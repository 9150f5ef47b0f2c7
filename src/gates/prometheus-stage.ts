import { excessOf, valueOf } from './prometheus-limits.js';
import {
  fillTemplate,
  isBySide,
  measurePrometheus,
  SHORTEST_WINDOW_SECONDS,
  type CountsAtOpening,
  type KnownCounts,
  type MeasurementScope,
  type PrometheusGate,
  type PrometheusMeasurement,
} from './prometheus-measurement.js';
import { countsFromTheStart, rangesOf } from './promql-ranges.js';
import { queryPrometheus, STALE_AFTER_SECONDS, type PrometheusAnswer } from './prometheus-query.js';
import type { HttpEndpoint } from './http-source.js';
import { countedAfter } from './stage-counts.js';
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
  /** What another worker has known of its counters. */
  readonly kept?: KnownCounts | undefined;
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
  if (at === undefined || Number.isNaN(excessOf(gate, now, blueBefore))) return { ...now, ...beyondOf(before) };
  if (!isBeyond(now)) return now;
  const isOld = before?.beyondAt === undefined || at - before.beyondAt > STALE_AFTER_SECONDS;
  let since = (isOld ? undefined : before.beyondSince) ?? at;
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
  const beyond = { beyondSince: since, beyondAt: at };
  if (laterSeconds < laterNeeded(gate.query, scope)) return { ...now, ...beyond };
  const { green, blue } = await measurePrometheus(endpoint, gate, {
    ...{ ...scope, atMs: at * 1_000, lookBackSeconds: laterSeconds },
  });
  return { ...now, ...beyond, later: { green, ...(blue === undefined ? {} : { blue }) } };
}

/** An answer that tells no number has not kept the limits: what was known before it stays. */
function beyondOf(before: PrometheusMeasurement | undefined): Partial<PrometheusMeasurement> {
  const { beyondSince, beyondAt } = before ?? {};
  return beyondSince === undefined || beyondAt === undefined ? {} : { beyondSince, beyondAt };
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
  { before, kept }: KnownOfStage,
): Promise<PrometheusMeasurement> {
  const now = await measurePrometheus(endpoint, gate, scope);
  const { at } = now;
  const { opening: opened, counted } = before ?? kept ?? {};
  const known: KnownCounts = {
    ...(opened === undefined ? {} : { opening: opened }),
    ...(counted === undefined ? {} : { counted }),
  };
  if (at === undefined) return { ...now, ...known };
  const askedAt = (age: number, lookBackSeconds: number) => {
    const windowSeconds = Math.min(scope.windowSeconds, STALE_AFTER_SECONDS);
    const options = {
      atMs: (at - age) * 1_000,
      lookBackSeconds,
      ...(scope.signal === undefined ? {} : { signal: scope.signal }),
    };
    return (template: string, side: Side): ReturnType<Ask> =>
      countsFromTheStart(template)
        ? queryPrometheus(endpoint, fillTemplate(template, { ...scope, windowSeconds }, side), options)
        : undefined;
  };
  const ofOpening = (before: number): ReturnType<typeof askedAt> =>
    askedAt(scope.windowSeconds + before, OPENING_LOOK_BACK_SECONDS);
  const ofBefore = askedAt(STALE_AFTER_SECONDS, STALE_AFTER_SECONDS);
  const [opening, requestsBefore] = await Promise.all([
    opened !== undefined && isTold(opened)
      ? opened
      : openingOf(gate, requests, { ofOpening, ofNow: askedAt(0, STALE_AFTER_SECONDS), now }),
    scope.windowSeconds > STALE_AFTER_SECONDS ? ofBefore(requests, 'green') : undefined,
  ]);
  return {
    ...now,
    opening,
    ...(isTold(opening) ? { counted: countedAfter(counted, opening, now, at - scope.windowSeconds) } : {}),
    ...(requestsBefore === undefined ? {} : { requestsBefore }),
  };
}

/** Otherwise it is asked again. */
function isTold(opening: CountsAtOpening): boolean {
  return Object.values(opening).every(({ kind }) => kind !== 'failed');
}

type Ask = (template: string, side: Side) => Promise<PrometheusAnswer> | undefined;

/** Prometheus has this series of whatever it reads, where it reads anything itself. */
const ANYTHING = 'count(up)';

/**
 * Counters only grow: where the sum was larger shortly before the stage opened, Prometheus missed one of them in that moment,
 * and it comes back with its past. After a restart the sum was larger, too: then the first answer of the stage is a fall.
 */
const BEFORE_OPENING_SECONDS = [0, 15, 30, 60, STALE_AFTER_SECONDS];

/**
 * What the counters were when the stage opened, the largest of several moments. One without a series had counted nothing,
 * unless Prometheus knows nothing at all of the opening: then it may have been any number, and what is added from now on
 * counts.
 */
async function openingOf(
  gate: PrometheusGate,
  requests: string,
  {
    ofOpening,
    ofNow,
    now,
  }: { readonly ofOpening: (before: number) => Ask; readonly ofNow: Ask; readonly now: PrometheusMeasurement },
): Promise<CountsAtOpening> {
  const opening = largest(
    await Promise.all(BEFORE_OPENING_SECONDS.map((before) => countsAtOpening(gate, requests, ofOpening(before)))),
  );
  const answers = Object.values(opening);
  if (answers.length === 0 || !answers.every(isNothing)) return opening;
  const [then, today] = await Promise.all([ofOpening(0)(ANYTHING, 'green'), ofNow(ANYTHING, 'green')]);
  const failed = [then, today].find((one) => one?.kind === 'failed');
  if (failed !== undefined) return Object.fromEntries(Object.keys(opening).map((name) => [name, failed]));
  // Where it never has this series, its absence says nothing.
  return isEmpty(then) && !isEmpty(today) ? fromNow(opening, now) : opening;
}

/** Of each counter the largest answer. What was no number in the moment of the opening itself stays none. */
function largest([opening = {}, ...earlier]: readonly CountsAtOpening[]): CountsAtOpening {
  const names = ['green', 'requests', 'blue', 'blueRequests'] as const;
  return Object.fromEntries(
    names.flatMap((name): [string, PrometheusAnswer][] => {
      const answer = opening[name];
      if (answer === undefined) return [];
      const others = earlier.map((one) => one[name]);
      const isNumber = answer.kind === 'value' || isEmpty(answer);
      const failed = others.find((one) => one?.kind === 'failed');
      if (!isNumber || failed !== undefined) return [[name, isNumber && failed !== undefined ? failed : answer]];
      const most = Math.max(...[answer, ...others].map((one) => valueOf(one) ?? -Infinity));
      return [[name, most === -Infinity ? answer : { kind: 'value', value: most }]];
    }),
  );
}

function isEmpty(answer: PrometheusAnswer | undefined): boolean {
  return answer?.kind === 'unclear' && answer.isEmpty === true;
}

/** No series, or 0, which `or vector(0)` says without one. */
function isNothing(answer: PrometheusAnswer): boolean {
  return isEmpty(answer) || (answer.kind === 'value' && answer.value === 0);
}

/** What is not known now is asked for again. */
function fromNow(opening: CountsAtOpening, now: PrometheusMeasurement): CountsAtOpening {
  const names = ['green', 'requests', 'blue', 'blueRequests'] as const;
  return Object.fromEntries(
    names.flatMap((name) => {
      const answer = opening[name] === undefined ? undefined : now[name];
      if (answer === undefined) return [];
      const isKnown = answer.kind === 'value' || isEmpty(answer);
      return [[name, isKnown ? answer : { kind: 'failed' as const, why: LOST }]];
    }),
  );
}

const LOST = 'Prometheus does not know any more what was counted when the stage opened';

async function countsAtOpening(gate: PrometheusGate, requests: string, ask: Ask): Promise<CountsAtOpening> {
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
