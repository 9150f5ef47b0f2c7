import { otherSide, type Side } from '../side.js';
import { answerWithin } from '../timing.js';
import { directionTo } from './feed.js';
import { StandsInTheWay } from './hold.js';
import { writeMarker } from './marker.js';
import type { Promotion } from './promotion.js';
import type { Sessions } from './promotion-sessions.js';
import { serverProcess, type Session } from './session.js';
import { standbyAwaited, WITHOUT_STANDBY } from './synchronous-standbys.js';

/** Nobody waits meanwhile, and it is far more than a disk that is at work takes. */
const COMMIT_WITHIN_MS = 5_000;

/**
 * Where a commit on a side waits for a synchronous standby that is gone, so would the one that decides, and the opening of the
 * new side: no limit of the server ends that. So each side is asked for one before the hold.
 *
 * @throws VerdigrisError PromotionBlocked, naming the setting
 */
export async function refuseUnansweredCommits(sessions: Sessions, { from }: Promotion): Promise<void> {
  await Promise.all([refuseUnanswered(sessions.aside, from), refuseUnanswered(sessions.to, otherSide(from))]);
}

async function refuseUnanswered(session: Session, side: Side): Promise<void> {
  const why = `a commit on ${side} was not answered within ${COMMIT_WITHIN_MS / 1_000} s`;
  const whom = async (): Promise<string> => {
    const standby = await standbyAwaited(session, `a.pid = ${serverProcess(session)}`, true);
    return standby === undefined ? '' : `It waits for ${standby}: bring that back, or on ${side}: ${WITHOUT_STANDBY}`;
  };
  // Any row would do. Nobody waits for this one, whose name is no marker's: where it goes on to the other side, it lies there.
  const written = writeMarker(session, directionTo(otherSide(side)), `commit ${serverProcess(session)}`);
  try {
    await answerWithin(COMMIT_WITHIN_MS, written, () => new StandsInTheWay(why, undefined, whom));
  } catch (error) {
    throw error instanceof StandsInTheWay ? await StandsInTheWay.explained(error) : error;
  }
}
