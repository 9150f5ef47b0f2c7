import type pg from 'pg';
import type { Registry } from 'prom-client';
import type { Route } from '../postgres/state.js';
import type { Side } from '../side.js';
import { doesMoreThanRead } from './besides-reading.js';
import { BluePosition } from './blue-position.js';
import { Breaker } from './breaker.js';
import { isNobody } from './cohort.js';
import { GreenProgress } from './green-progress.js';
import { Heartbeat } from './heartbeat.js';
import { HeldRequests } from './held-requests.js';
import { RequestMetrics } from './metrics.js';
import { Mirror } from './mirror.js';
import { MIRROR_ANSWER_MS } from './mirror-judge.js';
import { settingsOf, type RouterOptions, type RouterSettings } from './options.js';
import { ReadRouting } from './read-routing.js';
import { readTransactionOnGreen } from './read-transaction.js';
import { Reads } from './reads.js';
import { RecentStatements } from './recent-statements.js';
import type { RequestOptions, RoutedResult, Router, TransactionOptions } from './router.js';
import { Routes } from './routes.js';
import { SideLink } from './side-link.js';
import { SidePool } from './side-pool.js';
import { mayCommitByItself, sendStatement, sendWrite, type Statement } from './statement.js';
import { formatToken, parseToken } from './token.js';
import { TokenStore } from './token-store.js';
import { runTransaction, type TransactionFunction } from './transaction.js';
import { within } from '../timing.js';
import { Writes } from './writes.js';

const DEFAULT_ENDPOINT = 'default';

/** So long the first requests wait for both sides; later one of them is enough to go by, since the other may be away. */
const FIRST_LOOK_MS = 1_000;

