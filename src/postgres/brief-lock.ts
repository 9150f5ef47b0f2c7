import { autovacuumYields, autovacuumYieldsAsBefore, LockTimeouts } from './autovacuum.js';
import { restoreEventTriggers, silenceEventTriggers } from './event-triggers.js';
import {
  LockWatch,
  MAX_BLOCKING_MS,
  gaveWay,
  lockNotHad,
  type Encounter,
  type LockWatchOptions,
} from './lock-watch.js';
import { backendPid } from './migrate/step-context.js';
import { RETRY_FOR_MS, retryOnLock, type LockRetryOptions } from './retry.js';
import { openBeside, type Session } from './session.js';
import { LOCK_NOT_AVAILABLE, TRY_AGAIN, sqlState } from './sqlstate.js';

/** Below deadlock_timeout (1 s by default): it is always we who give up. Whoever queues behind us waits no longer. */
const LOCK_TIMEOUT_MS = 500;

/**
 * Runs a short piece of DDL on a session that waits only briefly for locks, again and again with jittered pauses, and
 * has somebody look who is in its way. Event triggers don't fire for it. An autovacuum in its way yields.
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
  return briefLocks(session, (lock) => lock(object, work, options));
}

/** briefLock() on the session of briefLocks(). The work is told how long this try may wait for its lock, ms. */
export type BriefLock = <T>(
  object: string,
  work: (tryMs: number) => Promise<T>,
  options?: LockRetryOptions,
) => Promise<T>;

/** How long one try may wait for its lock, ms. */
export interface TryLimits {
  /** Default 500. */
  readonly tryMs: number;
  /** Where nothing but an autovacuum is in the way, if that yields within it; never more than all tries have. Default MAX_BLOCKING_MS. */
  readonly longestMs: number;
}

type Told = Pick<LockWatchOptions, 'onWait'>;

/** For pieces of DDL one after the other: the session is made ready for all of them once. */
export async function briefLocks<T>(
  session: Session,
  work: (lock: BriefLock) => Promise<T>,
  { tryMs = LOCK_TIMEOUT_MS, longestMs = MAX_BLOCKING_MS, onWait }: Partial<TryLimits> & Told = {},
): Promise<T> {
  const watch = new LockWatch({
    connect: () => openBeside(session, { purpose: 'watch locks' }),
    ours: { pid: backendPid(session) },
    ...(onWait === undefined ? {} : { onWait }),
  });
  const before = await makeReady(session, tryMs);
  try {
    return await work((object, piece, options = {}) =>
      lockBriefly({ session, watch, tryMs, longestMs }, object, piece, options),
    );
  } finally {
    await restore(session, before).catch(() => undefined);
    await watch.close();
  }
}

interface Ready extends TryLimits {
  readonly session: Session;
  readonly watch: LockWatch;
}

async function lockBriefly<T>(
  { session, watch, tryMs, longestMs }: Ready,
  object: string,
  work: (tryMs: number) => Promise<T>,
  options: LockRetryOptions,
): Promise<T> {
  let met: Encounter = { waitedFor: [], heldUp: [] };
  let current = tryMs;
  const timeouts = new LockTimeouts(session, tryMs, Math.min(longestMs, options.forMs ?? RETRY_FOR_MS));
  const wait = async (ms: number): Promise<void> => {
    if (ms !== current) await session.query(`SELECT set_config('lock_timeout', $1, false)`, [String(ms)]);
    current = ms;
  };
  try {
    return await retryOnLock(async () => {
      await wait(await timeouts.next(met.waitedFor));
      const tried = await watch.during(() => work(current));
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
    await wait(tryMs).catch(() => undefined);
  }
}

/** Cancelled by the watch: tried again like a lock that was not to be had. */
class HeldOthersUp extends Error {
  readonly code = LOCK_NOT_AVAILABLE;

  constructor(cause: unknown) {
    super('the application waited for it', { cause });
  }
}

/** What a session had before it was made ready. */
interface Before {
  readonly lock: string;
  readonly deadlock: string;
  readonly role: string;
}

async function makeReady(session: Session, tryMs: number): Promise<Before> {
  const { rows } = await session.query<{ lock: string; deadlock: string }>(
    `SELECT current_setting('lock_timeout') AS lock, current_setting('deadlock_timeout') AS deadlock`,
  );
  await session.query(`SELECT set_config('lock_timeout', $1, false), ${autovacuumYields(false)}`, [String(tryMs)]);
  const { lock = '2s', deadlock = '1s' } = rows[0] ?? {};
  return { lock, deadlock, role: await silenceEventTriggers(session) };
}

async function restore(session: Session, { lock, deadlock, role }: Before): Promise<void> {
  await restoreEventTriggers(session, role).catch(() => undefined);
  await session.query(`SELECT set_config('lock_timeout', $1, false), ${autovacuumYieldsAsBefore('$2')}`, [
    lock,
    deadlock,
  ]);
}
