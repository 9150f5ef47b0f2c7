import { setTimeout as sleep } from 'node:timers/promises';
import { TRY_AGAIN, sqlState } from './sqlstate.js';
import type { Session } from './session.js';

/** How long to go on trying, where nothing else is said. */
export const RETRY_FOR_MS = 60_000;

export interface LockRetryOptions {
  /** How long to go on trying. Default RETRY_FOR_MS. */
  readonly forMs?: number;
  readonly signal?: AbortSignal | undefined;
  /** Further SQLSTATEs after which it is tried again. Default: none */
  readonly codes?: ReadonlySet<string>;
  /** Told about each failed try. */
  readonly onRetry?: (attempt: number) => void;
}

/**
 * Runs a short piece of DDL again and again while it loses races for locks. The session's lock_timeout must be short:
 * whoever queues behind our request waits no longer than that, and the pauses between tries let the queue drain.
 *
 * @throws the last error when the time is over.
 */
export async function retryOnLock<T>(work: () => Promise<T>, options: LockRetryOptions = {}): Promise<T> {
  const deadline = performance.now() + (options.forMs ?? RETRY_FOR_MS);
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      const code = sqlState(error) ?? '';
      const mayPass = TRY_AGAIN.has(code) || options.codes?.has(code) === true;
      if (!mayPass || performance.now() > deadline) throw error;
      options.signal?.throwIfAborted();
      options.onRetry?.(attempt);
      // Full jitter: several of us never march in step, and the application's queue gets time to drain.
      await sleep(20 + Math.random() * Math.min(1_000, 50 * 2 ** Math.min(attempt, 5)));
    }
  }
}

/** The major version of the server, such as 15 or 18. */
export async function majorVersion(session: Session): Promise<number> {
  const { rows } = await session.query<{ v: number }>("SELECT current_setting('server_version_num')::int / 10000 AS v");
  return rows[0]?.v ?? 0;
}
