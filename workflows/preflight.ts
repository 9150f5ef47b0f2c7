import { act } from './lib/activities.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { refuseShortTimeout } from './lib/temporal-timeout.js';

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