/**
 * Makes a router and starts to look for the route at once; requests wait for the first look.
 *
 * @throws RangeError for options that make no sense, and for a registry that has an open router's metrics.
 */
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
  readonly #reads: Reads;
  readonly #writes: Writes;
  readonly #heartbeat: Heartbeat;
  readonly #mirror: Mirror | undefined;
  #firstLook: Promise<void> | undefined;
  #ready: Promise<void> = Promise.resolve();

  constructor(settings: RouterSettings) {
    const { migration, instance, logger } = settings;
    this.#settings = settings;
    this.instance = instance.unique;
    this.#metrics = new RequestMetrics(settings.registry);
    this.metrics = this.#metrics.registry;
    this.#routes = new Routes(migration);
    this.#tokens = new TokenStore(settings.maxTokens);
    this.#links = { blue: this.#linkTo('blue'), green: this.#linkTo('green') };
    this.#routes.use([this.#links.blue, this.#links.green]);
    const statements = new RecentStatements();
    this.#pools = {
      blue: new SidePool('blue', settings.blue, logger, statements),
      green: new SidePool('green', settings.green, logger, statements),
    };
    this.#greenProgress = new GreenProgress(this.#links.green);
    const greenBreaker = new Breaker();
    const bluePosition = new BluePosition(this.#links.blue);
    const routing = new ReadRouting({
      routes: this.#routes,
      tokens: this.#tokens,
      bluePosition,
      greenProgress: this.#greenProgress,
      greenLink: this.#links.green,
      greenBreaker,
      consistency: settings.consistency,
      catchUpBudgetMs: settings.catchUpBudgetMs,
    });
    const held = new HeldRequests(this.#routes, this.#pools, settings.writeTimeoutMs);
    this.#reads = new Reads({
      routing,
      held,
      greenPool: this.#pools.green,
      greenLink: this.#links.green,
      greenBreaker,
      writeTimeoutMs: settings.writeTimeoutMs,
      metrics: this.#metrics,
      logger,
    });
    this.#writes = new Writes({
      held,
      routing,
      routes: this.#routes,
      tokens: this.#tokens,
      consistency: settings.consistency,
      metrics: this.#metrics,
    });
    if (settings.mirror !== undefined && settings.mirror.share > 0) {
      const { share, concurrency = 2 } = settings.mirror;
      const own = { max: concurrency, min: 0, query_timeout: MIRROR_ANSWER_MS };
      this.#mirror = new Mirror({
        ...{ share, concurrency, logger, greenBreaker, bluePosition },
        pools: {
          blue: new SidePool('blue', { ...settings.blue, ...own }, logger, statements),
          green: new SidePool('green', { ...settings.green, ...own }, logger, statements),
        },
        routes: this.#routes,
        greenLink: this.#links.green,
        greenProgress: this.#greenProgress,
        metrics: this.#metrics,
      });
    }
    this.#heartbeat = new Heartbeat({
      migration,
      instance,
      ...(settings.version === undefined ? {} : { version: settings.version }),
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
    const { blue, green } = this.#links;
    const tries = Promise.all([blue.start(), green.start()]);
    const oneIsSeen = Promise.race([blue.seen, green.seen]);
    this.#firstLook = within(tries, FIRST_LOOK_MS, undefined).then(async () => {
      await Promise.race([tries, oneIsSeen]);
    });
    this.#ready = this.#firstLook.then(() => oneIsSeen);
    this.#heartbeat.start();
  }

  async ready(): Promise<void> {
    await this.#ready;
  }

  route(): Route {
    return this.#routes.current;
  }

  read<R extends pg.QueryResultRow>(
    user: string | undefined,
    query: string | pg.QueryConfig,
    values?: unknown[],
    { endpoint = DEFAULT_ENDPOINT }: RequestOptions = {},
  ): Promise<RoutedResult<R>> {
    const statement = { query, values };
    return this.#whenStarted(() =>
      this.#reads.run<RoutedResult<R>>(someone(user), endpoint, {
        kind: 'statement',
        onlyReads: !doesMoreThanRead(query),
        onGreen: (client) => sendStatement(client, 'green', statement),
        onWritesSide: (client, side) => this.#readWhereWritesAre<R>(client, side, endpoint, statement),
        runsAgain: () => (mayCommitByItself(statement) ? 'not safe' : 'yes'),
      }),
    );
  }

  write<R extends pg.QueryResultRow>(
    user: string | undefined,
    query: string | pg.QueryConfig,
    values?: unknown[],
    { endpoint = DEFAULT_ENDPOINT }: RequestOptions = {},
  ): Promise<RoutedResult<R>> {
    const statement = { query, values };
    return this.#whenStarted(() =>
      this.#writes.run<RoutedResult<R>>(someone(user), endpoint, {
        runsAgain: () => (mayCommitByItself(statement) ? 'not safe' : 'yes'),
        send: (client, side, wantsPosition) => sendWrite<R>(client, side, statement, wantsPosition),
        positionCosts: 'a round trip',
      }),
    );
  }

  transaction<T>(
    user: string | undefined,
    { endpoint = DEFAULT_ENDPOINT, readOnly = false, isolation }: TransactionOptions,
    work: TransactionFunction<T>,
  ): Promise<T> {
    const mode = { readOnly, isolation };
    if (!readOnly) {
      const again = this.#settings.retryTransactions ? 'yes' : 'not wanted';
      return this.#whenStarted(() =>
        this.#writes.run(someone(user), endpoint, {
          runsAgain: () => again,
          send: (client, side, wantsPosition) => runTransaction(client, side, mode, wantsPosition, work),
          positionCosts: 'nothing',
        }),
      );
    }
    return this.#whenStarted(() =>
      this.#reads.run(someone(user), endpoint, {
        kind: 'function',
        onlyReads: true,
        onGreen: (client) => readTransactionOnGreen(client, isolation, work),
        onWritesSide: async (client, side) => (await runTransaction(client, side, mode, false, work)).value,
        runsAgain: () => 'yes',
      }),
    );
  }

  exportToken(user: string): string | undefined {
    const token = isNobody(user) ? undefined : this.#tokens.toExport(user);
    return token && formatToken(token);
  }

  importToken(user: string, text: string): boolean {
    const token = parseToken(text);
    if (token === undefined || isNobody(user)) return false;
    this.#tokens.import(user, token);
    return true;
  }

  async close(): Promise<void> {
    await this.#heartbeat.end();
    await Promise.all([this.#links.blue.close(), this.#links.green.close()]);
    await Promise.all([this.#pools.blue.close(), this.#pools.green.close(), this.#mirror?.close()]);
    this.#metrics.withdraw();
  }

  #readWhereWritesAre<R extends pg.QueryResultRow>(
    client: pg.PoolClient,
    side: Side,
    endpoint: string,
    statement: Statement,
  ): Promise<RoutedResult<R>> {
    const mirrored = side === 'blue' ? this.#mirror?.begin(endpoint, statement) : undefined;
    const answer = sendStatement<R>(client, side, statement);
    if (mirrored !== undefined) answer.then(mirrored, () => mirrored(undefined));
    return answer;
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
      onHeard: (from) => this.#routes.hear(from),
      onDown: () => this.#greenProgress.forget(),
    });
  }

  /** Requests wait for the first look at the route, and for nothing afterwards. */
  #whenStarted<T>(request: () => Promise<T>): Promise<T> {
    if (this.#firstLook === undefined) return request();
    return this.#firstLook.then(() => {
      this.#firstLook = undefined;
      return request();
    });
  }

  #routeChanged(route: Route, before: Route): void {
    const { epoch, generation, writesOn, greenReadPercent, opening } = route;
    this.#settings.logger.info({ epoch, generation, writesOn, greenReadPercent, opening }, 'router: new route');
    this.#metrics.showRoute(route);
    if (writesOn !== before.writesOn) this.#pools[writesOn].startSlowly();
    if (route.epoch !== before.epoch || route.greenReadPercent === 0) this.#greenProgress.forget();
    void this.#keepWarm('blue');
    void this.#keepWarm('green');
    // A run waits for the word that a stage is in force. After a move of the writes the requests that have waited go first.
    if (writesOn === before.writesOn) void this.#heartbeat.beat();
  }

  /**
   * A promotion moves all writes at once, so the side that they move to has as many connections open by then, and they
   * know what will be asked of them.
   */
  async #keepWarm(side: Side): Promise<void> {
    const { writesOn, opening, greenReadPercent, epoch, generation } = this.#routes.current;
    const isNext = side !== writesOn && (opening === side || (side === 'green' && greenReadPercent > 0));
    await this.#pools[side].keepWarm(isNext ? this.#pools[writesOn].connections : 0);
    if (side !== writesOn && opening === side) await this.#pools[side].prime(`${epoch}/${generation}`);
  }
}

/** An empty id is no user: all requests without one would be one user's. */
function someone(user: string | undefined): string | undefined {
  return isNobody(user) ? undefined : user;
}
