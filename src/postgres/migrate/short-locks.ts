import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../../errors.js';
import { autovacuumYields, autovacuumYieldsAsBefore, LockTimeouts } from '../autovacuum.js';
import { describeBlockers } from '../blockers.js';
import { SILENCE_EVENT_TRIGGERS, withoutEventTriggers } from '../event-triggers.js';
import { LockWatch, describeEncounter, gaveWay, type Encounter } from '../lock-watch.js';
import { inTransaction, type Session } from '../session.js';
import { TRY_AGAIN, isConnectionLost, sqlState } from '../sqlstate.js';
import { backendPid, cancellable, noted, type StepContext } from './step-context.js';

/**
 * How long a DDL statement may queue for its lock: everybody who comes after queues behind it. Below deadlock_timeout
 * (1 s by default), so that in a circle it is we who give up and never the apply worker, whose subscription an error
 * would stop.
 */
const LOCK_TIMEOUT_MS = 500;

/** How long to go on trying before a person is asked. */
const TRY_FOR_MS = 120_000;

/** Each time the application has stood still for MAX_BLOCKING_MS: it gets a longer rest before it is asked to do so again. */
const WAYS_GIVEN = 5;

export interface ShortLocks {
  /** The object that is changed, for people. */
  readonly object: string;
  /** search_path for the statements; default pg_catalog. */
  readonly searchPath?: string;
  readonly tryForMs?: number;
  /** Default MAX_BLOCKING_MS. */
  readonly maxBlockingMs?: number;
  /** Whether it may write rows of the application, too. Default: it is DDL alone, for which no event trigger fires. */
  readonly writesRows?: boolean;
}

/**
 * Runs DDL in a transaction whose statements wait only briefly for locks, and which is cancelled when the application
 * has waited for it too long; tried again with growing, jittered pauses. The work must lock its table first and nothing
 * before it, but its own row of the progress.
 *
 * @throws VerdigrisError MigrationStepFailed (retryable) that names who holds the lock, after two minutes, or who was held up.
 */
export async function shortLocks<T>(
  context: StepContext,
  session: Session,
  options: ShortLocks,
  work: () => Promise<T>,
): Promise<T> {
  return againAndAgain(context, session, options, (lockTimeoutMs) =>
    inTransaction(session, async () => {
      await session.query(
        `SELECT set_config('lock_timeout', $1, true), set_config('search_path', $2, true), ${autovacuumYields(true)}`,
        [String(lockTimeoutMs), options.searchPath ?? 'pg_catalog'],
      );
      if (options.writesRows !== true) await session.query(SILENCE_EVENT_TRIGGERS);
      return work();
    }),
  );
}

export interface AloneLocks extends ShortLocks {
  /**
   * `brief`: the lock is asked for as by shortLocks(). `patient`: CONCURRENTLY waits for transactions of others in its
   * middle and begins anew when it is cancelled; it may wait while nobody of the application waits for it.
   */
  readonly patience: 'brief' | 'patient';
  /** Clears away what a statement leaves that was stopped in its middle. */
  readonly afterFailure?: () => Promise<void>;
}

/** The same for a statement outside a transaction: what PostgreSQL refuses in one, and what would hold its lock to the end. */
export async function aloneWithShortLocks<T>(
  context: StepContext,
  session: Session,
  options: AloneLocks,
  work: () => Promise<T>,
): Promise<T> {
  const before = await session.query<{ lock: string; path: string; deadlock: string }>(
    `SELECT current_setting('lock_timeout') AS lock, current_setting('search_path') AS path,
            current_setting('deadlock_timeout') AS deadlock`,
  );
  // Who waits without a limit looks for a circle once, and late: had it looked early, whoever closes one would give up.
  const brief = options.patience === 'brief';
  try {
    return await againAndAgain(context, session, options, async (lockTimeoutMs) => {
      await session.query(
        `SELECT set_config('lock_timeout', $1, false), set_config('search_path', $2, false)
                ${brief ? `, ${autovacuumYields(false)}` : ''}`,
        [String(brief ? lockTimeoutMs : 0), options.searchPath ?? 'pg_catalog'],
      );
      return options.writesRows === true ? work() : withoutEventTriggers(session, work);
    });
  } finally {
    const { lock = '2s', path = 'pg_catalog', deadlock } = before.rows[0] ?? {};
    await session
      .query(
        `SELECT set_config('lock_timeout', $1, false), set_config('search_path', $2, false), ${autovacuumYieldsAsBefore('$3')}`,
        [lock, path, deadlock],
      )
      .catch(() => undefined);
  }
}

