import type { CountsAtOpening, PrometheusMeasurement } from './prometheus-measurement.js';
import { valueOf } from './prometheus-limits.js';
import { STALE_AFTER_SECONDS, type PrometheusAnswer } from './prometheus-query.js';
import {
  allowed,
  growthAMinute,
  judgedParts,
  noParts,
  NOTHING,
  partsAfter,
  takenBack,
  usualAMinute,
  type Counters,
  type Judged,
  type Parts,
} from './stage-parts.js';

/*
 * What is added in a stage to counters that are asked for as they are. Only their sum is known. It falls when an instance
 * is restarted, replaced or taken away, and when Prometheus can't read one of them for a moment; and it rises when one
 * comes, or comes back, with its past. So what is added is measured by what is usual in the stage (stage-parts.ts):
 *
 * - What is no more than usual is of the stage, also after a fall: a restart silences nothing. Only a whole fall that comes
 *   back at once is not.
 * - What is far more than usual is what has fallen and comes back, or a past, until it has come again: a past comes once.
 *   What is not known to come back is doubted: its requests pass nothing, its errors keep from passing, and those of a
 *   minute fail nothing.
 * - Where the sum falls again and again, nobody can tell one from the other: that passes nothing, either.
 */

/** Counters at a moment by Prometheus' clock, s; left out by versions that did not keep it. */
interface CountersAt extends Counters {
  readonly at?: number;
}

/** What one side has counted: all but the first minute of far more than any before. Plain data: it is kept with the stage's evidence. */
export interface SideCounted extends Counters {
  /** The counters as they were at the last answer. */
  readonly last: CountersAt;
  /** What has fallen, fall by fall, and has not come back; oldest first. */
  readonly fallen: readonly CountersAt[];
  /** The same in parts of a minute, judged with hindsight; left out by versions that did not keep them. */
  readonly parts?: Parts;
}

/** What was counted since the stage opened. */
export interface StageCounted {
  readonly green?: SideCounted;
  readonly blue?: SideCounted;
}

/** An answer that adds no more than so many times what a minute usually does may be growth: targets are read once a minute or more often. */
const TIMES_GROWTH = 3;
/** A fall of no more than the growth of so many minutes is one of the readings: of two Prometheus that answer in turns, one has read earlier. */
const FALL_OF_ONE_READING = 2;
const GROWN_OVER_MINUTES = 3;
/** So many falls may still come back. */
const FALLS_KEPT = 50;
/** Between two looks, where Prometheus' clock is not told. */
const LOOK_SECONDS = 5;

/**
 * What was counted by now. An answer that says nothing of a side leaves what is known of it.
 *
 * @param openedAt when the stage was opened by Prometheus' clock, s. Default: a look ago
 */
export function countedAfter(
  before: StageCounted | undefined,
  opening: CountsAtOpening,
  now: Pick<PrometheusMeasurement, 'green' | 'requests' | 'blue' | 'blueRequests' | 'at'>,
  openedAt?: number,
): StageCounted {
  const { at } = now;
  const green = sideAfter(before?.green, [opening.green, opening.requests], [now.green, now.requests], at, openedAt);
  const blue = sideAfter(
    before?.blue,
    [opening.blue, opening.blueRequests],
    [now.blue, now.blueRequests],
    at,
    openedAt,
  );
  return { ...(green === undefined ? {} : { green }), ...(blue === undefined ? {} : { blue }) };
}

/** What may be concluded from: what is surely of the stage, what is doubted, and whether it is known what is usual. */
export function judgedCounts({ hits, of, parts }: SideCounted): Judged {
  return judgedParts(parts ?? noParts({ hits, of }));
}

type Answers = readonly [hits: PrometheusAnswer | undefined, requests: PrometheusAnswer | undefined];

function sideAfter(
  before: SideCounted | undefined,
  [hitsAtOpening, requestsAtOpening]: Answers,
  [hitsNow, requestsNow]: Answers,
  at: number | undefined,
  openedAt: number | undefined,
): SideCounted | undefined {
  if (requestsAtOpening === undefined) return undefined;
  const opened = { hits: countOf(hitsAtOpening) ?? 0, of: countOf(requestsAtOpening) ?? 0 };
  // Hits over a range are of the stage as they are, and no counter.
  const [hits, of] = [hitsAtOpening === undefined ? 0 : countOf(hitsNow), valueOf(requestsNow)];
  const known = before ?? {
    ...{ hits: 0, of: 0, fallen: [] },
    last: { ...opened, at: openedAt ?? (at ?? 0) - LOOK_SECONDS },
  };
  if (hits === undefined || of === undefined || hits < 0 || of < 0) return known;
  const moment = at ?? (known.last.at ?? 0) + LOOK_SECONDS;
  return after(known, { hits, of, at: moment }, { ...opened, at: openedAt ?? moment });
}

