import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openSnapshotSession, openTargetSession } from '../../src/postgres/bootstrap/copy/copy-sessions.js';
import { readTables } from '../../src/postgres/catalog.js';
import { columnsOfTypes } from '../../src/postgres/preflight/columns-of-types.js';
import { openInternalSession } from '../../src/postgres/migrate/internal-session.js';
import { judgeMoney } from '../../src/postgres/preflight/money.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { SideSessions } from '../../src/postgres/verify/side-sessions.js';
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

  it('is read by the copy, the backfill and the verification as by the server: its numeric depends on the locale', async () => {
    await session.query(`ALTER DATABASE "${db.database}" SET lc_monetary = 'POSIX'`);
    const database = asDatabase(db, 'green');
    const snapshot = await openSnapshotSession(database, 'test', undefined);
    if (snapshot === undefined) throw new Error('no snapshot was asked for');
    const target = await openTargetSession(database, 'test', snapshot);
    const backfill = await openInternalSession({ connect: (purpose) => openSession(database, { purpose }) });
    const sides = { source: database, target: database, direction: 'to_green' as const };
    const verify = await SideSessions.open({ ...sides, signal: new AbortController().signal });
    const all = [snapshot, target, backfill.session, verify.source, verify.target];
    try {
      const read = all.map((one) => one.query<{ locale: string }>(`SELECT current_setting('lc_monetary') AS locale`));
      expect((await Promise.all(read)).map(({ rows }) => rows[0]?.locale)).toEqual(all.map(() => 'POSIX'));
    } finally {
      await verify.close();
      for (const one of [snapshot, target, backfill.session]) await closeSession(one);
    }
  });
});
