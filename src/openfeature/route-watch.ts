import type pg from 'pg';
import type { Route } from '../postgres/state.js';
import { Heartbeat } from '../router/heartbeat.js';
import type { RouterLogger } from '../router/logger.js';
import type { InstanceName } from '../router/instance-name.js';
import { RequestMetrics } from '../router/metrics.js';
import { Routes } from '../router/routes.js';
import { SideLink } from '../router/side-link.js';
import { within } from '../timing.js';
import type { Side } from '../side.js';

export interface RouteWatchOptions {
  readonly migration: string;
  readonly blue: pg.ClientConfig;
  readonly green: pg.ClientConfig;
  readonly instance: InstanceName;
  readonly version: string | undefined;
  readonly pollIntervalMs: number;
  readonly heartbeatIntervalMs: number;
  readonly logger: RouterLogger;
  /** The route is another one, or can be relied upon again, or no more. */
  readonly onChange: (news: { readonly isNewRoute: boolean }) => void;
}

/** The first look waits no longer for the route: an application must start while a side is down. */
const FIRST_LOOK_MS = 2_000;

/**
 * Knows the route as a router does, without its pools: one connection to each side, which hears of changes and tells
 * the run which route this process follows.
 */
export class RouteWatch {
  readonly #options: RouteWatchOptions;
  readonly #routes: Routes;
  readonly #links: Readonly<Record<Side, SideLink>>;
  readonly #heartbeat: Heartbeat;
  readonly #looked = new Set<Side>();
  #wasReliable = false;

  constructor(options: RouteWatchOptions) {
    const { migration, instance, version, heartbeatIntervalMs, logger } = options;
    this.#options = options;
    this.#routes = new Routes(migration);
    this.#links = { blue: this.#linkTo('blue'), green: this.#linkTo('green') };
    this.#routes.use([this.#links.blue, this.#links.green]);
    this.#heartbeat = new Heartbeat({
      migration,
      instance,
      ...(version === undefined ? {} : { version }),
      intervalMs: heartbeatIntervalMs,
      routes: this.#routes,
      links: this.#links,
      // A flag counts no requests; the row says that this process lives and what it follows.
      metrics: new RequestMetrics(),
      logger,
    });
  }

  get route(): Route {
    return this.#routes.current;
  }

  /**
   * Whether a change of the route would be heard of. While blue takes the writes, only blue's row says how many users
   * read from green: cut off from blue, this process can't know that the reads were taken back. After the promotion
   * the way back is a new epoch, and blue is no safer a guess than green.
   */
  get isReliable(): boolean {
    return this.route.writesOn === 'green' || (this.#links.blue.isUp && this.#looked.has('blue'));
  }

  /** Resolves when both sides were tried once, after two seconds at the latest. */
  async start(): Promise<void> {
    this.#routes.onChange(() => {
      this.#tell(true);
      void this.#heartbeat.beat();
    });
    const tries = [this.#links.blue.start(), this.#links.green.start()];
    await within(Promise.all(tries), FIRST_LOOK_MS, undefined);
    this.#heartbeat.start();
    await this.#heartbeat.beat();
  }

  async close(): Promise<void> {
    await this.#heartbeat.end();
    await Promise.all([this.#links.blue.close(), this.#links.green.close()]);
  }

  #linkTo(side: Side): SideLink {
    const { migration, pollIntervalMs, logger } = this.#options;
    return new SideLink({
      side,
      config: this.#options[side],
      migration,
      pollIntervalMs,
      logger,
      onSeen: (from, seen) => {
        this.#looked.add(from);
        this.#routes.see(from, seen);
        this.#tell(false);
      },
      onDown: (from) => {
        this.#looked.delete(from);
        this.#tell(false);
      },
    });
  }

  #tell(isNewRoute: boolean): void {
    const { isReliable } = this;
    if (!isNewRoute && isReliable === this.#wasReliable) return;
    this.#wasReliable = isReliable;
    this.#options.onChange({ isNewRoute });
  }
}
