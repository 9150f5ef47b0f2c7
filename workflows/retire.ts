import { CancellationScope } from '@temporalio/workflow';
import { act } from './lib/activities.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';

/** Phase 8: replication and triggers are removed, blue is left fenced and intact. From here there is no way back. */
export async function retire(story: Story, ref: RunRef): Promise<void> {
  const { run } = story;
  await story.untilNotPaused();
  run.enter('retire');
  run.retiring = true;
  run.saw({ rollback: { safe: false, why: 'replication is being taken down' } });
  // Half a retirement helps nobody: it is tried until it is done.
  await CancellationScope.nonCancellable(() => act('remove replication, leave blue fenced').retire(ref));
  run.saw({ rollback: { safe: false, why: 'the run is over: blue is no longer kept current' }, lagSeconds: null });
}
