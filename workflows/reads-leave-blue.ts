import { patched } from '@temporalio/workflow';
import { actOpening } from './lib/activities.js';
import { failureMessage, failureType, isCancelled } from './lib/failure.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { whileNotPaused } from './lib/while-not-paused.js';
import { FIRST_WAIT_MS, nextWaitMs, untilNextLook } from './retirement-waits.js';

/**
 * Returns when nobody reads on blue through a HAProxy, nor would after a restart: retired, blue would answer with ever
 * older rows. What keeps reads there is told, and looked at again, at once on `resume`. Called while the feed is watched,
 * and writes can still go back.
 */
export async function untilReadsHaveLeftBlue(story: Story, ref: RunRef): Promise<void> {
  if (ref.plan.traffic.haproxy === undefined) return;
  if (!patched('reads leave blue while the standby window is watched')) return;
  const { run } = story;
  for (let waitMs = FIRST_WAIT_MS; ; waitMs = nextWaitMs(waitMs)) {
    await story.untilNotPaused();
    const { resumes } = run;
    const left = await whyReadsAreOnBlue(story, ref);
    if (left === null) break;
    await untilNextLook(run, `the retirement waits: ${left}`, {
      resumes,
      waitMs,
      summary: 'do reads still go to blue? Look again',
    });
  }
  run.waitFor(null);
}

async function whyReadsAreOnBlue({ run }: Story, ref: RunRef): Promise<string | null> {
  try {
    await whileNotPaused(run, () => actOpening('do reads still go to blue?').readsHaveLeftBlue(ref, run.epoch));
    return null;
  } catch (error) {
    // With the writes on blue reads are right there: the workflow was reset to a point before a rollback, which is undone.
    if (isCancelled(error) || isOver(error)) throw error;
    return failureMessage(error);
  }
}

function isOver(error: unknown): boolean {
  return failureType(error) === 'WritesOnBlue' && patched('no reads leave a blue that has the writes');
}
