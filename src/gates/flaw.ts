import { listed } from './share.js';
import type { GateWindow, SideWindow } from './window.js';

/** Why nothing may be concluded from a window; undefined when it is sound. A flaw holds the stage, whatever it hides. */
export function flawOf(window: GateWindow): string | undefined {
  if (window.liveInstances === 0) return 'no router has reported within the last seconds';
  if (window.unreadableInstances.length > 0) {
    return `these routers report in a form of another version: ${listed(window.unreadableInstances)}`;
  }
  if (!Number.isFinite(window.seconds) || window.seconds < 0) return `the window lasts ${window.seconds} s`;
  const { behind, error } = window.fallbacks;
  if (![behind, error].every(isCount)) return 'the number of fallbacks is no number';
  const { compared, different } = window.mirrored;
  if (![compared, different].every(isCount) || different > compared)
    return 'the numbers of mirrored reads contradict each other';
  for (const side of ['blue', 'green', 'blueBefore'] as const) {
    if (!isSound(window[side])) return `the counts of ${side === 'green' ? 'green' : 'blue'} contradict each other`;
  }
  return undefined;
}

/** What keeps a sound window from passing: a part of the traffic that nobody has seen. It may fail all the same. */
export function unseenOf(window: GateWindow): string | undefined {
  if (window.unreachable.length === 0) return undefined;
  return `not all routers could be asked: ${window.unreachable.slice(0, 3).join('; ')}`;
}

/** Whether the counts of a side can be so. */
export function isSound({ requests, errors, latency }: SideWindow): boolean {
  const timed = latency.reduce((a, b) => a + b, 0);
  return [requests, errors, ...latency].every(isCount) && errors <= requests && timed === requests;
}

function isCount(n: number): boolean {
  return Number.isSafeInteger(n) && n >= 0;
}
