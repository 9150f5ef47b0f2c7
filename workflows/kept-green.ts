import { patched } from '@temporalio/workflow';
import type { RunTraces } from '../src/postgres/run-traces.js';
import { actFastWithin } from './lib/activities.js';
import { failureMessage } from './lib/failure.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { wasReset } from './lib/was-reset.js';

/**
 * Green's tables are kept when it has been primary and the plan says so: they may hold values that blue can't. Always
 * when a rollback has lost something, which is nowhere else.
 */
export function keepsGreen(story: Story): { keepGreen: boolean } {
  return { keepGreen: story.run.replicationLeft || isKept(story) };
}

/** Whether green is kept as it is, closed, since it has had the writes. */
export function isKept({ run }: Story): boolean {
  if (run.greenMayHaveMore === true) return true;
  return run.wasPromoted && (run.plan?.green.afterRollback === 'keep' || run.lost !== null);
}

/**
 * Begins an undoing when it is known whether green is kept. A run that was reset to a point before a rollback does not
 * remember what that one has lost, so green is asked. In any other run not even a turn of the event loop is added.
 */
export function onceGreenIsKnown(story: Story, ref: RunRef, undo: () => Promise<void>): Promise<void> {
  const { run } = story;
  const mustAsk = run.greenMayHaveMore === null && !run.hasMovedBack && wasReset() && patched(ASKED);
  return mustAsk ? tracesSinceReset(story, ref).then(undo) : undo();
}

const ASKED = 'green is asked before it is dropped since a reset';

/** Then the undoing begins without the answer. */
const ANSWERED_WITHIN = '1 minute';

/** What the databases know of a run that was reset; where they do not answer, what it may have done. */
export async function tracesSinceReset({ run }: Story, ref: RunRef): Promise<RunTraces> {
  const traces = await askDatabases(ref).catch((error: unknown) => {
    run.warn([`the databases do not say what the run had done before it was reset: ${failureMessage(error)}`]);
    return { isOwner: true, isBack: true };
  });
  run.greenMayHaveMore = traces.isBack;
  if (traces.isBack) {
    run.warn([
      'writes may have been on green before the workflow was reset: green is kept, fenced, since it may have rows that are nowhere else',
    ]);
  }
  return traces;
}

function askDatabases(ref: RunRef): Promise<RunTraces> {
  return actFastWithin('what had the run done before it was reset?', ANSWERED_WITHIN).tracesOfRun(ref);
}
