import { condition } from '@temporalio/workflow';
import { spareHistory } from './lib/history-room.js';
import type { MigrationRun } from './lib/migration-run.js';
import { answerWith } from './lib/story.js';

/** The waits between two looks, twice as long each time: what keeps a retirement may do so for days. */
export const FIRST_WAIT_MS = 5_000;
const LONGEST_WAIT_MS = 3_600_000;

export function nextWaitMs(waitMs: number): number {
  return Math.min(2 * waitMs, LONGEST_WAIT_MS);
}

/**
 * Tells what keeps the retirement, and waits until it is time to look again: at once on `resume`, and on a pause, which the
 * caller waits for.
 *
 * @param resumes how often the run had been resumed when that was looked at
 */
export async function untilNextLook(
  run: MigrationRun,
  why: string,
  { resumes, waitMs, summary }: { readonly resumes: number; readonly waitMs: number; readonly summary: string },
): Promise<void> {
  run.warn([why]);
  if (run.status.waiting?.why !== why) run.waitFor({ for: 'resume', why, answer: answerWith(run, 'resume') });
  await condition(() => run.paused || run.resumes > resumes, waitMs, { summary });
  await spareHistory();
}
