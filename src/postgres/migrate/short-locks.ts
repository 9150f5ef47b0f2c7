import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../../errors.js';
import { closeSession, inTransaction, type Session } from '../session.js';
import { TRY_AGAIN, sqlState } from '../sqlstate.js';
import { describeBlockers, lastBlockers, type Blocker } from './blockers.js';
import { backendPid, cancellable, type StepContext } from './step-context.js';

/**
 * How long a DDL statement may queue for its lock: everybody who comes after queues behind it. Below deadlock_timeout
 * (1 s by default), so that in a circle it is we who give up and never the apply worker, whose subscription an error
 * would stop.
 */
const LOCK_TIMEOUT_MS = 500;

/** How long to go on trying before a person is asked. */
const TRY_FOR_MS = 120_000;

export interface ShortLocks {
  /** The object that is changed, for people. */
  readonly object: string;
  /** search_path for the statements; default pg_catalog. */
  readonly searchPath?: string;
  readonly tryForMs?: number;
}

/**
 * Runs DDL in a transaction whose statements wait only briefly for locks; tried again with growing, jittered pauses.
 * The work must lock its table first and nothing before it.
 *
 * @throws VerdigrisError MigrationStepFailed that names who holds the lock, after two minutes.
 */
export async function shortLocks<T>(
  context: StepContext,
  session: Session,
  options: ShortLocks,
  work: () => Promise<T>,
): Promise<T> {
  const deadline = performance.now() + (options.tryForMs ?? TRY_FOR_MS);
  let blockers: Blocker[] = [];
  let watch: Session | undefined;
  try {
    for (let attempt = 1; ; attempt++) {
      context.signal.throwIfAborted();
      const timeout = onlyAutovacuum(blockers) ? await untilAutovacuumYields(session) : LOCK_TIMEOUT_MS;
      const attempted = tryOnce(context, session, timeout, options.searchPath ?? 'pg_catalog', work);
      try {
        if (watch === undefined) return await attempted;
        const [result, seen] = await watched(watch, session, attempted);
        blockers = seen;
        if (result.status === 'fulfilled') return result.value;
        throw result.reason;
      } catch (error) {
        if (!TRY_AGAIN.has(sqlState(error) ?? '')) throw error;
        if (performance.now() > deadline && attempt > 2) throw lockNotHad(options.object, blockers, error);
      }
      // From the second try on somebody looks who is in the way: most locks are had at the first.
      watch ??= await context.connect('watch locks');
      await sleep(50 + Math.random() * Math.min(2_000, 100 * 2 ** attempt), undefined, { signal: context.signal });
    }
  } finally {
    if (watch !== undefined) await closeSession(watch);
  }
}

async function tryOnce<T>(
  context: StepContext,
  session: Session,
  lockTimeoutMs: number,
  searchPath: string,
  work: () => Promise<T>,
): Promise<T> {
  return cancellable(context, session, () =>
    inTransaction(session, async () => {
      await session.query(`SELECT set_config('lock_timeout', $1, true), set_config('search_path', $2, true)`, [
        String(lockTimeoutMs),
        searchPath,
      ]);
      return work();
    }),
  );
}

async function watched<T>(
  watch: Session,
  session: Session,
  attempted: Promise<T>,
): Promise<[PromiseSettledResult<T>, Blocker[]]> {
  let over = false;
  const settled = Promise.allSettled([attempted]).then(([result]) => {
    over = true;
    return result;
  });
  const seen = lastBlockers(watch, backendPid(session), () => over);
  return [await settled, await seen];
}

function onlyAutovacuum(blockers: readonly Blocker[]): boolean {
  return blockers.length > 0 && blockers.every((blocker) => blocker.kind === 'autovacuum worker');
}

/**
 * PostgreSQL cancels an autovacuum for whoever has waited for deadlock_timeout: with a shorter lock_timeout we would
 * wait for the end of the vacuum of a large table.
 */
async function untilAutovacuumYields(session: Session): Promise<number> {
  const { rows } = await session.query<{ ms: number }>(
    `SELECT setting::int AS ms FROM pg_settings WHERE name = 'deadlock_timeout'`,
  );
  return (rows[0]?.ms ?? 1_000) + 200;
}

function lockNotHad(object: string, blockers: readonly Blocker[], cause: unknown): VerdigrisError {
  return new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `${object}: the lock that the change needs can't be had: ${describeBlockers(blockers)}`,
    nextStep: 'end that transaction, or wait until it is over; the run tries again and nothing has been changed',
    retryable: true,
    cause,
  });
}
