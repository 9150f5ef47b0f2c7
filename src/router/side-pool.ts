import { once } from 'node:events';
import pg from 'pg';
import type { Side } from '../side.js';
import { sqlState } from '../postgres/sqlstate.js';
import { Connection, KEEP_ALIVE, type Role } from './connection.js';
import { AllInUse, canConnectLater, isLinkFailure, NothingSent, rememberAsLost } from './failure.js';
import { watchFence } from './fence-notice.js';
import { KeptConnections } from './kept-connections.js';
import type { RouterLogger } from './logger.js';
import { Primer } from './primer.js';
import { rememberStatements, type RecentStatements } from './recent-statements.js';
import { within } from '../timing.js';
import { Turns } from './turns.js';
import { Warmth } from './warmth.js';
import type { WhileAlive } from './while-alive.js';

/** Opening a connection takes no longer unless the application says otherwise. */
const CONNECT_MS = 1_000;

/** A server that is frozen never answers the goodbye, and its connections would keep the process from ending. */
const GOODBYE_MS = 1_000;

/** Of connections that are all new to the work, these many begin; 15 ms later all others are let in, whatever happened. */
const SLOW_START = { first: 4, ms: 15 };

/** The application's connections to one side. */
export class SidePool {
  readonly side: Side;
  readonly #pool: pg.Pool;
  readonly #turns: Turns;
  readonly #known = new WeakMap<pg.PoolClient, Connection>();
  readonly #kept = new KeptConnections((connection) => connection.client.release(connection.isLost));
  readonly #keeps: boolean;
  readonly #warmth: Warmth;
  readonly #primer: Primer;
  /** Connections that are open, in use or not. */
  readonly #open = new Set<pg.PoolClient>();
  #isPriming = false;

