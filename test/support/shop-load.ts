import { setTimeout as sleep } from 'node:timers/promises';
import type { EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { withClient } from './postgres.js';

/** Money goes from account to account, rows come and go in every table, for as long as it is not stopped. */
export class ShopLoad {
  transactions = 0;
  readonly #clients: Promise<void>[];
  #stopped = false;

  constructor(blue: EmbeddedPostgres) {
    this.#clients = [1, 2].map((n) =>
      withClient({ connectionString: blue.uri('shop') }, async (client) => {
        for (let i = 0; !this.#stopped; i++) {
          const [from, to] = [1 + ((i * 7 + n) % 25), 26 + ((i * 11 + n) % 25)];
          await client.query(
            `BEGIN;
             UPDATE accounts SET balance = balance - 1 WHERE id = ${from};
             UPDATE accounts SET balance = balance + 1 WHERE id = ${to};
             INSERT INTO entries (account, amount) VALUES (${from}, -1), (${to}, 1);
             INSERT INTO clicks (day) VALUES (1), (2);
             DELETE FROM clicks WHERE id = (SELECT min(id) FROM clicks WHERE day = ${1 + (i % 2)}) AND day = ${1 + (i % 2)} AND ${i % 3} = 0;
             ${i % 10 === 9 ? 'ROLLBACK' : 'COMMIT'}`,
          );
          this.transactions++;
          await sleep(3);
        }
      }),
    );
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#clients);
  }
}
