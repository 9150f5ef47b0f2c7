import { Context } from '@temporalio/activity';
import type { RunRef } from '../workflows/lib/run-ref.js';

/**
 * What a run numbers by its own memory, and names things outside of it by, comes a second time once its workflow was reset:
 * the reset takes back the memory alone, and the run keeps its id. So such a name has the id of its execution, too.
 *
 * @returns the run's own id; once it was reset, another one for each reset: the same for every worker and attempt
 */
export function executionId({ runId }: Pick<RunRef, 'runId'>): string {
  return Context.current().info.workflowExecution?.runId ?? runId;
}