  /** @param statements what its connections run is remembered there, and what they are primed with. */
  constructor(side: Side, config: pg.PoolConfig, logger: RouterLogger, statements: RecentStatements) {
    this.side = side;
    this.#pool = new pg.Pool({ connectionTimeoutMillis: CONNECT_MS, ...KEEP_ALIVE, ...config });
    this.#turns = new Turns(this.#pool.options.max);
    // A pool that counts its connections' uses must see each of them.
    this.#keeps = !Number.isFinite(config.maxUses);
    this.#warmth = new Warmth(this.#pool);
    this.#primer = new Primer(statements);
    // Without listeners, the loss of an idle or of a borrowed connection would end the process.
    this.#pool.on('error', (error) =>
      logger.debug({ side, code: sqlState(error) }, 'router: an idle connection was lost'),
    );
    this.#pool.on('connect', (client) => {
      this.#open.add(client);
      watchFence(client);
      rememberStatements(client, statements);
      client.on('error', (error) => {
        // Whatever was in flight is told the same error, in a moment.
        rememberAsLost(error);
        this.#lost(client);
      });
      client.on('end', () => {
        this.#open.delete(client);
        this.#lost(client);
      });
    });
  }

  get connections(): number {
    return this.#pool.totalCount;
  }

  /** Writes come to this side all at once: see {@link SLOW_START}. */
  startSlowly(): void {
    this.#turns.startSlowly(SLOW_START.first, SLOW_START.ms);
  }

  /**
   * Runs work on a connection, which is not used again when the work leaves it in doubt.
   *
   * @param alive keeps the caller from waiting for a side that is silent. Default: it waits.
   * @param giveUpAfterMs how long to wait for a free connection. Default: for ever.
   * @throws AllInUse when none became free by then.
   * @throws NothingSent when no connection is to be had and trying later can help.
   * @throws LinkDownError when the side is found silent.
   */
  use<T>(
    role: Role,
    work: (client: pg.PoolClient) => Promise<T>,
    alive?: WhileAlive,
    giveUpAfterMs = Infinity,
  ): Promise<T> {
    // What follows is the way of nearly every request: nothing to wait for.
    if (!this.#turns.takeFree()) return this.#useInTurn(role, work, alive, giveUpAfterMs);
    const kept = this.#kept.take();
    return kept?.is(role) === true ? this.#run(kept, work, alive) : this.#acquireAndRun(kept, role, work, alive);
  }

  /** Runs work if a connection is free or may be opened now; undefined when all are in use. */
  useIfFree<T>(role: Role, work: (client: pg.PoolClient) => Promise<T>): Promise<T> | undefined {
    return this.#turns.takeFree() ? this.#acquireAndRun(this.#kept.take(), role, work, undefined) : undefined;
  }

  /**
   * Opens connections until there are `count`, and keeps as many open while idle, so that a promotion finds them. Never
   * fails: it is only a preparation.
   */
  keepWarm(count: number): Promise<void> {
    return this.#warmth.keep(count);
  }

  /**
   * Has every idle connection plan what the application has run lately, one after the other, once for each occasion. Gives
   * way as soon as somebody waits for a connection: it is called again. Never fails.
   */
  async prime(occasion: string): Promise<void> {
    if (this.#isPriming) return;
    this.#isPriming = true;
    const held: Connection[] = [];
    try {
      // The idle ones come in no order that is known, so those that are ready are held until the last one is.
      while (!this.#turns.isWanted && this.#turns.takeFree()) {
        const connection = await this.#idleConnection();
        if (connection === undefined) {
          this.#turns.passOn();
          return;
        }
        const primed = this.#primer.prime(connection, occasion);
        const hasTime = await Promise.race([primed.then(() => true), this.#turns.wanted().then(() => false)]);
        if (!hasTime) {
          // Its server may be silent: the others need not wait for that.
          void primed.then(() => this.#giveBack(connection));
          return;
        }
        held.push(connection);
      }
    } finally {
      this.#isPriming = false;
      for (const connection of held) this.#giveBack(connection);
    }
  }

  async #idleConnection(): Promise<Connection | undefined> {
    const kept = this.#kept.take();
    if (kept !== undefined || this.#pool.idleCount === 0) return kept;
    return this.#connect(undefined).catch(() => undefined);
  }

  async close(): Promise<void> {
    this.#kept.close();
    if (!this.#pool.ending) await this.#pool.end();
    const ended = Promise.all([...this.#open].map((client) => once(client, 'end')));
    await within(ended, GOODBYE_MS, undefined);
    this.#cut();
  }

  /** Ends all connections now, whatever they are at: for work that nobody waits for. */
  async abandon(): Promise<void> {
    const closed = this.close();
    this.#cut();
    await closed;
  }

  #cut(): void {
    for (const client of this.#open) client.connection.stream.destroy();
  }

  async #useInTurn<T>(
    role: Role,
    work: (client: pg.PoolClient) => Promise<T>,
    alive: WhileAlive | undefined,
    giveUpAfterMs: number,
  ): Promise<T> {
    const turn = this.#turns.take();
    try {
      const granted = giveUpAfterMs === Infinity ? turn.granted : orAllInUse(this.#turns, turn.granted, giveUpAfterMs);
      await (alive?.wait(granted) ?? granted);
    } catch (error) {
      turn.giveBack();
      throw error;
    }
    const kept = this.#kept.take();
    return kept?.is(role) === true ? this.#run(kept, work, alive) : this.#acquireAndRun(kept, role, work, alive);
  }

  async #acquireAndRun<T>(
    kept: Connection | undefined,
    role: Role,
    work: (client: pg.PoolClient) => Promise<T>,
    alive: WhileAlive | undefined,
  ): Promise<T> {
    let connection: Connection;
    try {
      connection = await this.#acquire(kept, role, alive);
    } catch (error) {
      this.#turns.passOn();
      throw error;
    }
    return this.#run(connection, work, alive);
  }

  /** Has a turn and a connection, and gives both back. */
  async #run<T>(
    connection: Connection,
    work: (client: pg.PoolClient) => Promise<T>,
    alive: WhileAlive | undefined,
  ): Promise<T> {
    alive?.begin(connection);
    try {
      const value = await work(connection.client);
      alive?.end(connection);
      this.#giveBack(connection);
      return value;
    } catch (error) {
      alive?.end(connection);
      if (isLinkFailure(error) || (error instanceof Error && isLinkFailure(error.cause))) connection.lose();
      this.#giveBack(connection);
      throw error;
    }
  }

  #giveBack(connection: Connection): void {
    if (connection.isLost || connection.isInTransaction) connection.client.release(true);
    else if (this.#keeps) this.#kept.keep(connection);
    else connection.client.release();
    this.#turns.passOn();
  }

  async #acquire(kept: Connection | undefined, role: Role, alive: WhileAlive | undefined): Promise<Connection> {
    for (let next = kept; ; next = undefined) {
      const connection = next ?? (await this.#connect(alive));
      if (connection.isLost || connection.isInTransaction) {
        connection.client.release(true);
        continue;
      }
      if (connection.is(role)) return connection;
      try {
        alive?.begin(connection);
        await connection.become(role);
        return connection;
      } catch (error) {
        connection.client.release(true);
        throw isLinkFailure(error) ? new NothingSent(error) : notToBeHad(error);
      } finally {
        alive?.end(connection);
      }
    }
  }

  async #connect(alive: WhileAlive | undefined): Promise<Connection> {
    const connecting = this.#pool.connect();
    try {
      const client = await (alive?.wait(connecting) ?? connecting);
      const connection = this.#known.get(client) ?? new Connection(client);
      this.#known.set(client, connection);
      this.#kept.begin(connection);
      return connection;
    } catch (error) {
      connecting.then(
        (client) => client.release(),
        () => undefined,
      );
      throw canConnectLater(error) ? new NothingSent(error) : notToBeHad(error);
    }
  }

  #lost(client: pg.PoolClient): void {
    const connection = this.#known.get(client);
    if (connection === undefined) return;
    connection.lose();
    this.#kept.drop(connection);
  }
}

/** Whatever kept the pool from a connection, a login, a certificate or a hook of the application's: no work has begun. */
function notToBeHad(error: unknown): unknown {
  rememberAsLost(error);
  return error;
}

async function orAllInUse(turns: Turns, granted: Promise<void>, ms: number): Promise<void> {
  const before = turns.ended;
  const isGranted = await within(
    granted.then(() => true),
    ms,
    false,
  );
  if (!isGranted) throw new AllInUse(ms, turns.ended === before);
}
