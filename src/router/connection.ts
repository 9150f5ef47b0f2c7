import type pg from 'pg';
import { send } from './send.js';
import type { Awaited } from './while-alive.js';

/** A reader's connection refuses writes: `nextval` and the like are not stopped by the fence. */
export type Role = 'reader' | 'writer';

/** A connection of a pool, with what the router knows of it. */
export class Connection implements Awaited {
  readonly client: pg.PoolClient;
  #role: Role = 'writer';
  /** The sweep in which it was taken out of pg.Pool. */
  takenIn = 0;
  /** See WhileAlive. */
  since = 0;
  /** It has failed or was closed by the server: of no use any more. */
  isLost = false;

  constructor(client: pg.PoolClient) {
    this.client = client;
  }

  is(role: Role): boolean {
    return this.#role === role;
  }

  get isInTransaction(): boolean {
    const status = this.client.getTransactionStatus();
    return status === 'T' || status === 'E';
  }

  /** Whoever waits for an answer on it gets this error. */
  giveUp(error: Error): void {
    this.client.connection.stream.destroy(error);
  }

  async become(role: Role): Promise<void> {
    await send(this.client, role === 'reader' ? READ_ONLY : READ_WRITE, undefined);
    this.#role = role;
  }
}

const READ_ONLY = 'SET default_transaction_read_only = on';
const READ_WRITE = 'RESET default_transaction_read_only';
