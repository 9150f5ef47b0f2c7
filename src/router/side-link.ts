import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import type { Side } from '../side.js';
import { ROUTE_CHANNEL, routeOf, type Route, type RouteRow } from '../postgres/state.js';
import { NO_RIGHT, sqlState, UNDEFINED_SCHEMA, UNDEFINED_TABLE } from '../postgres/sqlstate.js';
import { AS_TEXT } from './as-text.js';
import { Coalesced } from './coalesced.js';
import { KEEP_ALIVE } from './connection.js';
import { isLinkFailure, LinkDownError } from './failure.js';
import type { RouterLogger } from './logger.js';
import { within } from '../timing.js';

/** What a look at a side's route found: its row, or that it has none. */
export type Sighting = Route | 'none';

export interface SideLinkOptions {
  readonly side: Side;
  /** As its pool's; a `Client` of the application's own, as one that fetches its password, is used here too. */
  readonly config: pg.PoolConfig;
  readonly migration: string;
  readonly pollIntervalMs: number;
  readonly logger: RouterLogger;
  readonly onSeen: (side: Side, seen: Sighting) => void;
  /** The side has announced a change, which is about to be looked at. */
  readonly onHeard?: (side: Side) => void;
  /** The connection was lost: what was known about the side's state may not hold after it comes back. */
  readonly onDown: (side: Side) => void;
}

/** A server that is alive answers the link's tiny questions well within this. */
const ANSWER_MS = 300;
/** After a pause of this process itself, the answer may lie unread in the socket: read it before giving up. */
const GRACE_MS = 100;
/** The first requests wait for the first look, and it may be cancelled, say by a lock_timeout. */
const FIRST_LOOKS = { most: 3, pauseMs: 50 };
/** Looks in a row that told nothing. */
const TOLD_AFTER = 3;
const RECONNECT_MS = { first: 50, longest: 1_000 };
/** For one try. The application may let its pools wait longer, but a side that drops packets must be heard of when it is back. */
const CONNECT_MS = { default: 1_000, longest: 3_000 };

/**
 * The router's own connection to a side, beside the pool: it hears of changes of the route, asks small questions without
 * waiting for a free connection, and is how a side that has gone silent is noticed.
 */
export class SideLink {
  readonly side: Side;
  /** Resolves when the side's route has been read for the first time. */
  readonly seen: Promise<void>;
  #resolveSeen: () => void = () => undefined;
  readonly #options: SideLinkOptions;
  readonly #closing = new AbortController();
  readonly #looks = new Coalesced(() => this.#look());
  #client: pg.Client | undefined;
  #downSince = performance.now();
  #hasState = false;
  #isListening = false;
  /** Over this connection. */
  #hasSeen = false;
  #failedLooks = 0;
  #tail: Promise<unknown> = Promise.resolve();
  #running: Promise<void> = Promise.resolve();

