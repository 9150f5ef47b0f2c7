import { formatDuration } from '../plan/duration.js';
import { decideGauge } from './decide-gauge.js';
import { inconclusive, type ShareVerdict } from './share.js';

/** Answers `lag` from measurements in ms, oldest first; Infinity is a marker that never arrived. */
export function decideLag(maxMs: number, lagMs: readonly number[]): ShareVerdict {
  const now = lagMs.at(-1);
  if (now === Infinity)
    return inconclusive('the marker has not arrived on green: replication stands still or green is away');
  if (now !== undefined && now < 0) return inconclusive(`${now} is no measurement of the lag`);
  return decideGauge({
    values: lagMs,
    what: 'the lag',
    isKept: (ms) => ms <= maxMs,
    describe: (ms) => `green is ${formatDuration(ms)} behind blue; ${formatDuration(maxMs)} is allowed`,
  });
}
