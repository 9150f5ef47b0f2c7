import { sqlState } from '../postgres/sqlstate.js';
import { Coalesced } from './coalesced.js';
import type { InstanceName } from './instance-name.js';
import type { RouterLogger } from './logger.js';
import type { RequestMetrics } from './metrics.js';
import type { RouterMetrics } from './metrics-snapshot.js';
import type { Routes } from './routes.js';
import type { SideLink } from './side-link.js';
import type { Side } from '../side.js';

export interface HeartbeatOptions {
  readonly migration: string;
  readonly instance: InstanceName;
  /** Version of the application. */
  readonly version?: string;
  readonly intervalMs: number;
  readonly routes: Routes;
  readonly links: Readonly<Record<Side, SideLink>>;
  readonly metrics: RequestMetrics;
  readonly logger: RouterLogger;
}

/**
 * Tells the run, through the database, which route this process has applied and what it has counted. A stage counts as
 * effective only when every process has said so; without a run there is nobody to tell.
 */
export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #beats = new Coalesced(() => this.#beat());
  #timer: NodeJS.Timeout | undefined;
  #hasEnded = false;
  /** Beats in a row that could not be written. */
  #failures = 0;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer = setInterval(() => void this.beat(), this.#options.intervalMs);
    this.#timer.unref();
  }

  /** Beats no more, and says so: one that just falls silent may have been cut off. Never fails. */
  async end(): Promise<void> {
    clearInterval(this.#timer);
    this.#hasEnded = true;
    await this.beat();
  }

  /** Beats now; never fails. */
  beat(): Promise<void> {
    return this.#beats.ask();
  }

  #lacks(): Pick<RouterMetrics, 'lacks'> {
    const lacks = Object.values(this.#options.links).filter(({ downForMs }) => downForMs > LACKS_AFTER_MS);
    return lacks.length === 0 ? {} : { lacks: lacks.map(({ side }) => side) };
  }

  async #beat(): Promise<void> {
    const { migration, instance, version, routes, links, metrics, logger } = this.#options;
    const route = routes.current;
    const link = links[route.writesOn];
    if (route.epoch === 0 || !link.isUp || !link.hasState) return;
    try {
      const counted: RouterMetrics = {
        ...metrics.snapshot(),
        ...this.#lacks(),
        ...(instance.given === undefined ? {} : { name: instance.given }),
        ...(this.#hasEnded ? { ended: true } : {}),
      };
      const beat = [migration, instance.unique, route.epoch, route.generation, JSON.stringify(counted)];
      await (version === undefined ? link.query(BEAT, beat) : link.query(BEAT_WITH_VERSION, [...beat, version]));
      this.#failures = 0;
    } catch (error) {
      this.#failures += 1;
      const failed = { side: link.side, code: sqlState(error) };
      if (this.#failures === TOLD_AFTER)
        logger.warn(failed, 'router: no heartbeat is written: this instance counts as gone');
      else logger.debug(failed, 'router: the heartbeat was not written');
    }
  }
}

/** An instance that a run does not hear of is in no gate, so somebody has to know. One or two may be lost with a connection. */
const TOLD_AFTER = 3;

/** A connection that was lost is made again within this, or something keeps it away. */
const LACKS_AFTER_MS = 3_000;

/**
 * A crash may take a beat, but the link's next question waits for it: not for a disk, nor for a synchronous standby. The
 * setting is this transaction's alone.
 */
const AT_ONCE = "pg_catalog.set_config('synchronous_commit', 'off', true)";
const BEAT = `SELECT ${AT_ONCE}, verdigris.router_heartbeat($1, $2, $3::bigint, $4::bigint, $5::jsonb)`;
const BEAT_WITH_VERSION = `SELECT ${AT_ONCE}, verdigris.router_heartbeat($1, $2, $3::bigint, $4::bigint, $5::jsonb, $6)`;
