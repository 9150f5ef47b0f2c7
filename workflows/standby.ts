import { CancellationScope, condition, isCancellation } from '@temporalio/workflow';
import { parseDuration } from '../src/plan/duration.js';
import { act } from './lib/activities.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';

/** Phase 7: blue follows green for the standby window, so that a rollback loses nothing. The feed is watched. */
export async function standby(story: Story, ref: RunRef): Promise<void> {
  const { run } = story;
  run.enter('standby');
  const ends = Date.now() + parseDuration(ref.plan.standby.for);
  run.waitFor({
    for: 'standby',
    why: `blue is kept current until ${new Date(ends).toISOString()}; \`retire\` ends it sooner`,
  });
  const watching = new CancellationScope();
  const watch = watching.run(() => watchFeed(story, ref));
  // Settled below; until then a failure of the watch must not count as unhandled.
  watch.catch(() => undefined);
  const window = condition(() => run.retireRequest !== null, Math.max(1, ends - Date.now()), {
    summary: `standby window of ${ref.plan.standby.for}`,
  });
  await Promise.race([window, watch]);
  watching.cancel();
  await watch.catch((error: unknown) => {
    if (!isCancellation(error)) throw error;
  });
  run.waitFor(null);

  if (run.retireRequest === null && ref.plan.traffic.approval.before.includes('retire')) {
    await story.approval('retire', 'approval before replication is taken down and the way back ends');
  }
}

/** Watches until it is cancelled. Each change of the feed's health is one return of the activity. */
async function watchFeed(story: Story, ref: RunRef): Promise<void> {
  const { run } = story;
  let known = 'healthy';
  for (;;) {
    const seen = await act('watch the feed to blue').watchStandby(ref, known);
    known = seen.health;
    run.saw({
      lagSeconds: seen.lagSeconds,
      rollback: seen.rollbackSafe
        ? { safe: true, why: 'blue follows green: writes can go back without a loss' }
        : { safe: false, why: seen.why },
    });
    if (seen.health !== 'healthy') run.warn([seen.why]);
  }
}
