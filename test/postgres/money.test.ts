import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readTables } from '../../src/postgres/catalog.js';
import { columnsOfTypes } from '../../src/postgres/preflight/columns-of-types.js';
import { judgeMoney } from '../../src/postgres/preflight/money.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';

let db: TestDatabase;
let session: Session;
beforeAll(async () => {
  db = await testDatabase('pg15', 'money');
  session = await openSession(asDatabase(db, 'blue'), { purpose: 'test' });
  await session.query(`
    CREATE SCHEMA shop;
    CREATE DOMAIN shop.price AS money;
    CREATE TYPE shop.offer AS (price shop.price, note text);
    CREATE TYPE shop.prices AS RANGE (subtype = money);
    CREATE TABLE shop.plain (id int PRIMARY KEY, total numeric, kept shop.offer[]);
    CREATE TABLE shop.sales (id int PRIMARY KEY, total money, list money[], offer shop.offer, range shop.prices);
    CREATE TABLE shop.none (id int PRIMARY KEY, total numeric)`);
});
afterAll(async () => {
  await closeSession(session);
  await db.drop();
});

describe('money', () => {
  it('is found in columns of every type that is made of it', async () => {
    const tables = await readTables(session, { include: ['*.*'], exclude: [] });
    expect((await columnsOfTypes(session, tables, ['money'])).sort()).toEqual([
      'shop.plain.kept',
      'shop.sales.list',
      'shop.sales.offer',
      'shop.sales.range',
      'shop.sales.total',
    ]);
  });

  it('is refused where green writes it in another way, and not where only the name of the locale is another', () => {
    const german = { locale: 'de_DE.UTF-8', sample: '1.234.567,89 € -1.234,50 € 0,07 €' };
    const plain = { locale: 'C', sample: '$1,234,567.89 -$1,234.50 $0.07' };
    expect(judgeMoney(['shop.sales.total'], german, plain)).toMatchObject([
      { severity: 'error', object: 'shop.sales.total', remedy: expect.stringContaining("'de_DE.UTF-8'") as string },
    ]);
    expect(judgeMoney(['shop.sales.total'], { ...plain, locale: 'en_US.UTF-8' }, plain)).toEqual([]);
  });
});
