import { ApplicationFailure, patched } from '@temporalio/workflow';
import { undoingOfStandby } from './bootstrap/standby.js';
import { undoingOfFence } from './fence-green.js';
import { tracesSinceReset } from './kept-green.js';
import { actFastWithin } from './lib/activities.js';
import { applicationFailure, failureMessage } from './lib/failure.js';
import type { RunRef } from './lib/run-ref.js';
import type { Saga } from './lib/saga.js';
import type { Story } from './lib/story.js';
import { wasReset } from './lib/was-reset.js';
import { undoingOfMigrations } from './migrate.js';
import { replicationDropped, undoingOfClaim, undoingOfReplication } from './replicate.js';

/** Whether the run was reset to a point at which it had nothing to undo, or its claim alone. */
export function hasUnknownSteps({ run }: Story, saga: Saga): boolean {
  const knowsReplication = run.plan !== null && saga.has(replicationDropped(run.plan));
  return !knowsReplication && wasReset() && patched('a run that was reset undoes what it does not remember');
}

/**
 * A run that was reset to a point before it replicates does not know of anything that it has done, or of its claim alone. So
 * the databases are asked whose they are, and where they are its own its rollback undoes every step that it may have taken.
 */
export async function undoUnknownSteps(story: Story, input: unknown, saga: Saga): Promise<void> {
  const { run } = story;
  run.doing('asking the databases what the run had done before it was reset');
  let ref: RunRef;
  try {
    run.plan ??= (await actFastWithin('check the plan', '1 minute').lintPlan(input)).plan;
    ref = { plan: run.plan, runId: run.status.runId };
  } catch (error) {
    // Which databases these are is not known either.
    const failure = applicationFailure(error) ?? ApplicationFailure.nonRetryable(failureMessage(error));
    saga.push({ name: 'what was done before the reset', undo: () => Promise.reject(failure) });
    return;
  }
  if (!(await tracesSinceReset(story, ref)).isOwner) return;
  const claim = undoingOfClaim(story, ref);
  if (!saga.has(claim.name)) saga.push(claim);
  saga.push(undoingOfReplication(story, ref));
  if (ref.plan.bootstrap.method === 'standby') saga.push(undoingOfStandby(story, ref));
  saga.push(undoingOfMigrations(story, ref));
  saga.push(undoingOfFence(story, ref));
}
