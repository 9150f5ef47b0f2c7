import { patched, sleep } from '@temporalio/workflow';
import type { WalLevel } from '../activities/replicate.js';
import { tellsOfRefusedLogin } from '../src/refused-login.js';
import { act } from './lib/activities.js';
import { beside } from './lib/beside.js';
import { failureMessage, failureType, isCancelled } from './lib/failure.js';
import { restMs } from './lib/history-room.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';

/**
 * Does `work` while the WAL that blue keeps for green stays within the plan's limit. A green that is away for long would
 * fill the disk of the database that serves. So people are warned at half of the limit; close to it the heavy steps give
 * way, and green can use all it has to catch up; at the limit the run is given up.
 */
export async function whileWalIsBounded(story: Story, ref: RunRef, work: () => Promise<void>): Promise<void> {
  try {
    await beside(() => guardWal(story, ref), work);
  } finally {
    story.yieldTo(null);
    story.run.allClear('WAL');
  }
}

/** Before a watch that has failed is begun again, ms. */
const AGAIN_MS = 300_000;

/** These say something of the WAL itself. */
const ENDS = ['RetainedWalExceeded', 'ReplicationBroken'];

/**
 * Each change of the level is one return of the activity. Ends by failing only: where failures hold the run, one that says
 * nothing of the WAL is told, and the watch is begun again. So it is anywhere with a login that blue refuses.
 */
async function guardWal(story: Story, ref: RunRef): Promise<null> {
  let level: WalLevel | 'unwatched' = 'fine';
  for (;;) {
    try {
      const seen = await act('watch the WAL that blue keeps for green').watchRetainedWal(ref, level);
      level = seen.level;
      story.yieldTo(level === 'hold' ? seen.why : null);
      if (level === 'fine') story.run.allClear('WAL');
      else story.run.alarm('WAL', level, seen.why, NEXT);
    } catch (error) {
      const waits = tellsOfRefusedLogin(failureMessage(error)) && patched('a login that is refused ends no run');
      const mayHold = waits || story.holdsAfter(error);
      const ends = isCancelled(error) || ENDS.includes(failureType(error) ?? '') || !mayHold;
      if (ends || !patched('a WAL that can not be watched ends no run that failures hold')) throw error;
      level = 'unwatched';
      const why = `the WAL that blue keeps for green is not watched: ${failureMessage(error)}`;
      story.run.alarm('WAL', level, why, 'mend what it says: at the limit nobody would give the run up');
      await sleep(Math.max(AGAIN_MS, restMs()), { summary: 'watch the WAL that blue keeps again' });
    }
  }
}

const NEXT = 'see what keeps green from following: pg_stat_subscription and its log';
