import type pg from 'pg';
import type { Registry } from 'prom-client';
import type { Side } from '../side.js';
import type { Route } from '../postgres/state.js';
import { BluePosition } from './blue-position.js';
import { Breaker } from './breaker.js';
import { CommitOutcomeUnknownError, RouterError } from './errors.js';
import { countsAgainstSide, isStatementsOwn, SideFailure } from './failure.js';
import { GreenProgress } from './green-progress.js';
import { Heartbeat } from './heartbeat.js';
import { HeldRequests, type Answered } from './held-requests.js';
import { LSN_ZERO } from './lsn.js';
import { RequestMetrics, type RequestOutcome } from './metrics.js';
import { settingsOf, type RouterOptions, type RouterSettings } from './options.js';
import { ReadRouting } from './read-routing.js';
import { Reads } from './reads.js';
import { Routes } from './routes.js';
import { SideLink } from './side-link.js';
import { SidePool, type Guard } from './side-pool.js';
import { sendStatement, sendWrite, type CommitPosition } from './statement.js';
import { formatToken, parseToken } from './token.js';
import { TokenStore } from './token-store.js';
import { runTransaction, type IsolationLevel, type TransactionFunction } from './transaction.js';

/** A result, and the side that gave it. */
export type RoutedResult<R extends pg.QueryResultRow> = pg.QueryResult<R> & { readonly side: Side };

export interface RequestOptions {
  /** Label of the metrics: a route or a use case, one of a bounded set. Default `default`. */
  readonly endpoint?: string;
}

export interface TransactionOptions extends RequestOptions {
  /** A transaction that only reads is routed as reads are. */
  readonly readOnly?: boolean;
  /** Default: the server's. */
  readonly isolation?: IsolationLevel;
}

/** Routes an application's statements to blue and green while a migration runs. */
export interface Router {
  /** Resolves when the route has been read from one side at least; both sides are given a second to answer. */
  ready(): Promise<void>;
  /** The route in force in this process. */
  route(): Route;
  /** The metrics' registry. */
  readonly metrics: Registry;
  /** Name of this process in `verdigris.router`. */
  readonly instance: string;
  /**
   * Runs one statement that reads, for a user; undefined is nobody in particular, who reads where writes are.
   *
   * @throws what the statement throws on the side that has writes.
   */
  read<R extends pg.QueryResultRow = pg.QueryResultRow>(
    user: string | undefined,
    query: string | pg.QueryConfig,
    values?: unknown[],
    options?: RequestOptions,
  ): Promise<RoutedResult<R>>;
  /**
   * Runs one statement that may write.
   *
   * @throws CommitOutcomeUnknownError, WriteTimeoutError, and what the statement throws.
   */
  write<R extends pg.QueryResultRow = pg.QueryResultRow>(
    user: string | undefined,
    query: string | pg.QueryConfig,
    values?: unknown[],
    options?: RequestOptions,
  ): Promise<RoutedResult<R>>;
  /**
   * Runs a function in a transaction. The function may run more than once, as with serialization failures: it must
   * change nothing but the database.
   *
   * @throws CommitOutcomeUnknownError, WriteTimeoutError, WriteMovedError, TransactionAbortedError, and what the
   * function throws.
   */
  transaction<T>(user: string | undefined, options: TransactionOptions, work: TransactionFunction<T>): Promise<T>;
  /** Where the user's last write is, to be carried to another process; undefined when nothing is known. */
  exportToken(user: string): string | undefined;
  /** Takes over a token from another process. @returns false for text that is no token, which is ignored. */
  importToken(user: string, token: string): boolean;
  /** Ends the connections, once those in use are free. */
  close(): Promise<void>;
}

const DEFAULT_ENDPOINT = 'default';

/** Makes a router and starts to look for the route at once; requests wait for the first look. */
export function createRouter(options: RouterOptions): Router {
  const router = new ApplicationRouter(settingsOf(options));
  router.start();
  return router;
}

class ApplicationRouter implements Router {
  readonly metrics: Registry;
  readonly instance: string;
  readonly #settings: RouterSettings;
  readonly #metrics: RequestMetrics;
  readonly #routes: Routes;
  readonly #tokens: TokenStore;
  readonly #links: Readonly<Record<Side, SideLink>>;
  readonly #pools: Readonly<Record<Side, SidePool>>;
  readonly #greenProgress: GreenProgress;
  readonly #routing: ReadRouting;
  readonly #held: HeldRequests;
  readonly #reads: Reads;
  readonly #heartbeat: Heartbeat;
  #firstLook: Promise<void> | undefined;
  #ready: Promise<void> = Promise.resolve();

