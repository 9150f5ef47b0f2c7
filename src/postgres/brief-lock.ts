import { restoreEventTriggers, silenceEventTriggers } from './event-triggers.js';
import { LockWatch, gaveWay, lockNotHad, type Encounter } from './lock-watch.js';
import { backendPid } from './migrate/step-context.js';
import { retryOnLock, type LockRetryOptions } from './retry.js';
import { openBeside, type Session } from './session.js';
import { LOCK_NOT_AVAILABLE, TRY_AGAIN, sqlState } from './sqlstate.js';

/** Below deadlock_timeout (1 s by default): it is always we who give up. Whoever queues behind us waits no longer. */
const LOCK_TIMEOUT_MS = 500;

/**
 * Runs a short piece of DDL on a session that waits only briefly for locks, again and again with jittered pauses, and
 * has somebody look who is in its way. The work may set a shorter lock_timeout itself. Event triggers don't fire for it.
 *
 * @param object what is done to what, for people: `the publication "x" is dropped`
 * @throws VerdigrisError LockNotHad (retryable) that names who holds the lock, when the time is over.
 */
export async function briefLock<T>(
  session: Session,
  object: string,
  work: () => Promise<T>,
  options: LockRetryOptions = {},
): Promise<T> {
  let met: Encounter = { waitedFor: [], heldUp: [] };
  const watch = new LockWatch({
    connect: () => openBeside(session, { purpose: 'watch locks' }),
    ours: { pid: backendPid(session) },
  });
  const { rows } = await session.query<{ before: string }>(`SELECT current_setting('lock_timeout') AS before`);
  await setLockTimeout(session, String(LOCK_TIMEOUT_MS));
  const role = await silenceEventTriggers(session);
  try {
    return await retryOnLock(async () => {
      const tried = await watch.during(work);
      if (tried.result.status === 'fulfilled') return tried.result.value;
      met = tried.met;
      const error: unknown = tried.result.reason;
      throw gaveWay(error, met) ? new HeldOthersUp(error) : error;
    }, options);
  } catch (error) {
    if (!TRY_AGAIN.has(sqlState(error) ?? '')) throw error;
    options.signal?.throwIfAborted();
    throw lockNotHad(object, met, error);
  } finally {
    await restoreEventTriggers(session, role).catch(() => undefined);
    await setLockTimeout(session, rows[0]?.before ?? '2s').catch(() => undefined);
    await watch.close();
  }
}

/** Cancelled by the watch: tried again like a lock that was not to be had. */
class HeldOthersUp extends Error {
  readonly code = LOCK_NOT_AVAILABLE;

  constructor(cause: unknown) {
    super('the application waited for it', { cause });
  }
}

async function setLockTimeout(session: Session, value: string): Promise<void> {
  await session.query(`SELECT set_config('lock_timeout', $1, false)`, [value]);
}
