import { VerdigrisError } from '../errors.js';
import type { Session } from './session.js';

/** Whether a server is a standby. */
export async function isInRecovery(session: Session): Promise<boolean> {
  const { rows } = await session.query<{ standby: boolean }>('SELECT pg_is_in_recovery() AS standby');
  return rows[0]?.standby === true;
}

/**
 * A server in recovery has refused what only a primary does: for some seconds of a failover a name may lead to the primary
 * of a moment ago. Nothing of the statement was done, and the same over a later connection may succeed.
 */
export class TakesNoWrites extends VerdigrisError {
  /** SQLSTATE of what the server has said. */
  readonly code: string;

  /**
   * @param side blue or green
   * @param variable of the worker's environment that leads there
   */
  constructor(side: string, variable: string, code: string, cause?: unknown) {
    super({
      type: 'ConnectionFailed',
      message: `${side} is a standby at this moment: it takes no writes`,
      nextStep: `nothing while it fails over: it is tried again; if it stays so, have ${variable} lead to the primary where the worker runs`,
      retryable: true,
      cause,
    });
    this.code = code;
  }
}
