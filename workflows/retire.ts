import { CancellationScope, patched } from '@temporalio/workflow';
import { act } from './lib/activities.js';
import { failureMessage, failureType } from './lib/failure.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';

/** Phase 8: replication and triggers are removed, blue is left fenced and intact. From here there is no way back. */
export async function retire(story: Story, ref: RunRef): Promise<void> {
  const { run } = story;
  // A rollback that came while the watch of the standby window was ending has been accepted: it wins.
  story.proceed();
  run.enter('retire');
  run.retiring = true;
  run.saw({ rollback: { safe: false, why: 'replication is being taken down' } });
  // Half a retirement helps nobody: it is tried until it is done.
  await CancellationScope.nonCancellable(async () => {
    for (;;) {
      try {
        // An earlier version's activity says nothing.
        run.leftOnBlue = (await act('remove replication, leave blue fenced').retire(ref, run.epoch)) ?? null;
        return;
      } catch (error) {
        if (failureType(error) === 'WritesOnBlue' && patched('a retirement ends where blue has the writes')) {
          // The workflow was reset to a point before a rollback: what that has left is undone.
          run.retiring = false;
          throw error;
        }
        // Green serves and blue is closed: nothing is moved because tidying up failed.
        await story.hold(`the retirement could not be finished: ${failureMessage(error)}`);
      }
    }
  });
  if (run.leftOnBlue !== null) run.warn([run.leftOnBlue]);
  run.saw({ rollback: { safe: false, why: 'the run is over: blue is no longer kept current' }, lagSeconds: null });
}