  constructor(options: SideLinkOptions) {
    this.side = options.side;
    this.#options = options;
    this.seen = new Promise((resolve) => (this.#resolveSeen = resolve));
  }

  get isUp(): boolean {
    return this.#client !== undefined;
  }

  /** For how long there has been no connection, ms; 0 while there is one. */
  get downForMs(): number {
    return this.isUp ? 0 : performance.now() - this.#downSince;
  }

  /** Whether the side has the schema verdigris, as of the last look. */
  get hasState(): boolean {
    return this.#hasState;
  }

  /** Starts to connect, and keeps at it. Resolves when the first try is over, well or not. */
  start(): Promise<void> {
    return new Promise((resolve) => {
      this.#running = this.#keepConnected(resolve);
    });
  }

  /** Reads the route now. @throws LinkDownError when the side does not answer. */
  look(): Promise<void> {
    return this.#looks.ask();
  }

  /**
   * Asks a small question, after those that were asked before. Its columns are to be texts.
   *
   * @throws LinkDownError when there is no answer.
   */
  query<R extends pg.QueryResultRow>(text: string, values: unknown[] = []): Promise<R[]> {
    const answer = this.#tail.then(() => this.#send<R>(text, values));
    this.#tail = answer.catch(() => undefined);
    return answer;
  }

  async close(): Promise<void> {
    this.#closing.abort();
    const client = this.#client;
    this.#client = undefined;
    if (client !== undefined) {
      await within(client.end(), 1_000, undefined);
      // A server that is frozen never answers the goodbye.
      client.connection.stream.destroy();
    }
    await this.#running;
  }

  async #keepConnected(firstTryOver: () => void): Promise<void> {
    let wait = RECONNECT_MS.first;
    while (!this.#closing.signal.aborted) {
      try {
        await this.#connect();
        await this.#firstLook();
        wait = RECONNECT_MS.first;
        firstTryOver();
        await this.#poll();
      } catch (error) {
        this.#options.logger.debug({ side: this.side, code: sqlState(error) }, 'router: no link to this side');
        this.#drop(this.#client);
      }
      firstTryOver();
      await this.#sleep(wait);
      wait = Math.min(wait * 2, RECONNECT_MS.longest);
    }
    this.#resolveSeen();
  }

  async #connect(): Promise<void> {
    const { config } = this.#options;
    const Client = (config.Client ?? pg.Client) as typeof pg.Client;
    const client = new Client({
      application_name: 'verdigris router',
      ...KEEP_ALIVE,
      ...config,
      types: AS_TEXT,
      connectionTimeoutMillis: Math.min(config.connectionTimeoutMillis || CONNECT_MS.default, CONNECT_MS.longest),
    });
    client.on('error', () => this.#drop(client));
    client.on('end', () => this.#drop(client));
    client.on('notification', () => {
      this.#options.onHeard?.(this.side);
      this.look().catch(() => undefined);
    });
    const giveUp = (): void => void client.connection.stream.destroy();
    this.#closing.signal.addEventListener('abort', giveUp, { once: true });
    try {
      await client.connect();
    } finally {
      this.#closing.signal.removeEventListener('abort', giveUp);
    }
    if (this.#closing.signal.aborted) {
      await client.end();
      return;
    }
    this.#client = client;
    this.#isListening = false;
    this.#hasSeen = false;
    await this.#listen();
  }

  async #firstLook(): Promise<void> {
    await this.look();
    for (let looks = 1; looks < FIRST_LOOKS.most && !this.#hasSeen; looks++) {
      await this.#sleep(FIRST_LOOKS.pauseMs);
      await this.look();
    }
  }

  /** A standby, as green is until it is promoted in one kind of bootstrap, refuses to, and would log each try. */
  async #listen(): Promise<void> {
    if (this.#isListening) return;
    const [row] = await this.query<{ recovers: string }>(RECOVERS);
    if (row?.recovers !== 'false') return;
    await this.query(`LISTEN ${ROUTE_CHANNEL}`);
    this.#isListening = true;
  }

  /** Notifications are the fast way to hear of a change; a look now and then is the sure one. */
  async #poll(): Promise<void> {
    for (;;) {
      await this.#sleep(this.#options.pollIntervalMs);
      if (this.#closing.signal.aborted || !this.isUp) return;
      await this.#listen();
      await this.look();
    }
  }

  async #look(): Promise<void> {
    try {
      // Asking first keeps errors about a missing table out of the server's log.
      this.#hasState ||= await this.#isInstalled();
      if (!this.#hasState) return this.#saw('none');
      const [row] = await this.query<AsText<RouteRow>>(ROUTE, [this.#options.migration]);
      this.#saw(row === undefined ? 'none' : routeOf(numbersOf(row)));
    } catch (error) {
      if (isLinkFailure(error)) throw error;
      // A look that was cancelled, say, says nothing: what was seen goes on to hold.
      if (!NOT_TO_BE_SEEN.has(sqlState(error))) return this.#tellOfFailed(error);
      this.#hasState = false;
      this.#saw('none');
    }
  }

  #saw(seen: Sighting): void {
    this.#failedLooks = 0;
    this.#hasSeen = true;
    this.#options.onSeen(this.side, seen);
    this.#resolveSeen();
  }

  #tellOfFailed(error: unknown): void {
    this.#failedLooks += 1;
    const { logger } = this.#options;
    const failed = { side: this.side, code: sqlState(error) };
    if (this.#failedLooks === TOLD_AFTER)
      logger.warn(failed, 'router: the route of this side can not be read: what was known of it goes on to hold');
    else logger.debug(failed, 'router: a look at the route of this side has failed');
  }

  async #isInstalled(): Promise<boolean> {
    const [row] = await this.query<{ there: string }>(INSTALLED);
    return row?.there === 'true';
  }

  async #send<R extends pg.QueryResultRow>(text: string, values: unknown[]): Promise<R[]> {
    const client = this.#client;
    if (client === undefined) throw new LinkDownError(`there is no connection to ${this.side}`);
    const asked = client.query<R>(text, values);
    const answer = (await within(asked, ANSWER_MS, undefined)) ?? (await within(asked, GRACE_MS, undefined));
    if (answer !== undefined) return answer.rows;
    this.#drop(client);
    throw new LinkDownError(`${this.side} does not answer`);
  }

  #drop(client: pg.Client | undefined): void {
    if (client === undefined || client !== this.#client) return;
    this.#client = undefined;
    this.#downSince = performance.now();
    // Not awaited: a frozen server never answers the goodbye.
    client.end().catch(() => undefined);
    this.#options.onDown(this.side);
  }

  async #sleep(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#closing.signal }).catch(() => undefined);
  }
}

type AsText<Row> = { readonly [Column in keyof Row]: Row[Column] extends number ? string : Row[Column] };

function numbersOf(row: AsText<RouteRow>): RouteRow {
  return {
    ...row,
    epoch: Number(row.epoch),
    generation: Number(row.generation),
    green_read_percent: Number(row.green_read_percent),
  };
}

/** The schema has been removed, or is not for this role to see. */
const NOT_TO_BE_SEEN: ReadonlySet<string | undefined> = new Set([UNDEFINED_TABLE, UNDEFINED_SCHEMA, NO_RIGHT]);

const RECOVERS = 'SELECT pg_catalog.pg_is_in_recovery()::text AS recovers';

const INSTALLED = `
  SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = 'verdigris' AND c.relname = 'route')::text AS there`;

const ROUTE = `
  SELECT migration, epoch::text, generation::text, writes_on, green_read_percent::text, flag, opening
    FROM verdigris.route WHERE migration = $1`;
