import { formatDuration, parseDuration } from '../plan/duration.js';
import type { Environment } from './connections.js';

/*
 * How often an activity says that it lives. Cancels come with the answer, so a rollback, a pause or the end of a stage is
 * heard that much later; Temporal Cloud counts each heartbeat as an action. What may hold writes is not thinned out.
 */

const DEFAULT_MS = 500;
/** A third of the 15 s of the heartbeat timeout: one may be lost, and the next one late. */
const MOST_MS = 5_000;

/** Milliseconds. @throws Error when VERDIGRIS_HEARTBEAT is no such time. */
export function heartbeatInterval(environment: Environment): number {
  const text = environment['VERDIGRIS_HEARTBEAT'];
  if (text === undefined || text === '') return DEFAULT_MS;
  const ms = millisecondsOf(text);
  if (ms !== undefined && ms >= DEFAULT_MS && ms <= MOST_MS) return ms;
  const [from, to] = [formatDuration(DEFAULT_MS), formatDuration(MOST_MS)];
  throw new Error(
    `VERDIGRIS_HEARTBEAT is "${text}": write how often an activity says that it lives, ${from} to ${to}, such as 2s, or leave it out (${from})`,
  );
}

function millisecondsOf(text: string): number | undefined {
  try {
    return parseDuration(text);
  } catch {
    return undefined;
  }
}
