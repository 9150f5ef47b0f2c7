import type pg from 'pg';
import type { Side } from '../side.js';
import { READ_ONLY, sqlState } from '../postgres/sqlstate.js';
import type { Breaker } from './breaker.js';
import { RouterError, WriteTimeoutError } from './errors.js';
import {
  AllInUse,
  countsAgainstSide,
  isLinkFailure,
  isSameFailure,
  isStatementsOwn,
  NotForGreen,
  NothingSent,
  saidBySide,
  SideFailure,
  thrownOf,
} from './failure.js';
import type { HeldRequest, HeldRequests, RunsAgain } from './held-requests.js';
import type { RouterLogger } from './logger.js';
import type { RequestMetrics } from './metrics.js';
import type { RequestOutcome } from './request-counts.js';
import type { ReadRouting } from './read-routing.js';
import type { SideLink } from './side-link.js';
import type { SidePool } from './side-pool.js';
import { WhileAlive } from './while-alive.js';

/** A read, as it is done on one side. */
export interface ReadWork<T> {
  /**
   * `statement`: whatever the server says on green may be green's fault. `function`: the application's own code fails, too,
   * so what may be green's fault is thrown as SideFailure.
   */
  readonly kind: 'statement' | 'function';
  /** False for what is known to do more: it belongs where writes are. */
  readonly onlyReads: boolean;
  readonly onGreen: (client: pg.PoolClient) => Promise<T>;
  readonly onWritesSide: (client: pg.PoolClient, side: Side) => Promise<T>;
  /** Whether it may be run again if it writes all the same and meets the fence. */
  readonly runsAgain: () => RunsAgain;
}

export interface ReadsOptions {
  readonly routing: ReadRouting;
  readonly held: HeldRequests;
  readonly greenPool: SidePool;
  readonly greenLink: SideLink;
  readonly greenBreaker: Breaker;
  readonly writeTimeoutMs: number;
  readonly metrics: RequestMetrics;
  readonly logger: RouterLogger;
}

/** Blue answers a read that has waited so long for a free connection to green; to open one takes no longer either. */
const TURN_ON_GREEN_MS = 1_000;

/** Runs reads: on green where that is right, and on the side that has writes whenever green can't. */
export class Reads {
  readonly #options: ReadsOptions;
  readonly #whileGreenLives: WhileAlive;
  readonly #turnOnGreenMs: number;

  constructor(options: ReadsOptions) {
    this.#options = options;
    this.#turnOnGreenMs = Math.min(options.writeTimeoutMs, TURN_ON_GREEN_MS);
    this.#whileGreenLives = new WhileAlive(options.greenLink);
  }

  run<T>(user: string | undefined, endpoint: string, work: ReadWork<T>): Promise<T> {
    const started = performance.now();
    const plain = this.#options.routing.atOnce(user, work.onlyReads);
    if (plain === undefined) return this.#onChosenSide(user, endpoint, work, started);
    return plain === 'green'
      ? this.#onGreenIfItCan(endpoint, work, started)
      : this.#onWritesSide(endpoint, work, started);
  }

