import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { audit } from '../../src/embedded/shop/audit.js';
import { createShop } from '../../src/embedded/shop/create-shop.js';
import { LiveLoad } from '../../src/embedded/shop/live-load.js';
import { Measurements } from '../../src/embedded/shop/measurements.js';
import { routedDatabase } from '../../src/embedded/shop/routed-database.js';
import { SHOP_ROLE } from '../../src/embedded/shop/shop-schema.js';
import { WriteLedger } from '../../src/embedded/shop/write-ledger.js';
import type { ShopDatabase } from '../../src/embedded/shop/shop-database.js';
import { testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

let blue: TestDatabase;
let database: ShopDatabase;
const ledger = new WriteLedger();
const measurements = new Measurements();

beforeAll(async () => {
  blue = await testDatabase('pg15', 'shop');
  const password = randomBytes(9).toString('hex');
  await withClient(blue.config, async (client) => {
    // The role belongs to the server, which other tests share.
    await client.query(`DO $$ BEGIN CREATE ROLE ${SHOP_ROLE} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$`);
    await client.query(`ALTER ROLE ${SHOP_ROLE} PASSWORD '${password}'`);
  });
  await createShop(blue.uri, { rows: 2_000 });
  const application = { ...blue.config, user: SHOP_ROLE, password, max: 10 };
  database = await routedDatabase({ migration: 'none', blue: application, green: { ...application, port: 1 } });
  const load = new LiveLoad(database, ledger, measurements);
  load.start(300);
  // What is missing after that is for the first test to tell.
  const deadline = Date.now() + 15_000;
  while (!hasServed() && Date.now() < deadline) await sleep(20);
  await load.stop();
});

afterAll(async () => {
  await database.close();
  await blue.drop();
});

/** Enough of both kinds for what is asked below. */
function hasServed(): boolean {
  const { reads, writes } = measurements.statistics();
  return reads.blue > 50 && writes.blue > 20;
}

describe('the sample shop', () => {
  it('serves reads and writes as an ordinary role, before any migration', () => {
    const { requests, failures, reads, writes } = measurements.statistics();
    expect(failures).toEqual({});
    expect(hasServed()).toBe(true);
    expect(requests).toBe(reads.blue + writes.blue);
    expect(ledger.acknowledged).toHaveLength(writes.blue);
  });

  it('finds every acknowledged write, whole and once', async () => {
    expect(await audit(ledger, 'blue', blue.config)).toMatchObject({
      acknowledgedWrites: ledger.acknowledged.length,
      lostWrites: 0,
      duplicatedWrites: 0,
      phantomWrites: 0,
      wrongBalances: 0,
    });
  });

  it.each([
    [
      'a transaction that is gone',
      'DELETE FROM transactions WHERE reference = $1',
      { lostWrites: 1, wrongBalances: 1 },
    ],
    [
      'a payload that was rewritten',
      "UPDATE transactions SET payload = payload || ' ' WHERE reference = $1",
      { lostWrites: 1, wrongBalances: 0 },
    ],
    [
      'an order without one of its items',
      `DELETE FROM order_items WHERE position = 1
        AND order_id = (SELECT order_id FROM transactions WHERE reference = $1)`,
      { lostWrites: 1, wrongBalances: 0 },
    ],
    [
      'a balance that was counted twice',
      `UPDATE users u SET balance = u.balance - t.amount FROM transactions t
        WHERE t.user_id = u.id AND t.reference = $1`,
      { lostWrites: 0, wrongBalances: 1 },
    ],
  ])('is not content with %s', async (_what, damage, expected) => {
    const copy = await copyOf(blue);
    try {
      await withClient(copy.config, (client) => client.query(damage, [ledger.acknowledged.at(-1)?.reference]));
      expect(await audit(ledger, 'blue', copy.config)).toMatchObject(expected);
    } finally {
      await copy.drop();
    }
  });

  it('counts a write that was reported as failed and is there all the same', async () => {
    const liar = new WriteLedger();
    const [write] = ledger.acknowledged;
    if (write !== undefined) liar.fail(write, '08006');
    expect(await audit(liar, 'blue', blue.config)).toMatchObject({ phantomWrites: 1, lostWrites: 0 });
  });
});

/** A copy to damage. */
async function copyOf(original: TestDatabase): Promise<TestDatabase> {
  const copy = await testDatabase('pg15', 'shop copy');
  await copy.drop();
  await database.close();
  await withClient({ ...original.config, database: 'postgres' }, (client) =>
    client.query(`CREATE DATABASE "${copy.database}" TEMPLATE "${original.database}"`),
  );
  return copy;
}