function after(before: SideCounted, now: Required<CountersAt>, opened: Required<CountersAt>): SideCounted {
  const { last } = before;
  const { at } = now;
  const from = last.at ?? at - LOOK_SECONDS;
  const parts = before.parts ?? noParts({ hits: before.hits, of: before.of });
  const [hits, of] = [now.hits - last.hits, now.of - last.of];
  const growthBy = (usual: number | undefined): number | undefined =>
    usual === undefined ? undefined : allowed(usual, TIMES_GROWTH, (at - from) / 60);
  if (hits < 0 || of < 0) {
    const fell = { hits: Math.max(0, -hits), of: Math.max(0, -of), at };
    const usual = usualAMinute(parts);
    const growth = Math.max(grownAMinute(now, opened), usual ?? 0);
    const hasFallen = fell.of === 0 || fell.of > FALL_OF_ONE_READING * growth;
    const without = takenBack(parts, fell, growthBy(usual));
    const step = { from, at, rise: 0, added: NOTHING, back: NOTHING, hasFallen };
    return {
      ...{ hits: before.hits, of: before.of, last: now },
      fallen: without === undefined ? [...before.fallen, fell].slice(-FALLS_KEPT) : before.fallen,
      parts: partsAfter(without ?? parts, step).parts,
    };
  }
  const mayBeGrowth = of <= (growthBy(growthAMinute(parts)) ?? Infinity);
  const { added, fallen } = withoutReturned({ hits, of }, before.fallen, at, mayBeGrowth);
  const back = mayBeGrowth ? minus({ hits, of }, added) : NOTHING;
  const { parts: then, isHeld } = partsAfter(parts, { from, at, rise: of, added, back, hasFallen: false });
  const counts = isHeld ? NOTHING : added;
  return { hits: before.hits + counts.hits, of: before.of + counts.of, last: now, fallen, parts: then };
}

/**
 * By how many requests a minute the sum has grown since the stage opened: falls and what comes back cancel each other.
 * Negative when an instance with a past has gone for good.
 */
function grownAMinute(now: Required<CountersAt>, opened: Required<CountersAt>): number {
  return (now.of - opened.of) / Math.max(GROWN_OVER_MINUTES, (now.at - opened.at) / 60);
}

/**
 * Takes what comes back from what was added, the newest fall first.
 *
 * @param mayBeGrowth whether all of it is no more than usual: then only a whole fall of a moment ago comes back
 */
function withoutReturned(
  all: Counters,
  fallen: readonly CountersAt[],
  at: number,
  mayBeGrowth: boolean,
): { readonly added: Counters; readonly fallen: readonly CountersAt[] } {
  let added = all;
  const left = fallen.toReversed().flatMap((fall): CountersAt[] => {
    const what = fall.of > 0 ? 'of' : 'hits';
    if (mayBeGrowth && ageOf(fall, at) > STALE_AFTER_SECONDS) return [fall];
    if (added[what] >= fall[what]) {
      const of = added.of - fall.of;
      added = { of, hits: Math.max(0, Math.min(of, added.hits - fall.hits)) };
      return [];
    }
    if (mayBeGrowth || what === 'hits' || ageOf(fall, at) > STALE_AFTER_SECONDS) return [fall];
    const rest = { ...fall, ...minus(fall, added) };
    added = NOTHING;
    return [rest];
  });
  return { added, fallen: left.toReversed() };
}

/** s; infinite where it is not known when it fell. */
function ageOf(fall: CountersAt, at: number): number {
  return fall.at === undefined ? Infinity : at - fall.at;
}

function minus(one: Counters, other: Counters): Counters {
  return { hits: one.hits - other.hits, of: one.of - other.of };
}

/** A counter that has not been raised yet has no series. */
export function countOf(answer: PrometheusAnswer | undefined): number | undefined {
  return answer?.kind === 'unclear' && answer.isEmpty === true ? 0 : valueOf(answer);
}
