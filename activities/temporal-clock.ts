import { Context } from '@temporalio/activity';
import type { Request } from '../src/postgres/ended-tries.js';
import type { NotAfter } from '../src/postgres/promotion.js';

const BEGUN = new WeakMap<Context, number>();

/** The first thing of each attempt: Temporal says of it only when it has begun. */
export function attemptBegins(): void {
  const context = Context.current();
  if (!BEGUN.has(context)) BEGUN.set(context, performance.now());
}

/**
 * Temporal's clock: the one by which workflows know the time. This machine's may be hours off, so what a workflow has
 * said about times is never compared with it. Temporal tells when it gave this attempt to the worker; from then on a
 * clock goes that nobody sets.
 *
 * @returns ms since 1970, whenever it is called; behind Temporal's by the time that this attempt took to arrive
 * @throws Error when Temporal does not answer: a matter for the next attempt
 */
export async function temporalClock(): Promise<() => number> {
  const context = Context.current();
  const { info, client } = context;
  const { workflowExecution, activityId } = info;
  // Much may have been waited for since.
  const begun = BEGUN.get(context) ?? performance.now();
  if (workflowExecution === undefined) return () => Date.now();
  const { workflowId, runId } = workflowExecution;
  const { raw } = await client.workflow.getHandle(workflowId, runId).describe();
  const mine = raw.pendingActivities?.find((pending) => pending.activityId === activityId);
  const started = mine?.lastStartedTime;
  if (started === undefined || started === null)
    throw new Error('Temporal does not know that this attempt has begun: it is tried again');
  const startedAt = Number(started.seconds) * 1_000 + (started.nanos ?? 0) / 1e6;
  return () => startedAt + performance.now() - begun;
}

/** A moment by Temporal's clock, ISO 8601, as this machine can tell whether it is over. */
export async function onThisMachine(told: string): Promise<NotAfter> {
  const now = await temporalClock();
  return { told, at: performance.now() + Date.parse(told) - now() };
}

/** How long ago the activity was asked for, all its attempts included, ms: between two of them by Temporal's clock alone. */
export function clockOfActivity(): () => number {
  const { scheduledTimestampMs, currentAttemptScheduledTimestampMs } = Context.current().info;
  const begun = performance.now();
  return () => currentAttemptScheduledTimestampMs - scheduledTimestampMs + performance.now() - begun;
}

/** When the run asked for this activity: the same in every attempt of it, and known without asking anybody. */
export function requestOfActivity(): Request {
  const { workflowExecution, activityId, scheduledTimestampMs } = Context.current().info;
  return { workflowRun: workflowExecution?.runId ?? '', activity: Number(activityId), at: scheduledTimestampMs };
}
