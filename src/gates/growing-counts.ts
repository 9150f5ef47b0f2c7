import { valueOf } from './prometheus-limits.js';
import type { PrometheusAnswer } from './prometheus-query.js';
import type { Counters } from './stage-parts.js';

/** With fewer requests than this part of those before, Prometheus has begun anew, or another one answers that knows less. */
const PART_THAT_FELL = 1 / 2;
/** So many levels from which the counts fell may come back: one for each Prometheus behind one address. */
const LEVELS_KEPT = 5;

/** What one side has counted since the stage opened, answer by answer. */
export class GrowingCounts {
  #now: Counters = { hits: 0, of: 0 };
  /** Where the counts fell from. */
  #fallen: readonly Counters[] = [];

  /** What an answer adds to those before it. */
  added(hits: PrometheusAnswer | undefined, requests: PrometheusAnswer | undefined): Counters {
    const told = { hits: wholeOf(hits), of: wholeOf(requests) };
    // Since when it counts anew is not known, so what it has counted so far is of no moment.
    if (valueOf(requests) !== undefined && isFarBelow(told, this.#now)) {
      this.#fallen = [...this.#fallen, this.#now].slice(-LEVELS_KEPT);
      this.#now = told;
      return { hits: 0, of: 0 };
    }
    const from = this.#levelOf(told);
    this.#now = { hits: Math.max(from.hits, told.hits), of: Math.max(from.of, told.of) };
    const of = this.#now.of - from.of;
    return { of, hits: Math.min(of, this.#now.hits - from.hits) };
  }

  /**
   * What came before an answer. Counts that began anew grow step by step; those that are back at once, where they fell from,
   * are another Prometheus', which has told them already.
   */
  #levelOf(told: Counters): Counters {
    if (!isFarBelow(this.#now, told)) return this.#now;
    const level = this.#fallen.filter((one) => !isFarBelow(told, one)).toSorted((a, b) => b.of - a.of)[0];
    if (level === undefined) return this.#now;
    this.#fallen = this.#fallen.filter(({ of }) => of > level.of);
    return level;
  }
}

function isFarBelow(one: Counters, other: Counters): boolean {
  return one.of < other.of * PART_THAT_FELL;
}

function wholeOf(answer: PrometheusAnswer | undefined): number {
  return Math.max(0, Math.floor(valueOf(answer) ?? 0));
}
