import { inconclusive, type ShareVerdict } from './share.js';

/** So many measurements in a row beyond the limit fail a gate: one alone may be a checkpoint. */
export const GAUGES_TO_FAIL = 3;

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
  if (isKept(now)) return { outcome: 'pass', because: describe(now) };
  const newest = values.slice(-GAUGES_TO_FAIL);
  if (newest.length === GAUGES_TO_FAIL && newest.every((value) => Number.isFinite(value) && !isKept(value))) {
    return { outcome: 'fail', because: `${describe(now)}, for ${GAUGES_TO_FAIL} measurements in a row` };
  }
  return inconclusive(`${describe(now)}; it fails after ${GAUGES_TO_FAIL} measurements in a row`);
}