async function againAndAgain<T>(
  context: StepContext,
  session: Session,
  options: ShortLocks & Pick<Partial<AloneLocks>, 'afterFailure'>,
  attempt: (lockTimeoutMs: number) => Promise<T>,
): Promise<T> {
  const tryForMs = options.tryForMs ?? TRY_FOR_MS;
  const deadline = performance.now() + tryForMs;
  let met: Encounter = { waitedFor: [], heldUp: [] };
  let waysGiven = 0;
  // However long a try is: whom it holds up, the watch protects.
  const timeouts = new LockTimeouts(session, LOCK_TIMEOUT_MS, tryForMs);
  const watch = new LockWatch({
    connect: () => context.connect('watch locks'),
    ours: { pid: backendPid(session) },
    ...(options.maxBlockingMs === undefined ? {} : { maxBlockingMs: options.maxBlockingMs }),
    onWait: (waitsFor) => context.onProgress(noted('locks', options.object, `waits for ${describeBlockers(waitsFor)}`)),
  });
  try {
    for (let tries = 1; ; tries++) {
      context.signal.throwIfAborted();
      const timeout = await timeouts.next(met.waitedFor);
      const tried = await watch.during(() => cancellable(context, session, () => attempt(timeout)));
      if (tried.result.status === 'fulfilled') return tried.result.value;
      const error: unknown = tried.result.reason;
      met = tried.met;
      if (isConnectionLost(error)) throw error;
      await options.afterFailure?.();
      if (gaveWay(error, met)) {
        if (++waysGiven >= WAYS_GIVEN) throw gaveWayTooOften(options.object, met, error);
        context.onProgress(noted('locks', options.object, `gave way, and is tried again: ${describeEncounter(met)}`));
      } else if (!TRY_AGAIN.has(sqlState(error) ?? '')) throw error;
      else if (performance.now() > deadline && tries > 2) throw lockNotHad(options.object, met, error);
      await sleep(pauseMs(tries, waysGiven), undefined, { signal: context.signal });
    }
  } finally {
    await watch.close();
  }
}

/** Whoever was held up gets time to do what has been queued. */
function pauseMs(tries: number, waysGiven: number): number {
  if (waysGiven > 0) return 500 + Math.random() * Math.min(4_000, 500 * 2 ** waysGiven);
  return 50 + Math.random() * Math.min(2_000, 100 * 2 ** tries);
}

function lockNotHad(object: string, met: Encounter, cause: unknown): VerdigrisError {
  return new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `${object}: the lock that the change needs can't be had: ${describeBlockers(met.waitedFor)}`,
    nextStep: 'end that transaction, or wait until it is over; the run tries again and nothing has been changed',
    retryable: true,
    cause,
  });
}

/** Nothing is wrong with it: whoever was held up is gone some time, and a rollback would cost all that is there. */
function gaveWayTooOften(object: string, met: Encounter, cause: unknown): VerdigrisError {
  return new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `${object}: given up ${WAYS_GIVEN} times, since it held up the application: ${describeEncounter(met)}`,
    nextStep:
      'nothing: it is tried again by itself, and nothing has been changed; to have it sooner, let those whom it names end, or pause the run until a quieter time. What holds others up each time is to be written so that it takes no such lock: roll back and start again then',
    retryable: true,
    cause,
  });
}
