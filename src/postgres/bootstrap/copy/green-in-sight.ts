import { VerdigrisError } from '../../../errors.js';
import { messageOf } from '../../migrate/step-failed.js';
import { closeSession, type Session } from '../../session.js';
import { isConnectionLost, isOutOfRoom } from '../../sqlstate.js';

/**
 * Green as the holder of the snapshots looks at it. The snapshots are blue's: a green that restarts, as after a full disk
 * of its WAL, or is out of reach takes nothing of them, so it is asked again in another session when it is back.
 */
export class GreenInSight {
  private session: Session | undefined;

  /**
   * @param session the first one; whoever has opened it closes it
   * @param open opens another one after that, which the caller closes, too
   * @param onAway told why green can't be asked, each time
   */
  constructor(
    session: Session,
    private readonly open: () => Promise<Session>,
    private readonly onAway: (why: string) => void,
  ) {
    this.session = session;
  }

  /** @returns undefined while green is away; any other error is thrown. */
  async ask<Answer>(question: (session: Session) => Promise<Answer>): Promise<Answer | undefined> {
    try {
      this.session ??= await this.open();
      return await question(this.session);
    } catch (error) {
      if (!isAway(error)) throw error;
      if (this.session !== undefined) await closeSession(this.session);
      this.session = undefined;
      this.onAway(messageOf(error));
      return undefined;
    }
  }
}

function isAway(error: unknown): boolean {
  if (error instanceof VerdigrisError) return error.type === 'ConnectionFailed' && error.retryable;
  return isConnectionLost(error) || isOutOfRoom(error);
}
