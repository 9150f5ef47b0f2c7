import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../../errors.js';
import { BUILDER_LOCK, endOthers, isHeld, share, STEP_LOCK, takeOver } from '../bootstrap/copy/copy-lock.js';
import { serverProcess, type Session } from '../session.js';

/*
 * One attempt at a time changes green's schema for a run. Temporal gives a step to another worker when it has not heard of
 * the first one for its heartbeat timeout; that one may live, cut off or frozen, and go on seconds or days later. So
 * whoever changes the schema takes this lock over first, on the session that does it: the session that held it is ended,
 * what that one had begun is rolled back, and what it had committed is seen by whoever reads the progress now.
 *
 * Indexes are built in sessions of their own, which hold a second lock in shared mode. One that is at its CREATE INDEX is
 * left to it: that may have taken hours, and whoever wants the same index waits for it (buildIndex). It begins nothing more,
 * since these sessions ask before each piece whether the step is still theirs.
 */

/**
 * Has the session hold the lock of whoever changes green's schema, from whoever has it. When this returns, no earlier
 * attempt changes anything any more, save an index that it is building.
 *
 * @param builds what becomes of indexes that an earlier attempt is building. `ended`: of no use to anybody. Default: `kept`
 * @throws the signal's reason when it is aborted; VerdigrisError LockNotHad (retryable) when a session holds it that may not be ended
 */
export async function takeStepOver(
  session: Session,
  signal: AbortSignal,
  builds: 'kept' | 'ended' = 'kept',
): Promise<void> {
  await takeOver(session, STEP_LOCK, signal);
  // Whoever joins from now on is refused: the session that it acts for is over.
  const which = builds === 'ended' ? '' : `AND NOT (a.state = 'active' AND a.query ~* '^create (unique )?index')`;
  for (;;) {
    signal.throwIfAborted();
    if ((await endOthers(session, `${isHeld(BUILDER_LOCK)} ${which}`)) === 0) return;
    await sleep(50);
  }
}

/**
 * Shows that another session acts for the one that holds the lock, and refuses it when that one does so no longer. Asked
 * before each piece of work.
 *
 * @throws StepTakenOver (retryable)
 */
export async function joinStep(session: Session, holder: Session): Promise<void> {
  // First the lock, then the look: whoever takes the step over ends the holder before it looks for others.
  await share(session, BUILDER_LOCK);
  const { rowCount } = await session.query(`SELECT FROM pg_locks l WHERE ${isHeld(STEP_LOCK)} AND l.pid = $1`, [
    serverProcess(holder),
  ]);
  if (rowCount === 0) throw new StepTakenOver();
}

/** The step is another attempt's by now, or the session that held it is lost: what is under way may end, no more is begun. */
export class StepTakenOver extends VerdigrisError {
  constructor() {
    super({
      type: 'StaleEpoch',
      message:
        "green's schema is changed by another attempt of this step by now, or the connection that held it was lost",
      nextStep: 'nothing: the step is begun again, and goes on with what is there',
      retryable: true,
    });
  }
}
