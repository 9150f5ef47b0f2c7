import { formatDuration } from '../plan/duration.js';
import { inconclusive, type ShareVerdict } from './share.js';

/** So many lag measurements in a row above the limit fail the gate: one alone may be a checkpoint. */
const LAGS_TO_FAIL = 3;

/** Answers `lag` from measurements in ms, oldest first. */
export function decideLag(maxMs: number, lagMs: readonly number[]): ShareVerdict {
  const now = lagMs.at(-1);
  const limit = formatDuration(maxMs);
  if (now === undefined) return inconclusive('the lag has not been measured');
  if (now === Infinity)
    return inconclusive('the marker has not arrived on green: replication stands still or green is away');
  if (!Number.isFinite(now) || now < 0) return inconclusive(`${now} is no measurement of the lag`);
  const lag = formatDuration(now);
  if (now <= maxMs) return { outcome: 'pass', because: `green is ${lag} behind blue; ${limit} is allowed` };
  const newest = lagMs.slice(-LAGS_TO_FAIL);
  if (newest.length === LAGS_TO_FAIL && newest.every((ms) => Number.isFinite(ms) && ms > maxMs)) {
    return {
      outcome: 'fail',
      because: `green is ${lag} behind blue, above ${limit} for ${LAGS_TO_FAIL} measurements in a row`,
    };
  }
  return inconclusive(
    `green is ${lag} behind blue, above ${limit}; it fails after ${LAGS_TO_FAIL} measurements in a row`,
  );
}