  async #onChosenSide<T>(user: string | undefined, endpoint: string, work: ReadWork<T>, started: number): Promise<T> {
    const { routing, metrics } = this.#options;
    const choice = await routing.choose(user, work.onlyReads);
    if (choice.to === 'green') return this.#onGreenIfItCan(endpoint, work, started);
    if (choice.because !== undefined) metrics.fallback(choice.because, endpoint);
    return this.#onWritesSide(endpoint, work, performance.now());
  }

  async #onGreenIfItCan<T>(endpoint: string, work: ReadWork<T>, started: number): Promise<T> {
    const { metrics, greenPool, greenBreaker } = this.#options;
    let failure: SideFailure;
    try {
      const value = await greenPool.use('reader', work.onGreen, this.#whileGreenLives, this.#turnOnGreenMs);
      greenBreaker.succeeded();
      metrics.record('green', 'read', endpoint, 'ok', performance.now() - started);
      return value;
    } catch (error) {
      const greens = failureOfGreen(error, work.kind);
      if (greens !== undefined && isAway(greens.cause) && !(greens.cause instanceof AllInUse)) greenBreaker.failed();
      if (greens === undefined) {
        metrics.record('green', 'read', endpoint, 'refused', performance.now() - started);
        throw thrownOf(error);
      }
      failure = greens;
    }
    return this.#insteadOfGreen(endpoint, work, failure, performance.now() - started);
  }

  /**
   * Green failed, so blue answers; only then is it known whether the failure was green's. An error that blue gives as well
   * is the application's own: nothing is said of green, and blue has not answered in its place.
   */
  async #insteadOfGreen<T>(endpoint: string, work: ReadWork<T>, failure: SideFailure, greenMs: number): Promise<T> {
    let isOwn = false;
    try {
      return await this.#onWritesSide(endpoint, work, performance.now(), (error) => {
        isOwn = isSameFailure(failure.thrown, error) || (isStatementsOwn(failure.cause) && !hasAnswered(error));
      });
    } finally {
      this.#recordFailure(endpoint, failure.cause, isOwn, greenMs);
    }
  }

  #recordFailure(endpoint: string, cause: unknown, isOwn: boolean, greenMs: number): void {
    const { metrics, logger } = this.#options;
    // A read that writes is refused on green before the promotion, which says nothing about green.
    const isWrite = sqlState(cause) === READ_ONLY;
    const isNotForGreen = cause instanceof NotForGreen;
    // More was asked of this process at once than its pool has connections for: on blue it would have waited longer.
    const isBusy = cause instanceof AllInUse && !cause.isStuck;
    const isRefused = isOwn || isWrite || isNotForGreen || isBusy;
    metrics.record('green', 'read', endpoint, isRefused ? 'refused' : 'error', greenMs);
    if (isOwn) return;
    if (isNotForGreen) {
      // It is right as it is, and comes as often as its endpoint is called.
      logger.debug({ endpoint }, 'router: a read-only transaction notifies or takes a lock: blue runs it again');
      return;
    }
    if (!isWrite) metrics.fallback('error', endpoint);
    logger.warn(
      { endpoint, code: sqlState(cause), isWrite },
      isWrite ? 'router: a read writes: use write() or transaction()' : 'router: a read failed on green; blue answers',
    );
  }

  /** @param onFailure told what the read failed with, before the caller gets it. */
  async #onWritesSide<T>(
    endpoint: string,
    work: ReadWork<T>,
    started: number,
    onFailure?: (error: unknown) => void,
  ): Promise<T> {
    const { held, metrics } = this.#options;
    const request: HeldRequest<T> = {
      kind: 'read',
      tried: 'blue',
      workedFrom: undefined,
      runsAgain: work.runsAgain,
      onFence: () => metrics.retried(endpoint),
      attempt: work.onWritesSide,
    };
    let outcome: RequestOutcome = 'ok';
    try {
      return await held.run(request, started);
    } catch (error) {
      outcome = countsAgainstSide(error) ? 'error' : 'refused';
      onFailure?.(error);
      throw thrownOf(error);
    } finally {
      metrics.record(request.tried, 'read', endpoint, outcome, performance.now() - started);
    }
  }
}

/** What may be green's fault; undefined for what the router refuses, and for what the application's own code throws. */
function failureOfGreen(error: unknown, kind: ReadWork<unknown>['kind']): SideFailure | undefined {
  if (error instanceof SideFailure) return error;
  if (isAway(error)) return new SideFailure(error);
  return kind === 'function' || error instanceof RouterError ? undefined : new SideFailure(error);
}

/** Whether this is what blue said of a read, and not that blue could not be asked: then nobody knows whose fault it was. */
function hasAnswered(error: unknown): boolean {
  return !isAway(saidBySide(error)) && !(error instanceof WriteTimeoutError);
}

function isAway(cause: unknown): boolean {
  return cause instanceof NothingSent || isLinkFailure(cause);
}
