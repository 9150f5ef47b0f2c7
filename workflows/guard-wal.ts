import { patched, sleep } from '@temporalio/workflow';
import type { FeedNews, FeedState } from '../activities/feed-watch.js';
import type { WalLevel } from '../activities/replicate.js';
import { tellsOfRefusedLogin } from '../src/refused-login.js';
import { act } from './lib/activities.js';
import { beside } from './lib/beside.js';
import { failureMessage, failureType, isCancelled } from './lib/failure.js';
import { restMs, spareHistory } from './lib/history-room.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';

/**
 * Does `work` while the WAL that blue keeps for green stays within the plan's limit. A green that is away for long would
 * fill the disk of the database that serves. So people are warned at half of the limit; close to it the heavy steps give
 * way, and green can use all it has to catch up; at the limit the run is given up. That green does not follow, or that a
 * side is away, is told long before: the run only waits for it, and nobody else would say so.
 */
export async function whileWalIsBounded(story: Story, ref: RunRef, work: () => Promise<void>): Promise<void> {
  try {
    await beside(() => guardWal(story, ref), work);
  } finally {
    story.yieldTo(null);
    story.run.allClear('WAL');
    // An alarm of the feed stays. After a promotion the watch of the standby window takes over what people know of the two
    // sides; in a rollback, which waits for the same ones, nobody has seen that they are back.
  }
}

/** Before a watch that has failed is begun again, ms. */
const AGAIN_MS = 300_000;

/** These say something of the WAL itself. */
const ENDS = ['RetainedWalExceeded', 'ReplicationBroken'];

/**
 * Each change of the level, or of the feed, is one return of the activity. Ends by failing only: where failures hold the run, one that says
 * nothing of the WAL is told, and the watch is begun again. So it is anywhere with a login that blue refuses.
 */
async function guardWal(story: Story, ref: RunRef): Promise<null> {
  let level: WalLevel | 'unwatched' = 'fine';
  let feed: FeedState = 'follows';
  for (;;) {
    try {
      const seen = await act('watch the WAL that blue keeps for green').watchRetainedWal(ref, level, feed);
      if ('feed' in seen) {
        feed = seen.feed;
        tellFeed(story.run, seen);
        await spareHistory(AGAIN_MS);
        continue;
      }
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

/** Once green has the writes, what is owed of the promotion, and then the watch of the standby window, tell of the sides. */
function tellFeed(run: MigrationRun, { feed, why }: FeedNews): void {
  if (feed === 'follows') run.allClear('feed');
  else if (run.status.writesOn === 'blue') run.alarm('feed', feed, why, NEXT_OF_FEED[feed]);
}

export const NAME_REPLICAS =
  'name the replicas there instead of *, as in FIRST 1 (replica1, replica2), and reload: ALTER SYSTEM SET synchronous_standby_names ..., then SELECT pg_reload_conf()';

const WAITS = 'the run waits for it and goes on by itself; until then blue keeps WAL for green';

const NEXT_OF_FEED: Readonly<Record<Exclude<FeedState, 'follows'>, string>> = {
  notFollowing: `see green's log: whether its server reaches blue, is let in, and can apply what comes; ${WAITS}`,
  greenAway: `bring green back, or have the worker reach it; ${WAITS}`,
  blueAway:
    'see whether the application reaches blue: bring it back, or have the worker reach it; the run goes on by itself then',
  synchronous: NAME_REPLICAS,
};

const NEXT = 'see what keeps green from following: pg_stat_subscription and its log';
