import { formatDuration } from '../plan/duration.js';
import { decideGauge, GAUGES_TO_FAIL } from './decide-gauge.js';
import { inconclusive, type ShareVerdict } from './share.js';

/** Pause between two markers. */
export const MARKER_EVERY_MS = 500;
/** Markers must have been late for so long, and for so many times the limit: a large transaction is late for a moment. */
const LATE_TO_FAIL = { ms: 5_000, limits: 5 } as const;

/** Answers `lag` from measurements in ms, oldest first; Infinity is a marker that never arrived. */
export function decideLag(maxMs: number, lagMs: readonly number[]): ShareVerdict {
  const now = lagMs.at(-1);
  if (now === Infinity)
    return inconclusive('the marker has not arrived on green: replication stands still or green is away');
  if (now !== undefined && now < 0) return inconclusive(`${now} is no measurement of the lag`);
  const verdict = decideGauge({
    values: lagMs,
    what: 'the lag',
    isKept: (ms) => ms <= maxMs,
    describe: (ms) => `green is ${formatDuration(ms)} behind blue; ${formatDuration(maxMs)} is allowed`,
  });
  if (verdict.outcome !== 'fail') return verdict;
  const late = lagMs.slice(1 + lagMs.findLastIndex((ms) => ms <= maxMs));
  const newest = late.slice(-GAUGES_TO_FAIL);
  // A green that catches up after a large transaction or a checkpoint halves its lag from marker to marker.
  if ((newest.at(-1) ?? 0) < Math.max(...newest) / 2) return inconclusive(`${verdict.because}, but it is catching up`);
  // Markers go one after the other, so their times add up.
  const lateMs = late.reduce((sum, ms) => sum + ms + MARKER_EVERY_MS, -MARKER_EVERY_MS);
  const neededMs = Math.max(LATE_TO_FAIL.ms, LATE_TO_FAIL.limits * maxMs);
  if (lateMs < neededMs) return inconclusive(`${verdict.because}; it fails after ${formatDuration(neededMs)}`);
  return verdict;
}
