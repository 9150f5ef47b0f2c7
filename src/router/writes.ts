import type pg from 'pg';
import type { Route } from '../postgres/state.js';
import type { Side } from '../side.js';
import {
  CommitOutcomeUnknownError,
  NotSupportedError,
  RouterError,
  TransactionAbortedError,
  TransactionControlError,
} from './errors.js';
import { countsAgainstSide, thrownOf } from './failure.js';
import type { HeldRequest, HeldRequests, RunsAgain } from './held-requests.js';
import { LSN_ZERO } from './lsn.js';
import type { RequestMetrics } from './metrics.js';
import type { RequestOutcome } from './request-counts.js';
import type { Consistency, ReadRouting } from './read-routing.js';
import type { Routes } from './routes.js';
import type { CommitPosition } from './statement.js';
import type { TokenStore } from './token-store.js';

/** A write, as it is done on one side. */
export interface WriteWork<T> {
  readonly runsAgain: () => RunsAgain;
  /** Says where its commit is when that is wanted. */
  readonly send: (client: pg.PoolClient, side: Side, wantsPosition: boolean) => Promise<Done<T>>;
  readonly positionCosts: 'nothing' | 'a round trip';
}

interface Done<T> {
  readonly value: T;
  readonly position: CommitPosition | undefined;
}

export interface WritesOptions {
  readonly held: HeldRequests;
  readonly routing: ReadRouting;
  readonly routes: Routes;
  readonly tokens: TokenStore;
  readonly consistency: Consistency;
  readonly metrics: RequestMetrics;
}

/** Runs writes on the side that has them, and remembers where each user's last one is. */
export class Writes {
  readonly #options: WritesOptions;

  constructor(options: WritesOptions) {
    this.#options = options;
  }

  async run<T>(user: string | undefined, endpoint: string, work: WriteWork<T>): Promise<T> {
    const { held, metrics } = this.#options;
    const started = performance.now();
    let outcome: RequestOutcome = 'ok';
    let epoch = 0;
    const request: HeldRequest<Done<T>> = {
      kind: 'write',
      tried: 'blue',
      workedFrom: undefined,
      runsAgain: work.runsAgain,
      onFence: () => metrics.retried(endpoint),
      attempt: (client, side, route) => {
        epoch = route.epoch;
        return work.send(client, side, side === 'blue' && this.#wantsPosition(user, route, work));
      },
    };
    try {
      const { value, position } = await held.run(request, started);
      if (user !== undefined) this.#remember(user, request.tried, epoch, position);
      return value;
    } catch (error) {
      outcome = isFailure(error) ? 'error' : 'refused';
      // It may have been done: what was known of the user's last write no longer holds.
      if (user !== undefined && error instanceof CommitOutcomeUnknownError) this.#forget(user, error.side, epoch);
      throw thrownOf(error);
    } finally {
      metrics.record(request.tried, 'write', endpoint, outcome, performance.now() - started);
    }
  }

  /**
   * A process that is behind does not know yet who reads green, and another one may. Where the position costs nothing it
   * takes it for everybody.
   */
  #wantsPosition<T>(user: string | undefined, route: Route, { positionCosts }: WriteWork<T>): boolean {
    const { routing, consistency } = this.#options;
    if (routing.isGreenReader(user, route)) return true;
    return user !== undefined && consistency === 'session' && route.epoch > 0 && positionCosts === 'nothing';
  }

  #remember(user: string, side: Side, epoch: number, position: CommitPosition | undefined): void {
    const { routes, tokens } = this.#options;
    const route = routes.current;
    if (side === 'green') {
      // Its epoch alone tells a process that has not heard of the promotion to look again.
      if (route.writesOn === 'green') tokens.record(user, { epoch: route.epoch, lsn: LSN_ZERO });
      else tokens.forget(user);
    } else if (position === 'unknown') {
      tokens.recordUnknown(user, this.#epochOnBlue(epoch));
    } else if (position !== undefined) {
      tokens.record(user, { epoch: this.#epochOnBlue(epoch), lsn: position });
    } else {
      this.#forget(user, side, epoch);
    }
  }

  /** There was a write, or may have been, and where is not known. Reads of the session must hear of it elsewhere, too. */
  #forget(user: string, side: Side, epoch: number): void {
    const { tokens, consistency } = this.#options;
    const at = side === 'blue' ? this.#epochOnBlue(epoch) : 0;
    if (at > 0 && (consistency === 'session' || this.#isBackOnBlue(user, at))) tokens.recordUnknown(user, at);
    else tokens.forget(user);
  }

  /** Blue may have taken a write, after the rollback of a promotion, before this process had heard of that. */
  #epochOnBlue(epoch: number): number {
    const { current } = this.#options.routes;
    return current.writesOn === 'blue' ? Math.max(epoch, current.epoch) : epoch;
  }

  /**
   * Whether writes were on green before this epoch: a process that has heard of no more than that reads there, unless a
   * token tells it to look again. By the next attempt all have heard.
   */
  #isBackOnBlue(user: string, epoch: number): boolean {
    const { routes, tokens } = this.#options;
    if (routes.isBackOnBlue) return true;
    const known = tokens.epochOf(user);
    return known > 0 && known < epoch;
  }
}

/** Whether a write failed for another reason than the application's own statement or code. */
function isFailure(error: unknown): boolean {
  if (error instanceof TransactionControlError || error instanceof NotSupportedError) return false;
  if (error instanceof TransactionAbortedError) return countsAgainstSide(error.cause);
  return countsAgainstSide(error) || error instanceof RouterError;
}
