import { CancellationScope, isCancellation } from '@temporalio/workflow';
import { act } from './lib/activities.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';

/**
 * Does `work` while the WAL that blue keeps for green stays within the plan's limit. A green that is away for long would
 * fill the disk of the database that serves: before that, the run is given up.
 */
export async function whileWalIsBounded(story: Story, ref: RunRef, work: () => Promise<void>): Promise<void> {
  const working = new CancellationScope();
  const guarding = new CancellationScope();
  const guard = guarding
    .run(() => act('watch the WAL that blue keeps for green').watchRetainedWal(ref))
    .then(
      () => null,
      (error: unknown) => {
        if (isCancellation(error)) return null;
        working.cancel();
        return error;
      },
    );
  let ended: unknown = null;
  try {
    await working.run(work);
  } catch (error) {
    ended = error;
  }
  guarding.cancel();
  const exceeded = await guard;
  if (ended === null) return;
  throw exceeded !== null && isCancellation(ended) && !story.isAbandoned ? exceeded : ended;
}
