import { randomUUID } from 'node:crypto';
import type { WorkflowHandle } from '@temporalio/client';
import { temporal } from '@temporalio/proto';
import type Long from 'long';

/**
 * Has the run go on from before an activity was asked for, and forget what came after, messages included.
 *
 * @param nth which one of that name. Default: the first
 */
export async function resetBefore(handle: WorkflowHandle, activity: string, nth = 1): Promise<void> {
  const { events } = await handle.fetchHistory();
  let task: Long | null | undefined;
  let asked = 0;
  for (const event of events ?? []) {
    if (event.workflowTaskCompletedEventAttributes) task = event.eventId;
    if (event.activityTaskScheduledEventAttributes?.activityType?.name === activity && ++asked === nth) break;
  }
  if (asked < nth) throw new Error(`${activity} was asked for ${asked} times`);
  await reset(handle, task);
}

/** The same from before the run heard a signal: what it has asked for by then is asked for again. */
export async function resetBeforeSignal(handle: WorkflowHandle, signal: string): Promise<void> {
  const { events = [] } = await handle.fetchHistory();
  const heard = events?.findIndex((event) => event.workflowExecutionSignaledEventAttributes?.signalName === signal);
  const task = events?.slice(heard).find((event) => event.workflowTaskCompletedEventAttributes);
  await reset(handle, task?.eventId);
}

async function reset(handle: WorkflowHandle, task: Long | null | undefined): Promise<void> {
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
