import { patched } from '@temporalio/workflow';
import { act } from './lib/activities.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { refuseShortTimeout } from './lib/temporal-timeout.js';
import { windowOpens } from './windows.js';

/**
 * Phase 1: the plan is linted again, and both databases are looked at. Nothing is touched: a run that ends here leaves
 * nothing behind.
 */
export async function preflight(story: Story, input: unknown): Promise<RunRef> {
  const { run } = story;
  run.enter('preflight');
  run.doing('checking the plan');
  const { plan, warnings } = await act('check the plan').lintPlan(input);
  run.plan = plan;
  run.warn(warnings);
  refuseShortTimeout(run, plan);
  const ref: RunRef = { plan, runId: run.status.runId };
  const found = await story.step('checking both databases', () => act('check both databases').preflight(ref));
  run.warn(found.warnings);
  return ref;
}

/** A wait for blue to be quiet that is longer than that is a wait: the look at its load takes some seconds itself. */
const LOOKED_AT_MS = 60_000;

/** Once both were looked at again: a blue that is quiet for moments only would have it done over and over, and never begin. */
const LOOKED_AGAIN_MS = 3_600_000;

/**
 * Waits until the copy may begin. After a wait both databases are looked at again: what has come meanwhile, such as a table
 * without a key, is found before anything is touched. That look may be paused or held, or wait itself, so the windows are
 * asked once more after it.
 */
export async function untilReplicationMayBegin(story: Story, ref: RunRef): Promise<void> {
  const { run } = story;
  for (let fresh = LOOKED_AT_MS; ; fresh = LOOKED_AGAIN_MS) {
    const { resumes } = run;
    const asked = Date.now();
    const waited = await windowOpens(story, ref, 'replicate');
    if (!waited && run.resumes === resumes && Date.now() - asked < fresh) return;
    if (!patched('both databases are looked at again after a wait')) return;
    const found = await story.step('checking both databases again', () =>
      act('check both databases again: the run has waited').preflight(ref, true),
    );
    run.warn(found.warnings);
  }
}
