import type { Connection } from './connection.js';

/**
 * A connection goes back to pg.Pool after at most twice this time, so that what the pool does with its idle connections
 * (idleTimeoutMillis, maxLifetimeSeconds, min) holds, to within this time.
 */
const SWEEP_MS = 500;

/**
 * Connections that are kept for the next request instead of being given back to pg.Pool: to give one back and take it
 * out again (timers, listeners, a turn of the event loop) costs more than all else that the router does for a request.
 */
export class KeptConnections {
  readonly #giveBack: (connection: Connection) => void;
  readonly #idle: Connection[] = [];
  #sweep = 0;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(giveBack: (connection: Connection) => void) {
    this.#giveBack = giveBack;
  }

  get size(): number {
    return this.#idle.length;
  }

  /** The one that was used last. */
  take(): Connection | undefined {
    return this.#idle.pop();
  }

  /** Says of a connection that it has just been taken out of pg.Pool. */
  begin(connection: Connection): void {
    connection.takenIn = this.#sweep;
    if (!this.#isClosed) this.#goOnSweeping();
  }

  keep(connection: Connection): void {
    if (this.#isClosed || this.#sweep > connection.takenIn + 1) return this.#giveBack(connection);
    this.#idle.push(connection);
    // While all were in use for long, there was nothing to sweep.
    this.#goOnSweeping();
  }

  /** A connection was lost: if it lies here, it goes. */
  drop(connection: Connection): void {
    const at = this.#idle.indexOf(connection);
    if (at === -1) return;
    this.#idle.splice(at, 1);
    this.#giveBack(connection);
  }

  close(): void {
    this.#isClosed = true;
    this.#giveIdleBack();
  }

  #goOnSweeping(): void {
    this.#timer ??= setInterval(() => this.#giveIdleBack(), SWEEP_MS).unref();
  }

  #giveIdleBack(): void {
    this.#sweep += 1;
    const idle = this.#idle.splice(0);
    if (idle.length === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
    for (const connection of idle) this.#giveBack(connection);
  }
}
