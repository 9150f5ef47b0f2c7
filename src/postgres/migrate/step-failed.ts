import { VerdigrisError } from '../../errors.js';
import { TRY_AGAIN, isConnectionLost, sqlState } from '../sqlstate.js';

/**
 * The error of a step that PostgreSQL refused. Only its first line is told: the details of a violation hold row values.
 */
export function stepFailed(what: string, cause: unknown, nextStep: string): VerdigrisError {
  if (cause instanceof VerdigrisError) return cause;
  return new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `${what}: ${messageOf(cause)}`,
    nextStep,
    retryable: isTransient(cause),
    cause,
  });
}

/** Whether the same statement can succeed without anybody changing anything. */
export function isTransient(error: unknown): boolean {
  return TRY_AGAIN.has(sqlState(error) ?? '') || isConnectionLost(error);
}

export function messageOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const state = sqlState(error);
  return state === undefined ? message : `${message} (${state})`;
}
