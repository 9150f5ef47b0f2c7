import { inconclusive, type ShareVerdict } from './share.js';

/** So many measurements in a row fail a gate, or pass it: one alone may be a checkpoint, or a lucky moment. */
export const GAUGES_IN_A_ROW = 3;

export interface GaugeQuestion {
  /** Measurements, oldest first; the last one is of now. */
  readonly values: readonly number[];
  readonly isKept: (value: number) => boolean;
  /** What the last one is, for people: `the oldest transaction is 3 s old; 1 min is allowed`. */
  readonly describe: (value: number) => string;
  /** What is asked, for people, where nothing has been measured. */
  readonly what: string;
}

/** Answers a question about a value that can be measured at any moment: not a share, and without a sample's size. */
export function decideGauge({ values, isKept, describe, what }: GaugeQuestion): ShareVerdict {
  const now = values.at(-1);
  if (now === undefined) return inconclusive(`${what} has not been measured`);
  if (!Number.isFinite(now)) return inconclusive(`${now} is no measurement of ${what}`);
  const newest = values.slice(-GAUGES_IN_A_ROW);
  const isWhole = newest.length === GAUGES_IN_A_ROW && newest.every(Number.isFinite);
  if (isKept(now)) {
    if (isWhole && newest.every(isKept)) return { outcome: 'pass', because: describe(now) };
    return inconclusive(`${describe(now)}; it passes after ${GAUGES_IN_A_ROW} measurements in a row within the limit`);
  }
  if (isWhole && !newest.some(isKept)) {
    return { outcome: 'fail', because: `${describe(now)}, for ${GAUGES_IN_A_ROW} measurements in a row` };
  }
  const inARow = values.length - 1 - values.findLastIndex((value) => !Number.isFinite(value) || isKept(value));
  return inconclusive(`${describe(now)}; it fails after ${GAUGES_IN_A_ROW} measurements in a row, ${inARow} so far`);
}
