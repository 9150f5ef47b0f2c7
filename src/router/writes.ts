import type pg from 'pg';
import type { Side } from '../side.js';
import { CommitOutcomeUnknownError, RouterError, TransactionAbortedError, TransactionControlError } from './errors.js';
import { countsAgainstSide } from './failure.js';
import type { Answered, HeldRequests } from './held-requests.js';
import { LSN_ZERO } from './lsn.js';
import type { RequestMetrics, RequestOutcome } from './metrics.js';
import type { ReadRouting } from './read-routing.js';
import type { Routes } from './routes.js';
import type { CommitPosition } from './statement.js';
import type { TokenStore } from './token-store.js';

/** A write, as it is done on one side; says where its commit is when that is wanted. */
export type WriteWork<T> = (
  client: pg.PoolClient,
  side: Side,
  wantsPosition: boolean,
) => Promise<{ value: T; position: CommitPosition | undefined }>;

export interface WritesOptions {
  readonly held: HeldRequests;
  readonly routing: ReadRouting;
  readonly routes: Routes;
  readonly tokens: TokenStore;
  readonly metrics: RequestMetrics;
}

/** Runs writes on the side that has them, and remembers where each user's last one is. */
export class Writes {
  readonly #options: WritesOptions;

  constructor(options: WritesOptions) {
    this.#options = options;
  }

  async run<T>(
    user: string | undefined,
    endpoint: string,
    mayRunAgain: boolean,
    send: WriteWork<T>,
  ): Promise<Answered<T>> {
    const { held, routing, routes, tokens, metrics } = this.#options;
    const started = performance.now();
    let tried: Side = routes.current.writesOn;
    let outcome: RequestOutcome = 'ok';
    try {
      const { value: done, side } = await held.run(
        async (client, on, route) => {
          const wantsPosition = on === 'blue' && routing.isGreenReader(user, route);
          return { ...(await send(client, on, wantsPosition)), epoch: route.epoch };
        },
        { mayRunAgain, onSide: (on) => (tried = on), onFence: () => metrics.retried(endpoint) },
      );
      this.#remember(user, side, done.epoch, done.position);
      return { value: done.value, side };
    } catch (error) {
      outcome = isFailure(error) ? 'error' : 'refused';
      // It may have been done: what was known of the user's last write no longer holds.
      if (user !== undefined && error instanceof CommitOutcomeUnknownError) tokens.forget(user);
      throw error;
    } finally {
      metrics.record(tried, 'write', endpoint, outcome, performance.now() - started);
    }
  }

  #remember(user: string | undefined, side: Side, epoch: number, position: CommitPosition | undefined): void {
    if (user === undefined) return;
    const { routes, tokens } = this.#options;
    const route = routes.current;
    if (side === 'green') {
      // Its epoch alone tells a process that has not heard of the promotion to look again.
      if (route.writesOn === 'green') tokens.record(user, { epoch: route.epoch, lsn: LSN_ZERO });
      else tokens.forget(user);
    } else if (position === 'unknown') {
      tokens.recordUnknown(user);
    } else if (position !== undefined) {
      tokens.record(user, { epoch, lsn: position });
    } else {
      tokens.forget(user);
    }
  }
}

/** Whether a write failed for another reason than the application's own statement or code. */
function isFailure(error: unknown): boolean {
  if (error instanceof TransactionControlError) return false;
  if (error instanceof TransactionAbortedError) return countsAgainstSide(error.cause);
  return countsAgainstSide(error) || error instanceof RouterError;
}