  constructor(settings: RouterSettings) {
    const { migration, instance, logger } = settings;
    this.#settings = settings;
    this.instance = instance;
    this.#metrics = new RequestMetrics(settings.registry);
    this.metrics = this.#metrics.registry;
    this.#routes = new Routes(migration);
    this.#tokens = new TokenStore(settings.maxTokens);
    this.#links = { blue: this.#linkTo('blue'), green: this.#linkTo('green') };
    this.#routes.use([this.#links.blue, this.#links.green]);
    this.#pools = {
      blue: new SidePool('blue', settings.blue, logger),
      green: new SidePool('green', settings.green, logger),
    };
    this.#greenProgress = new GreenProgress(this.#links.green);
    const greenBreaker = new Breaker();
    this.#routing = new ReadRouting({
      routes: this.#routes,
      tokens: this.#tokens,
      bluePosition: new BluePosition(this.#links.blue),
      greenProgress: this.#greenProgress,
      greenLink: this.#links.green,
      greenBreaker,
      consistency: settings.consistency,
      catchUpBudgetMs: settings.catchUpBudgetMs,
    });
    this.#held = new HeldRequests(this.#routes, this.#pools, settings.writeTimeoutMs);
    this.#reads = new Reads({
      routing: this.#routing,
      held: this.#held,
      greenPool: this.#pools.green,
      greenLink: this.#links.green,
      greenBreaker,
      metrics: this.#metrics,
      logger,
    });
    this.#heartbeat = new Heartbeat({
      migration,
      instance,
      intervalMs: settings.heartbeatIntervalMs,
      routes: this.#routes,
      links: this.#links,
      metrics: this.#metrics,
      logger,
    });
  }

  start(): void {
    this.#metrics.showRoute(this.#routes.current);
    this.#routes.onChange((route, before) => this.#routeChanged(route, before));
    const tries = [this.#links.blue.start(), this.#links.green.start()];
    this.#firstLook = Promise.all(tries).then(() => undefined);
    this.#ready = this.#firstLook.then(() => Promise.race([this.#links.blue.seen, this.#links.green.seen]));
    this.#heartbeat.start();
  }

  async ready(): Promise<void> {
    await this.#ready;
  }

  route(): Route {
    return this.#routes.current;
  }

  async read<R extends pg.QueryResultRow>(
    user: string | undefined,
    query: string | pg.QueryConfig,
    values?: unknown[],
    options: RequestOptions = {},
  ): Promise<RoutedResult<R>> {
    await this.#started();
    const answered = await this.#reads.run(user, options.endpoint ?? DEFAULT_ENDPOINT, {
      onGreen: async (client, guard) => {
        try {
          return await guard(sendStatement<R>(client, { query, values }));
        } catch (error) {
          throw isStatementsOwn(error) || error instanceof RouterError ? error : new SideFailure(error);
        }
      },
      onWritesSide: (client) => sendStatement<R>(client, { query, values }),
    });
    return routed(answered);
  }

  async write<R extends pg.QueryResultRow>(
    user: string | undefined,
    query: string | pg.QueryConfig,
    values?: unknown[],
    options: RequestOptions = {},
  ): Promise<RoutedResult<R>> {
    const answered = await this.#write(user, options, true, async (client, side, wantsPosition) => {
      const { result, position } = await sendWrite<R>(client, side, { query, values }, wantsPosition);
      return { value: result, position };
    });
    return routed(answered);
  }

  async transaction<T>(
    user: string | undefined,
    options: TransactionOptions,
    work: TransactionFunction<T>,
  ): Promise<T> {
    const mode = { readOnly: options.readOnly ?? false, isolation: options.isolation };
    if (!mode.readOnly) {
      const answered = await this.#write(
        user,
        options,
        this.#settings.retryTransactions,
        (client, side, wantsPosition) => runTransaction(client, side, mode, wantsPosition, work),
      );
      return answered.value;
    }
    await this.#started();
    const { value } = await this.#reads.run(user, options.endpoint ?? DEFAULT_ENDPOINT, {
      onGreen: (client, guard) => readTransactionOnGreen(client, options.isolation, work, guard),
      onWritesSide: async (client, side) => (await runTransaction(client, side, mode, false, work)).value,
    });
    return value;
  }

  exportToken(user: string): string | undefined {
    const token = this.#tokens.get(user);
    return token && formatToken(token);
  }

  importToken(user: string, text: string): boolean {
    const token = parseToken(text);
    if (token === undefined) return false;
    this.#tokens.record(user, token);
    return true;
  }

  async close(): Promise<void> {
    this.#heartbeat.stop();
    await Promise.all([this.#links.blue.close(), this.#links.green.close()]);
    await Promise.all([this.#pools.blue.close(), this.#pools.green.close()]);
  }

  #linkTo(side: Side): SideLink {
    const { migration, pollIntervalMs, logger } = this.#settings;
    return new SideLink({
      side,
      config: this.#settings[side],
      migration,
      pollIntervalMs,
      logger,
      onSeen: (from, seen) => {
        this.#routes.see(from, seen);
        void this.#keepWarm(from);
      },
      onDown: () => this.#greenProgress.forget(),
    });
  }

  async #started(): Promise<void> {
    if (this.#firstLook === undefined) return;
    await this.#firstLook;
    this.#firstLook = undefined;
  }

  #routeChanged(route: Route, before: Route): void {
    const { epoch, generation, writesOn, greenReadPercent, opening } = route;
    this.#settings.logger.info({ epoch, generation, writesOn, greenReadPercent, opening }, 'router: new route');
    this.#metrics.showRoute(route);
    if (route.epoch !== before.epoch || route.greenReadPercent === 0) this.#greenProgress.forget();
    void this.#keepWarm('blue');
    void this.#keepWarm('green');
    void this.#heartbeat.beat();
  }

  /** A promotion moves all writes at once, so the side that they move to has as many connections open by then. */
  async #keepWarm(side: Side): Promise<void> {
    const { writesOn, opening, greenReadPercent } = this.#routes.current;
    const isNext = side !== writesOn && (opening === side || (side === 'green' && greenReadPercent > 0));
    await this.#pools[side].keepWarm(isNext ? this.#pools[writesOn].connections : 0);
  }

  async #write<T>(
    user: string | undefined,
    options: RequestOptions,
    mayRunAgain: boolean,
    send: (
      client: pg.PoolClient,
      side: Side,
      wantsPosition: boolean,
    ) => Promise<{ value: T; position: CommitPosition | undefined }>,
  ): Promise<Answered<T>> {
    await this.#started();
    const endpoint = options.endpoint ?? DEFAULT_ENDPOINT;
    const started = performance.now();
    let tried: Side = this.#routes.current.writesOn;
    let outcome: RequestOutcome = 'ok';
    try {
      const { value: done, side } = await this.#held.run(
        async (client, on, route) => {
          const wantsPosition = on === 'blue' && this.#routing.isGreenReader(user, route);
          return { ...(await send(client, on, wantsPosition)), epoch: route.epoch };
        },
        { mayRunAgain, onSide: (on) => (tried = on), onFence: () => this.#metrics.retried(endpoint) },
      );
      this.#remember(user, side, done.epoch, done.position);
      return { value: done.value, side };
    } catch (error) {
      outcome = countsAgainstSide(error) || error instanceof RouterError ? 'error' : 'refused';
      // It may have been done: what was known of the user's last write no longer holds.
      if (user !== undefined && error instanceof CommitOutcomeUnknownError) this.#tokens.forget(user);
      throw error;
    } finally {
      this.#metrics.record(tried, 'write', endpoint, outcome, performance.now() - started);
    }
  }

  #remember(user: string | undefined, side: Side, epoch: number, position: CommitPosition | undefined): void {
    if (user === undefined) return;
    const route = this.#routes.current;
    if (side === 'green') {
      // Its epoch alone tells a process that has not heard of the promotion to look again.
      if (route.writesOn === 'green') this.#tokens.record(user, { epoch: route.epoch, lsn: LSN_ZERO });
      else this.#tokens.forget(user);
    } else if (position === 'unknown') {
      this.#tokens.recordUnknown(user);
    } else if (position !== undefined) {
      this.#tokens.record(user, { epoch, lsn: position });
    } else {
      this.#tokens.forget(user);
    }
  }
}

/** As a transaction on green fails for reasons of green's, and not of the function's, blue runs it again. */
async function readTransactionOnGreen<T>(
  client: pg.PoolClient,
  isolation: IsolationLevel | undefined,
  work: TransactionFunction<T>,
  guard: Guard,
): Promise<T> {
  let sideError: unknown;
  const watched: TransactionFunction<T> = (transaction) =>
    work({
      side: transaction.side,
      query: async (query, values) => {
        try {
          return await transaction.query(query, values);
        } catch (error) {
          if (countsAgainstSide(error)) sideError = error;
          throw error;
        }
      },
    });
  try {
    const { value } = await runTransaction(client, 'green', { readOnly: true, isolation }, false, watched, guard);
    return value;
  } catch (error) {
    // Nothing was written, so a COMMIT whose outcome is unknown is only one more failure of green.
    const isGreens = countsAgainstSide(error) || error instanceof CommitOutcomeUnknownError;
    const cause = sideError ?? (isGreens ? error : undefined);
    throw cause === undefined ? error : new SideFailure(cause);
  }
}

function routed<R extends pg.QueryResultRow>({ value, side }: Answered<pg.QueryResult<R>>): RoutedResult<R> {
  return Object.assign(value, { side });
}
