import { patched, sleep } from '@temporalio/workflow';
import type { Stage } from '../src/plan/schema.js';
import { actFast } from './lib/activities.js';
import { failureType } from './lib/failure.js';
import { sparingMs } from './lib/history-room.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { finishLateDecision } from './move-writes.js';
import { watched } from './shift-traffic.js';

/** The longest time between two tries to let clients of poolers go on, ms, while the history has room. */
const POOLERS_AGAIN_MS = 300_000;
/** And when it has little: nobody is to wait for longer behind a pooler that is back. */
const POOLERS_AT_LAST_MS = 3_600_000;

/**
 * The next promotion may wait for an approval for days: their clients go on as soon as that can be, and gates are watched. What a
 * worker that is cut off has decided by then is finished: the run is promoted.
 */
export async function untilPoolersGoOn(story: Story, ref: RunRef, lastStage: Stage | null): Promise<void> {
  const { run } = story;
  let decided: unknown;
  const letGo = async (): Promise<void> => {
    for (let pauseMs = 5_000; ; pauseMs = Math.min(pauseMs * 2, POOLERS_AGAIN_MS)) {
      let left: string | null;
      try {
        left = await actFast('let clients of the poolers go on').withdrawPromotion(ref, true, true);
      } catch (error) {
        if (failureType(error) !== 'WritesOnGreen') throw error;
        decided = error;
        return;
      }
      if (typeof left !== 'string') return;
      if (run.status.waiting?.why !== left) run.waitFor({ for: 'retry', why: left });
      // Only what goes on for long fills the history: the first tries come soon whatever it has room for.
      const isLong = pauseMs === POOLERS_AGAIN_MS;
      await sleep(isLong ? sparingMs(pauseMs, POOLERS_AT_LAST_MS) : pauseMs, { summary: 'poolers: try again' });
    }
  };
  while (!(await watched(story, ref, lastStage, letGo))) continue;
  run.waitFor(null);
  if (decided !== undefined) await finishLateDecision(run, ref, decided, { isOver: () => story.isAbandoned });
}

/**
 * A pause, or DDL, has ended the tries. Their worker may have died in its hold, and the next try comes with the resume:
 * until then nobody else would let the clients of the poolers go on.
 */
export async function afterInterruption(story: Story, ref: RunRef, lastStage: Stage | null): Promise<void> {
  if (!patched('clients of poolers go on when the tries of a promotion are interrupted')) return;
  story.run.waitFor({ for: 'retry', why: 'ending the tries of the promotion, so that clients of poolers go on' });
  await untilPoolersGoOn(story, ref, lastStage);
}
