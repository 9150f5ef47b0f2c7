import type { CountsAtOpening, PrometheusMeasurement } from './prometheus-measurement.js';
import { valueOf } from './prometheus-limits.js';
import type { PrometheusAnswer } from './prometheus-query.js';

/*
 * What is added in a stage to counters that are asked for as they are. Their sum falls when an instance is restarted,
 * replaced or taken away, and when Prometheus can't read one of them for a moment. Only what is added counts: what the
 * others had counted before the stage is of no moment, and what fell and comes back is not new.
 */

interface Counters {
  readonly hits: number;
  readonly of: number;
}

/** What one side has counted. Plain data: it is kept with the stage's evidence. */
export interface SideCounted extends Counters {
  /** The counters as they were at the last answer. */
  readonly last: Counters;
  /** What has fallen, fall by fall, and has not come back; oldest first. */
  readonly fallen: readonly Counters[];
}

/** What was counted since the stage opened. */
export interface StageCounted {
  readonly green?: SideCounted;
  readonly blue?: SideCounted;
}

/** One answer that adds this part of what fell may be one of several instances that come back: then it adds nothing. */
const PART_THAT_RETURNS = 1 / 10;
/** So many falls may still come back. */
const FALLS_KEPT = 50;

/** What was counted by now. An answer that says nothing of a side leaves what is known of it. */
export function countedAfter(
  before: StageCounted | undefined,
  opening: CountsAtOpening,
  now: Pick<PrometheusMeasurement, 'green' | 'requests' | 'blue' | 'blueRequests'>,
): StageCounted {
  const green = sideAfter(before?.green, [opening.green, opening.requests], [now.green, now.requests]);
  const blue = sideAfter(before?.blue, [opening.blue, opening.blueRequests], [now.blue, now.blueRequests]);
  return { ...(green === undefined ? {} : { green }), ...(blue === undefined ? {} : { blue }) };
}

type Answers = readonly [hits: PrometheusAnswer | undefined, requests: PrometheusAnswer | undefined];

function sideAfter(
  before: SideCounted | undefined,
  [hitsAtOpening, requestsAtOpening]: Answers,
  [hitsNow, requestsNow]: Answers,
): SideCounted | undefined {
  if (requestsAtOpening === undefined) return undefined;
  const opened = { hits: countOf(hitsAtOpening) ?? 0, of: countOf(requestsAtOpening) ?? 0 };
  // Hits over a range are of the stage as they are, and no counter.
  const [hits, of] = [hitsAtOpening === undefined ? 0 : countOf(hitsNow), valueOf(requestsNow)];
  const known = before ?? { hits: 0, of: 0, last: opened, fallen: [] };
  return hits === undefined || of === undefined || hits < 0 || of < 0 ? known : after(known, { hits, of });
}

function after(before: SideCounted, now: Counters): SideCounted {
  const { last } = before;
  const [hits, of] = [now.hits - last.hits, now.of - last.of];
  if (hits < 0 || of < 0) {
    const fell = { hits: Math.max(0, -hits), of: Math.max(0, -of) };
    return { ...before, last: now, fallen: [...before.fallen, fell].slice(-FALLS_KEPT) };
  }
  const { added, fallen } = withoutReturned({ hits, of }, before.fallen);
  return { hits: before.hits + added.hits, of: before.of + added.of, last: now, fallen };
}

/** Takes what comes back from what was added, the newest fall first. */
function withoutReturned(
  all: Counters,
  fallen: readonly Counters[],
): { readonly added: Counters; readonly fallen: readonly Counters[] } {
  let added = all;
  const left = fallen.toReversed().flatMap((fall): Counters[] => {
    const what = fall.of > 0 ? 'of' : 'hits';
    if (added[what] >= fall[what]) {
      const of = added.of - fall.of;
      added = { of, hits: Math.max(0, Math.min(of, added.hits - fall.hits)) };
      return [];
    }
    if (added[what] < fall[what] * PART_THAT_RETURNS) return [fall];
    const back = what === 'of' ? added : { hits: added.hits, of: 0 };
    added = minus(added, back);
    return [minus(fall, back)];
  });
  return { added, fallen: left.toReversed() };
}

function minus(one: Counters, other: Counters): Counters {
  return { hits: one.hits - other.hits, of: one.of - other.of };
}

/** A counter that has not been raised yet has no series. */
export function countOf(answer: PrometheusAnswer | undefined): number | undefined {
  return answer?.kind === 'unclear' && answer.isEmpty === true ? 0 : valueOf(answer);
}
