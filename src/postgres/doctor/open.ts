import { answerWithin } from '../../timing.js';
import { openButWaiting } from '../open-but-waiting.js';
import { readDecision } from '../promotion-decision.js';
import { withSession, type Databases, type Session } from '../session.js';
import { sqlState, STALE_EPOCH } from '../sqlstate.js';
import { notifyRouters } from '../state.js';
import { DOCTOR } from './inventory.js';
import type { Unopened } from './who-is-primary.js';

/**
 * Finishes what is half done: opens the side that has been given the writes, for exactly the epoch of the decision. A
 * side that is closed without a decision is opened under the promotion's lock, where it can't be mistaken for a COMMIT
 * on its way. Safe beside a worker that does the same, and to run again: whoever comes second changes nothing.
 *
 * @throws the database's error with SQLSTATE VDEPO when the route has moved on meanwhile; VerdigrisError NotOpened where its
 * commits wait for a synchronous standby; Error when it does not answer within 20 s
 */
export async function openDecided(databases: Databases, migration: string, unopened: Unopened): Promise<void> {
  const { side, epoch, decidedElsewhere } = unopened;
  const open = async (session: Session): Promise<void> => {
    if (decidedElsewhere) await session.query('SELECT verdigris.open_fence($1, $2)', [migration, epoch]);
    else await readDecision(session, migration, side);
    await notifyRouters(session);
  };
  await withSession(databases[side], { purpose: `${DOCTOR} open`, statementTimeoutMs: 10_000 }, async (session) => {
    try {
      await answerWithin(ANSWERED_WITHIN_MS, open(session), () => new Error(`${side} did not answer`));
    } catch (error) {
      const waiting = sqlState(error) === STALE_EPOCH ? undefined : await openButWaiting(session, epoch);
      throw waiting ?? error;
    }
  });
}

/** Longer than the fence's lock is asked for, 15 s, and each statement may take: no limit of the server ends a COMMIT. */
const ANSWERED_WITHIN_MS = 20_000;
