import { formatDuration } from '../plan/duration.js';
import { decideGauge, GAUGES_IN_A_ROW } from './decide-gauge.js';
import { inconclusive, type ShareVerdict } from './share.js';

/** Pause between two markers. */
export const MARKER_EVERY_MS = 500;
/** Markers must have been late for so long, and for so many times the limit: a large transaction is late for a moment. */
const LATE_TO_FAIL = { ms: 5_000, limits: 5 } as const;

/** A marker is waited for so long: a green that lags is measured with its lag. */
export function markerTimeoutMs(maxMs: number): number {
  return 2 * Math.max(1_000, maxMs) + 15_000;
}

/**
 * Answers `lag` from measurements in ms, oldest first; Infinity is a marker that had not arrived in its time though green
 * answered: replication is further behind than that, or stands still.
 */
export function decideLag(maxMs: number, lagMs: readonly number[]): ShareVerdict {
  const timeoutMs = markerTimeoutMs(maxMs);
  const last = lagMs.at(-1);
  if (last !== undefined && last < 0) return inconclusive(`${last} is no measurement of the lag`);
  const values = lagMs.map((ms) => (ms === Infinity ? timeoutMs : ms));
  const verdict = decideGauge({
    values,
    what: 'the lag',
    isKept: (ms) => ms <= maxMs,
    describe: (ms) =>
      last === Infinity
        ? `the marker has not arrived on green within ${formatDuration(timeoutMs)}: replication stands still or is far behind; ${formatDuration(maxMs)} is allowed`
        : `green is ${formatDuration(ms)} behind blue; ${formatDuration(maxMs)} is allowed`,
  });
  if (verdict.outcome !== 'fail') return verdict;
  const late = values.slice(1 + values.findLastIndex((ms) => ms <= maxMs));
  const newest = late.slice(-GAUGES_IN_A_ROW);
  // A green that catches up after a large transaction or a checkpoint halves its lag from marker to marker.
  if ((newest.at(-1) ?? 0) < Math.max(...newest) / 2) return inconclusive(`${verdict.because}, but it is catching up`);
  // Markers go one after the other, so their times add up.
  const lateMs = late.reduce((sum, ms) => sum + ms + MARKER_EVERY_MS, -MARKER_EVERY_MS);
  const neededMs = Math.max(LATE_TO_FAIL.ms, LATE_TO_FAIL.limits * maxMs);
  if (lateMs < neededMs) return inconclusive(`${verdict.because}; it fails after ${formatDuration(neededMs)}`);
  return verdict;
}
