import { randomUUID } from 'node:crypto';
import type { WorkflowHandle } from '@temporalio/client';
import { temporal } from '@temporalio/proto';
import type Long from 'long';

/** Has the run go on from before an activity was first asked for, and forget what came after, messages included. */
export async function resetBefore(handle: WorkflowHandle, activity: string): Promise<void> {
  const { events } = await handle.fetchHistory();
  let task: Long | null | undefined;
  for (const event of events ?? []) {
    if (event.workflowTaskCompletedEventAttributes) task = event.eventId;
    if (event.activityTaskScheduledEventAttributes?.activityType?.name === activity) break;
  }
  const { runId } = await handle.describe();
  await handle.client.workflowService.resetWorkflowExecution({
    namespace: handle.client.options.namespace,
    workflowExecution: { workflowId: handle.workflowId, runId },
    reason: 'the test resets it',
    workflowTaskFinishEventId: task ?? null,
    resetReapplyType: temporal.api.enums.v1.ResetReapplyType.RESET_REAPPLY_TYPE_NONE,
    requestId: randomUUID(),
  });
}
