import { patched, workflowInfo } from '@temporalio/workflow';

/**
 * Whether this execution goes on from an earlier one of its run, by `temporal workflow reset`. What the run has done since
 * is not in its memory then, while the databases, and whoever was told of it, know it.
 *
 * The marker says it in a replay: what is replayed was done before the reset, or says so itself, and a history that is
 * replayed from a file does not tell the id of its own execution.
 */
export function wasReset(): boolean {
  const { runId, firstExecutionRunId, unsafe } = workflowInfo();
  return (
    (unsafe.isReplaying || runId !== firstExecutionRunId) && patched('a run that was reset calls its webhooks anew')
  );
}
