import {
  ActivityFailure,
  ApplicationFailure,
  CancelledFailure,
  isCancellation,
  rootCause,
  TimeoutFailure,
} from '@temporalio/workflow';

/** The failure that an activity ended with: its type and message are what people read. */
export function applicationFailure(error: unknown): ApplicationFailure | undefined {
  if (error instanceof ApplicationFailure) return error;
  if (error instanceof ActivityFailure && error.cause instanceof ApplicationFailure) return error.cause;
  return undefined;
}

export function failureType(error: unknown): string | undefined {
  return applicationFailure(error)?.type ?? undefined;
}

export function failureMessage(error: unknown): string {
  return applicationFailure(error)?.message ?? rootCause(error) ?? String(error);
}

/** Whether what an activity has failed by may pass by itself: it was given up, not refused. */
export function mayPass(error: unknown): boolean {
  return error instanceof ActivityFailure && error.retryState !== 'NON_RETRYABLE_FAILURE';
}

/** Whether an activity has ended without an answer: nobody knows what is in its way. */
export function isUnanswered(error: unknown): boolean {
  return error instanceof ActivityFailure && error.cause instanceof TimeoutFailure;
}

/**
 * Whether something ended because it was cancelled. An activity that is to stop may meet with something else on its way
 * out that would have been tried again (a connection that is lost, a worker that dies): the server then neither tries
 * again nor calls it cancelled. Taken for a failure of its own, a pause or the end of a stage would roll the run back.
 */
export function isCancelled(error: unknown): boolean {
  if (isCancellation(error)) return true;
  if (!(error instanceof ActivityFailure) || error.retryState !== 'CANCEL_REQUESTED') return false;
  return !(error.cause instanceof ApplicationFailure && error.cause.nonRetryable === true);
}

/** What an activity that was cancelled has said as its last word; undefined when it could not. Plain data. */
export function cancelledWith<T>(error: unknown): T | undefined {
  if (!(error instanceof ActivityFailure) || !(error.cause instanceof CancelledFailure)) return undefined;
  return error.cause.details?.[0] as T | undefined;
}
