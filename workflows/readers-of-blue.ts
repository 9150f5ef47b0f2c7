import { patched } from '@temporalio/workflow';
import { firstLine } from '../src/failure-text.js';
import { actFastUpTo } from './lib/activities.js';
import { failureMessage, isCancelled } from './lib/failure.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';

/** So often blue is asked: one that is away for good keeps the retirement for less than a minute, also where it is frozen. */
const TRIES = 2;

/** At most so many are named: a question stays readable. */
const NAMED = 8;

/**
 * Looks who else reads blue by replication. After the retirement they stay connected and get nothing more, so whoever
 * approves it is told before; it never keeps the retirement from being asked for.
 */
export async function nameReadersOfBlue(story: Story, ref: RunRef): Promise<void> {
  if (!patched('who else reads blue is named before the retirement')) return;
  await story.untilNotPaused();
  story.run.readersOfBlue = await linesOf(ref);
}

async function linesOf(ref: RunRef): Promise<string[]> {
  try {
    const readers = await actFastUpTo('who else reads blue?', TRIES).otherReaders(ref);
    if (readers.length === 0) return [];
    const more = readers.length > NAMED ? ` and ${readers.length - NAMED} more` : '';
    const at = new Date(Date.now()).toISOString();
    return [
      `readers of blue: ${readers.slice(0, NAMED).join(', ')}${more}; they get nothing more from the retirement on, and see no error: lead them to green before (${at})`,
    ];
  } catch (error) {
    if (isCancelled(error)) throw error;
    return [
      `readers of blue: whether anybody else reads it by replication is not known (${firstLine(failureMessage(error))})`,
    ];
  }
}
