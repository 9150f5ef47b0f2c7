import { CancellationScope, patched } from '@temporalio/workflow';
import type { RetirementRefused } from '../activities/retire.js';
import { act } from './lib/activities.js';
import { beside } from './lib/beside.js';
import { failureDetails, failureMessage, failureType } from './lib/failure.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { untilItMayRetire, watchOfWindow } from './standby.js';

/**
 * Phase 8: replication and triggers are removed, blue is left fenced and intact. From the first thing that is taken down on
 * there is no way back.
 */
export async function retire(story: Story, ref: RunRef): Promise<void> {
  const { run } = story;
  // A rollback that came while the watch of the standby window was ending has been accepted: it wins.
  story.proceed();
  run.enter('retire');
  // Half a retirement helps nobody: it is tried until it is done.
  for (let why = await takenDown(story, ref); why !== null; why = await takenDown(story, ref)) {
    await heldUntouched(story, ref, why);
  }
  if (run.leftOnBlue !== null) run.warn([run.leftOnBlue]);
  run.saw({ rollback: { safe: false, why: 'the run is over: blue is no longer kept current' }, lagSeconds: null });
}

/** @returns why it could not begin, where nothing has been taken down; null when it is done */
async function takenDown(story: Story, ref: RunRef): Promise<string | null> {
  const { run } = story;
  const { rollback } = run.status;
  run.retiring = true;
  run.saw({ rollback: { safe: false, why: 'replication is being taken down' } });
  return CancellationScope.nonCancellable(async () => {
    for (;;) {
      try {
        // An earlier version's activity says nothing.
        run.leftOnBlue = (await act('remove replication, leave blue fenced').retire(ref, run.epoch)) ?? null;
        return null;
      } catch (error) {
        if (failureType(error) === 'WritesOnBlue' && patched('a retirement ends where blue has the writes')) {
          // The workflow was reset to a point before a rollback: what that has left is undone.
          run.retiring = false;
          throw error;
        }
        if (isUntouched(error)) {
          run.retiring = false;
          run.saw({ rollback });
          return `the retirement could not begin: ${failureMessage(error)}`;
        }
        // Green serves and blue is closed: nothing is moved because tidying up failed.
        await story.hold(`the retirement could not be finished: ${failureMessage(error)}`);
      }
    }
  });
}

function isUntouched(error: unknown): boolean {
  if (failureDetails<RetirementRefused>(error)?.untouched !== true) return false;
  return patched('a retirement that has taken nothing down may be rolled back');
}

/** Blue may have rows that a green which was replaced has lost: until somebody resumes, the way back is open and watched. */
async function heldUntouched(story: Story, ref: RunRef, why: string): Promise<void> {
  const watch = watchOfWindow(story, ref);
  await beside(watch, () => story.hold(why));
  await untilItMayRetire(story, ref, watch);
}
