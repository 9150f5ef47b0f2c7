import {
  ActivityFailure,
  ApplicationFailure,
  CancelledFailure,
  isCancellation,
  rootCause,
  TimeoutFailure,
} from '@temporalio/workflow';
import { NEXT_STEP } from '../../src/failure-text.js';

/** The failure that an activity ended with: its type and message are what people read. */
export function applicationFailure(error: unknown): ApplicationFailure | undefined {
  if (error instanceof ApplicationFailure) return error;
  if (error instanceof ActivityFailure && error.cause instanceof ApplicationFailure) return error.cause;
  return undefined;
}

export function failureType(error: unknown): string | undefined {
  return applicationFailure(error)?.type ?? undefined;
}

/** Facts for machines that it carries, as whoever made it has put them there. Plain data. */
export function failureDetails<T>(error: unknown): T | undefined {
  return applicationFailure(error)?.details?.[0] as T | undefined;
}

export function failureMessage(error: unknown): string {
  return applicationFailure(error)?.message ?? rootCause(error) ?? String(error);
}

/** How much of a failure's message the status keeps, characters: its details are to stay readable. */
const SHOWN = 4_000;

/** What of a failure's message is shown with the status: its findings, as many as there is room for, and the next step. */
export function shownFailure(message: string): string {
  if (message.length <= SHOWN) return message;
  const at = message.lastIndexOf(NEXT_STEP);
  const nextStep = at < 0 ? '' : message.slice(at).slice(0, SHOWN / 4);
  const lines = message.slice(0, at < 0 ? undefined : at).split('\n');
  const shown: string[] = [];
  let room = SHOWN - nextStep.length;
  for (const line of lines) {
    room -= line.length + 1;
    if (room < 0) break;
    shown.push(line);
  }
  // A single line that is longer than all of it.
  if (shown.length === 0) return `${message.slice(0, SHOWN - nextStep.length)} ...${nextStep}`;
  return `${shown.join('\n')}\n... and ${lines.length - shown.length} more lines, in the failure of the workflow${nextStep}`;
}

/** A failure in one line: where its message is a list, the first of it. */
export function oneLine(message: string): string {
  const [head = '', ...rest] = message.split('\n');
  if (!head.endsWith(':')) return head;
  const found = rest.filter((line) => !line.startsWith(' ') && !line.startsWith('Next step: '));
  const more = found.length > 1 ? ` (and ${found.length - 1} more)` : '';
  return `${head} ${found[0]?.replace(/^- /, '') ?? ''}${more}`;
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
  // Where it was between two attempts, Temporal says a word of its own.
  const [told] = error.cause.details ?? [];
  return typeof told === 'object' && told !== null ? (told as T) : undefined;
}
