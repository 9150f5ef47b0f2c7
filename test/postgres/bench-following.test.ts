import { afterEach, describe, expect, it } from 'vitest';
import { UP } from '../../bench/backfill/change.js';
import { refuseDifference, whileGreenFollows } from '../../bench/backfill/following.js';
import { makeTable } from '../../bench/backfill/seed.js';
import { prepareVerdigris } from '../../bench/backfill/verdigris.js';
import type { Databases } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

const ROWS = 1_000;

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

interface Pair {
  readonly databases: Databases;
  readonly onBlue: (statement: string) => Promise<number | null>;
  readonly onGreen: (statement: string) => Promise<number | null>;
}

async function pair(): Promise<Pair> {
  const make = async (server: 'pg15' | 'pg18'): Promise<TestDatabase> => {
    const made = await testDatabase(server, 'bench following');
    open.push(() => made.drop());
    await withClient(made.config, (client) => makeTable(client, ROWS));
    return made;
  };
  const [blue, green] = [await make('pg15'), await make('pg18')];
  const on =
    ({ config }: TestDatabase) =>
    async (statement: string): Promise<number | null> =>
      (await withClient(config, (client) => client.query(statement))).rowCount;
  return {
    databases: { blue: asDatabase(blue, 'blue'), green: asDatabase(green, 'green') },
    ...{ onBlue: on(blue), onGreen: on(green) },
  };
}

describe('the backfill as a run does it, which the benchmark measures', () => {
  it('fills a green that follows blue, with a value for what is written meanwhile, and leaves no feed behind', async () => {
    const { databases, onBlue, onGreen } = await pair();
    await whileGreenFollows(databases, async () => {
      const { beside } = await prepareVerdigris(databases, 2);
      await onBlue(`INSERT INTO transactions (user_id, amount, currency, status) VALUES (1, 1, 'EUR', 'new')`);
      await beside();
      await onBlue(`UPDATE transactions SET status = 'late' WHERE id <= 10`);
      await refuseDifference(databases);
      const filled = `SELECT FROM transactions WHERE metadata ->> 'status' = status AND metadata ->> 'currency' = currency`;
      expect(await onGreen(filled)).toBe(ROWS + 1);
      expect(await onGreen(`${filled} AND status = 'late'`)).toBe(10);
    });
    expect(
      await onGreen(
        'SELECT FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND datname = current_database()',
      ),
    ).toBe(0);
    expect(await onBlue('SELECT FROM pg_replication_slots WHERE database = current_database()')).toBe(0);
  });

  it('is told from one that leaves a wrong value, an old column that differs, or a row too few', async () => {
    const { databases, onGreen } = await pair();
    await whileGreenFollows(databases, async () => {
      await (await prepareVerdigris(databases, 2)).beside();
      await refuseDifference(databases);
      await onGreen(`UPDATE transactions SET metadata = '{}' WHERE id = 7`);
      await expect(refuseDifference(databases)).rejects.toThrow(/in some of its 1000 rows/);
      await onGreen(`UPDATE transactions SET metadata = ${UP} WHERE id = 7`);
      await refuseDifference(databases);
      await onGreen('UPDATE transactions SET amount = amount + 1 WHERE id = 7');
      await expect(refuseDifference(databases)).rejects.toThrow(/in some of its 1000 rows/);
      await onGreen('DELETE FROM transactions WHERE id = 7');
      await expect(refuseDifference(databases)).rejects.toThrow(/has 999 rows, blue 1000/);
    });
  });
});
