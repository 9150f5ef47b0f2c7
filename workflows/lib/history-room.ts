import { patched, sleep, workflowInfo } from '@temporalio/workflow';
import type { MigrationRun } from './migration-run.js';

/*
 * Temporal terminates a run whose history is full, and nobody watches the databases from then on. The lint keeps plans away
 * from it; what nobody can foresee (DDL every few seconds, a lag that goes to and fro for weeks) is taken note of ever more
 * rarely as the history fills, and people are told long before it is full.
 */

/** The limits of a server as it comes. */
const MOST_EVENTS = 51_200;
const MOST_BYTES = 50 * 2 ** 20;

/** From so full a history on, so long nothing new is looked for, ms. An ordinary run never gets there. */
const RESTS: readonly (readonly [used: number, ms: number])[] = [
  [0.85, 6 * 3_600_000],
  [0.7, 3_600_000],
  [0.6, 300_000],
  [0.2, 60_000],
];

const ALARMS: readonly (readonly [used: number, state: string])[] = [
  [0.85, 'nearly full'],
  [0.7, 'filling'],
];

/** How much of what Temporal allows is used, 0 to 1. The same in a replay: each task of the workflow has it written down. */
function historyUsed(): number {
  const { historyLength, historySize } = workflowInfo();
  return Math.max(historyLength / MOST_EVENTS, historySize / MOST_BYTES);
}

/** A run that an earlier version has brought so far has not rested. */
function isSpared(used: number, from: number): boolean {
  return used >= from && patched('the history is spared');
}

/** How long nothing new is looked for now, ms; 0 while there is room. */
export function restMs(): number {
  const used = historyUsed();
  return RESTS.find(([from]) => isSpared(used, from))?.[1] ?? 0;
}

/**
 * For loops that may go round for weeks: waits while the history has little room.
 *
 * @param longestMs for what must not be left alone for longer
 */
export async function spareHistory(longestMs = Infinity): Promise<void> {
  const ms = Math.min(longestMs, restMs());
  if (ms > 0) await sleep(ms, { summary: 'the history has little room: look again later' });
}

/**
 * The pause before the next of tries that may go on for weeks: as it would be, and longer while the history has little room.
 *
 * @param longestMs for what must not be left alone for longer
 */
export function sparingMs(pauseMs: number, longestMs = Infinity): number {
  return Math.max(pauseMs, Math.min(longestMs, restMs()));
}

/** Tries of an activity, about half a minute of a side that does not answer: then what is in the way is told. */
export const TRIES_UNTIL_TOLD = 10;

/**
 * The tries of a round while nobody takes writes and people know. Where the history has little room, some minutes or more than an
 * hour: tries within an activity leave nothing in it, and are as close together.
 */
export function outageTries(): number {
  const rest = restMs();
  if (rest === 0) return TRIES_UNTIL_TOLD;
  return rest < 300_000 ? 100 : 1_000;
}

/** Raises an alarm long before the history is full, for each state once. Called after each change of the run. */
export function lookAtHistory(run: MigrationRun): void {
  const { outcome, alarms = [] } = run.status;
  const used = historyUsed();
  const state = ALARMS.find(([from]) => isSpared(used, from))?.[1];
  if (state === undefined || outcome !== 'running') return;
  if (alarms.some((one) => one.about === 'history' && one.state === state)) return;
  const { historyLength, historySize } = workflowInfo();
  const why = `the history of the run is ${state}: ${historyLength} events of ${MOST_EVENTS}, ${megabytes(historySize)} MB of ${megabytes(MOST_BYTES)}; Temporal terminates the run when it is full, and nobody watches the databases then`;
  run.alarm('history', state, why, 'bring the run to its end before that: go on, `retire`, or `rollback`');
}

function megabytes(bytes: number): number {
  return Math.round(bytes / 2 ** 20);
}
