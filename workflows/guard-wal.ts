import type { WalLevel } from '../activities/replicate.js';
import { act } from './lib/activities.js';
import { beside } from './lib/beside.js';
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

/** Each change of the level is one return of the activity. Ends by failing only. */
async function guardWal(story: Story, ref: RunRef): Promise<null> {
  let level: WalLevel = 'fine';
  for (;;) {
    const seen = await act('watch the WAL that blue keeps for green').watchRetainedWal(ref, level);
    level = seen.level;
    story.yieldTo(level === 'hold' ? seen.why : null);
    if (level === 'fine') story.run.allClear('WAL');
    else
      story.run.alarm('WAL', level, seen.why, 'see what keeps green from following: pg_stat_subscription and its log');
  }
}
