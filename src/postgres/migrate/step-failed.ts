import { VerdigrisError } from '../../errors.js';
import { LONGEST_QUOTED, shortened } from '../../failure-text.js';
import { TRY_AGAIN, isConnectionLost, isOutOfRoom, sqlState } from '../sqlstate.js';

/**
 * The error of a step that PostgreSQL refused. Its message alone is told: the details of a violation hold row values.
 */
export function stepFailed(what: string, cause: unknown, nextStep: string): VerdigrisError {
  if (cause instanceof VerdigrisError) return cause;
  return new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `${what}: ${messageOf(cause)}`,
    nextStep: isOutOfRoom(cause) ? GIVE_ROOM : nextStep,
    retryable: isTransient(cause),
    cause,
  });
}

/** Whether the same statement can succeed without anybody changing it: by itself, or when there is room again. */
export function isTransient(error: unknown): boolean {
  return TRY_AGAIN.has(sqlState(error) ?? '') || isConnectionLost(error) || isOutOfRoom(error);
}

/** The next step of whatever ran out of something: nothing of the object is wrong. */
export const GIVE_ROOM = 'give green more of what it has run out of (see its message); the run tries again by itself';

/** An error that passes, as it is told: whoever must make room is told so, the others say enough themselves. */
export function passing(what: string, error: unknown): unknown {
  return isOutOfRoom(error) ? stepFailed(what, error, GIVE_ROOM) : error;
}

/** What PostgreSQL said, as long as there is room for it, with its state. */
export function messageOf(error: unknown): string {
  const message = shortened(error instanceof Error ? error.message : String(error), LONGEST_QUOTED);
  const state = sqlState(error);
  return state === undefined ? message : `${message} (${state})`;
}
