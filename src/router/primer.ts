import type { AloneQuery, Connection, LimitedQuery } from './connection.js';
import { isLinkFailure } from './failure.js';
import type { RecentStatements } from './recent-statements.js';
import { send } from './send.js';

/** A plan that has to wait, for somebody's lock, is not worth it: the connection is given up. So is one that is silent. */
const ANSWER_MS = 1_000;
/** Enough for what is run all the time; the others have to be primed, too. */
const CONNECTION_MS = 250;

/**
 * Has connections get ready for what the application will ask of them: a new one reads the catalog, loads the language of
 * the triggers and opens tables and indexes at its first statements, and while twenty do so at once, each of these takes
 * tens of milliseconds.
 *
 * Nothing is run: EXPLAIN only plans, here in read-only transactions and by the protocol that takes one statement alone.
 */
export class Primer {
  readonly #statements: RecentStatements;
  /** The occasion for which each connection was primed last. */
  readonly #primed = new WeakMap<Connection, string>();

  constructor(statements: RecentStatements) {
    this.#statements = statements;
  }

  /** Primes a connection, once for each occasion. Never fails; a connection that does not answer is marked as lost. */
  async prime(connection: Connection, occasion: string): Promise<void> {
    if (this.#primed.get(connection) === occasion) return;
    this.#primed.set(connection, occasion);
    const deadline = performance.now() + CONNECTION_MS;
    try {
      await connection.become('reader', ANSWER_MS);
      await this.#plan(connection, FENCE, []);
      for (const { text, values } of this.#statements.list()) {
        if (performance.now() > deadline) break;
        await this.#plan(connection, `EXPLAIN ${text}`, [...values]);
      }
      await connection.become('writer', ANSWER_MS);
    } catch {
      connection.lose();
    }
  }

  /** What can't be planned here (a table that this side does not have, a right that is missing) is no reason to stop. */
  async #plan({ client }: Connection, text: string, values: unknown[]): Promise<void> {
    const query: AloneQuery & LimitedQuery = { text, values, queryMode: 'extended', query_timeout: ANSWER_MS };
    try {
      await send(client, query, undefined);
    } catch (error) {
      if (isLinkFailure(error)) throw error;
    }
  }
}

/** The first call of a session loads the language that the fence is written in, and looks up what it needs. */
const FENCE = 'SELECT verdigris.get_ready()';
