import { CancellationScope, patched } from '@temporalio/workflow';
import type { RetirementRefused } from '../activities/retirement-looks.js';
import { firstLine } from '../src/failure-text.js';
import { actFastUpTo, actUpTo } from './lib/activities.js';
import { beside } from './lib/beside.js';
import { failureDetails, failureMessage, failureType, isCancelled, mayPass } from './lib/failure.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { FIRST_WAIT_MS, nextWaitMs, untilNextLook } from './retirement-waits.js';
import { isKeptByPeople, untilItMayRetire, watchOfWindow } from './standby.js';

/** Runs that an earlier version has brought here looked in the activity alone that takes things down, and without end. */
const LOOKED_AT = 'a retirement is looked at before it begins';

/** Nobody watches the way back during the first look: a side that does not answer is told after some seconds. */
const TRIES_OF_A_LOOK = 5;

/** Tries of the retirement until it is told that it does not succeed; more each time, so that they don't fill the history. */
const FIRST_TRIES = 4;
/** About an hour. */
const MOST_TRIES = 180;

/**
 * Phase 8: replication and triggers are removed, blue is left fenced and intact. From the first thing that is taken down on
 * there is no way back.
 */
export async function retire(story: Story, ref: RunRef): Promise<void> {
  const { run } = story;
  // A rollback that came while the watch of the standby window was ending has been accepted: it wins.
  story.proceed();
  run.enter('retire');
  // Half a retirement helps nobody: once begun, it is tried until it is done.
  for (let kept = await keptOrDone(story, ref); kept !== null; kept = await keptOrDone(story, ref)) {
    await heldUntouched(story, ref, kept);
  }
  if (run.leftOnBlue !== null) run.warn([run.leftOnBlue]);
  run.saw({ rollback: { safe: false, why: 'the run is over: blue is no longer kept current' }, lagSeconds: null });
}

/** What keeps a retirement that has taken nothing down. */
interface Kept {
  readonly why: string;
  /** Whether it may be over without anybody doing something. */
  readonly mayPass: boolean;
}

/** @returns why it could not begin, where nothing has been taken down; null when it is done */
async function keptOrDone(story: Story, ref: RunRef): Promise<Kept | null> {
  if (!patched(LOOKED_AT)) return takenDown(story, ref);
  let kept = await whatKeepsIt(story, ref);
  // A pause may have come, or an approval may have ended, while it was looked.
  while (kept === null && isKeptByPeople(story)) {
    await untilItMayRetire(story, ref, watchOfWindow(story, ref));
    kept = await whatKeepsIt(story, ref);
  }
  if (kept !== null) return kept;
  // A rollback that came with the answer of the look has been accepted as well.
  story.proceed();
  return takenDown(story, ref);
}

/** Looks, and takes nothing down: a side that is away, or a HAProxy that leads to blue, leaves the way back as it is. */
async function whatKeepsIt({ run }: Story, ref: RunRef): Promise<Kept | null> {
  try {
    await actFastUpTo('may replication be taken down?', TRIES_OF_A_LOOK).mayRetire(ref, run.epoch);
    return null;
  } catch (error) {
    // With the writes on blue the workflow was reset to a point before a rollback, which is undone.
    if (isCancelled(error) || failureType(error) === 'WritesOnBlue') throw error;
    return { why: `the retirement waits: ${failureMessage(error)}`, mayPass: mayPass(error) };
  }
}

/** @returns why it could not begin, where nothing has been taken down; null when it is done */
async function takenDown(story: Story, ref: RunRef): Promise<Kept | null> {
  const { run } = story;
  const { rollback } = run.status;
  run.retiring = true;
  run.saw({ rollback: { safe: false, why: 'replication is being taken down' } });
  return CancellationScope.nonCancellable(async () => {
    for (let tries = FIRST_TRIES; ; tries = Math.min(2 * tries, MOST_TRIES)) {
      try {
        // An earlier version's activity says nothing.
        run.leftOnBlue = (await actUpTo('remove replication, leave blue fenced', tries).retire(ref, run.epoch)) ?? null;
        run.waitFor(null);
        run.allClear('retirement');
        return null;
      } catch (error) {
        if (failureType(error) === 'WritesOnBlue' && patched('a retirement ends where blue has the writes')) {
          // The workflow was reset to a point before a rollback: what that has left is undone.
          run.retiring = false;
          throw error;
        }
        if (isUntouched(error)) {
          run.retiring = false;
          run.waitFor(null);
          run.allClear('retirement');
          run.saw({ rollback });
          return { why: `the retirement could not begin: ${failureMessage(error)}`, mayPass: false };
        }
        if (mayPass(error) && patched('a retirement that fails again and again is told')) {
          tellUnfinished(run, error);
          continue;
        }
        // Green serves and blue is closed: nothing is moved because tidying up failed.
        await story.hold(`the retirement could not be finished: ${failureMessage(error)}`);
      }
    }
  });
}

/** Whether something has been taken down is not known to somebody who does not reach the sides: it counts as begun. */
function tellUnfinished(run: MigrationRun, error: unknown): void {
  const why = `the retirement has begun and is not finished, and it is tried again: ${firstLine(failureMessage(error))}`;
  const next = 'bring back, or mend, what it names: until then replication may be half taken down, with no way back';
  run.alarm('retirement', 'unfinished', why, next);
  if (run.status.waiting?.why !== why) run.waitFor({ for: 'retry', why });
}

function isUntouched(error: unknown): boolean {
  if (failureDetails<RetirementRefused>(error)?.untouched !== true) return false;
  return patched('a retirement that has taken nothing down may be rolled back');
}

/** Blue may have rows that a green which was replaced has lost: until nothing keeps it, the way back is open and watched. */
async function heldUntouched(story: Story, ref: RunRef, kept: Kept): Promise<void> {
  const watch = watchOfWindow(story, ref);
  await beside(watch, () => untilNothingKeepsIt(story, ref, kept));
  await untilItMayRetire(story, ref, watch);
}

/** What may pass is looked at again and again; for the rest somebody has to say that it has been mended. */
async function untilNothingKeepsIt(story: Story, ref: RunRef, first: Kept): Promise<void> {
  const { run } = story;
  let { resumes } = run;
  let kept: Kept | null = first;
  for (let waitMs = FIRST_WAIT_MS; kept !== null; waitMs = nextWaitMs(waitMs)) {
    if (kept.mayPass) {
      await untilNextLook(run, kept.why, { resumes, waitMs, summary: 'may replication be taken down? Look again' });
    } else await story.hold(kept.why);
    if (!patched(LOOKED_AT)) return;
    await story.untilNotPaused();
    ({ resumes } = run);
    kept = await whatKeepsIt(story, ref);
  }
  run.waitFor(null);
}
