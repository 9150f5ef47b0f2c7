import type { LoadResult } from './load-messages.js';
import type { Move } from './move.js';

/* What the client saw, second by second. Pure. */

/** The slowest write, and how many there were. */
export interface Second {
  /** ms since 1970. */
  readonly from: number;
  readonly to: number;
  readonly writes: number;
  readonly slowestMs: number;
}

export type Samples = Pick<LoadResult, 'due' | 'took' | 'outcome'>;

/** At the beginning pools and caches fill. */
const WARM_UP_MS = 3_000;
/** So far from a move nothing of it is left to be seen. */
const APART_MS = 500;
const SECOND_MS = 1_000;

/**
 * The second of a move: from the first try on, at least one second long, and longer where the tries took longer: until
 * half a second after the new side was opened.
 */
export function secondOfMove(samples: Samples, { tried, opened }: Move): Second {
  return secondOf(samples, tried, Math.max(tried + SECOND_MS, opened + SECOND_MS / 2));
}

/** The whole move: from the first thing that it needs until the old side follows. */
export function wholeMove(samples: Samples, { began, followed }: Move): Second {
  return secondOf(samples, began, followed);
}

/** Whole seconds in which nothing of a move was under way. */
export function ordinarySeconds(samples: Samples, moves: readonly Move[]): readonly Second[] {
  const seconds: Second[] = [];
  const first = (samples.due[0] ?? 0) + WARM_UP_MS;
  const last = samples.due.at(-1) ?? 0;
  for (let from = first; from + SECOND_MS <= last; from += SECOND_MS) {
    const to = from + SECOND_MS;
    const isDisturbed = moves.some(({ began, followed }) => began - APART_MS < to && followed + APART_MS > from);
    if (!isDisturbed) seconds.push(secondOf(samples, from, to));
  }
  return seconds;
}

/** Of all writes that were due in it, acknowledged or not. */
export function secondOf({ due, took }: Samples, from: number, to: number): Second {
  let writes = 0;
  let slowestMs = 0;
  for (let i = firstAtOrAfter(due, from); i < due.length && (due[i] ?? 0) < to; i++) {
    writes += 1;
    slowestMs = Math.max(slowestMs, took[i] ?? 0);
  }
  return { from, to, writes, slowestMs };
}

/** The slowest write of each 50 ms around a move: from a quarter of a second before it was opened to a second after it. */
export function profileOfMove(samples: Samples, { opened }: Move): readonly number[] {
  return Array.from({ length: 25 }, (_, i) => {
    const from = opened + (i - 5) * PROFILE_MS;
    return Math.round(secondOf(samples, from, from + PROFILE_MS).slowestMs);
  });
}

const PROFILE_MS = 50;

/** The moments are in order. */
function firstAtOrAfter(due: Float64Array, moment: number): number {
  let [low, high] = [0, due.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((due[middle] ?? 0) < moment) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** A quantile by the nearest rank: of few numbers, p99 is the largest one. Null of none. */
export function quantile(numbers: readonly number[], share: number): number | null {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? null;
}
