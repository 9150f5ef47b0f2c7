import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { preparePromotion } from '../../src/postgres/prepare-promotion.js';
import { peerConnection } from '../../src/postgres/preflight/peer-connection.js';
import type { SideContext } from '../../src/postgres/preflight/check.js';
import { createPublication, dropPublication } from '../../src/postgres/publication.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import {
  disableSubscriptions,
  dropSubscription,
  enableSubscription,
  ensureSubscription,
  readSubscription,
  redirectSubscription,
} from '../../src/postgres/subscription.js';
import { PromotionRig } from '../support/promotion-rig.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

/** Somebody whose transaction is open, as people are told of them. */
const holds = (pid: number, statement: string): string =>
  String.raw`pid ${pid} \(nightly report, user postgres, client backend, transaction \d+\.\d s old, statement \d+\.\d s: ${statement}\)`;

const BRIEFLY = { forMs: 700 };

describe.each([['pg15' as const], ['pg18' as const]])(
  'subscriptions of ours on %s, and somebody in the way',
  (server) => {
    let publisherDb: TestDatabase;
    let db: TestDatabase;
    let database: Database;
    let publisher: Session;
    let session: Session;
    let holder: pg.Client;
    let pid: number;
    let name: string;

    beforeAll(async () => {
      publisherDb = await testDatabase(server, 'locked publisher');
      db = await testDatabase(server, 'locked subscriber');
      database = asDatabase(db, 'green');
      publisher = await openSession(asDatabase(publisherDb, 'blue'), { purpose: 'test' });
      session = await openSession(database, { purpose: 'test' });
      // No slot is ever made, so its worker would not begin: subscriptions are made disabled.
      name = db.database;
      for (const [own, side] of [[publisher, 'blue'] as const, [session, 'green'] as const]) {
        await installState(own, side);
        await own.query('CREATE TABLE public.orders (id int PRIMARY KEY)');
      }
      await publisher.query(createPublication(name, 'to_green', [{ table: { schema: 'public', name: 'orders' } }]));
      holder = new pg.Client({ ...db.config, application_name: 'nightly report' });
      await holder.connect();
      pid = (await holder.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows[0]?.pid ?? 0;
    });

    afterEach(async () => {
      await holder.query('ROLLBACK');
      await dropSubscription(session, name);
    });

    afterAll(async () => {
      await holder.end();
      await dropPublication(publisher, name);
      await Promise.all([closeSession(publisher), closeSession(session)]);
      await db.drop();
      await publisherDb.drop();
    });

    const make = (forMs?: number): Promise<void> =>
      ensureSubscription(
        session,
        {
          ...{ name, conninfo: asDatabase(publisherDb, 'blue').peerConninfo, copyData: false, enabled: false },
          publisherVersion: server === 'pg15' ? 15 : 18,
          publisher,
        },
        forMs === undefined ? {} : { forMs },
      );

    /** Waits for at most 500 ms a try, and names who is in the way when the time is over. */
    async function named(work: Promise<unknown>, object: string, statement: string): Promise<void> {
      await expect(work).rejects.toMatchObject({
        ...{ type: 'LockNotHad', retryable: true },
        message: expect.stringMatching(
          // A worker of the subscription that begins may be in the way for a moment, too.
          new RegExp(`^${object}: the lock that it needs .*it waited for .*${holds(pid, statement)}`),
        ) as string,
      });
      expect((await session.query('SHOW lock_timeout')).rows).toEqual([{ lock_timeout: '2s' }]);
    }

    it('CREATE SUBSCRIPTION names who has one of its tables, leaves nothing, and is made when it is tried again', async () => {
      // Of the whole server: other subscriptions come and go with their origins.
      const origins = `SELECT FROM pg_replication_origin o
      WHERE roname ~ '^pg_[0-9]+$' AND NOT EXISTS (SELECT FROM pg_subscription s WHERE roname = 'pg_' || s.oid)`;
      await holder.query('BEGIN; LOCK TABLE public.orders IN ACCESS EXCLUSIVE MODE');
      await named(make(BRIEFLY.forMs), `CREATE SUBSCRIPTION ${name}`, 'BEGIN; LOCK TABLE');
      expect(await readSubscription(session, name)).toBeUndefined();
      expect((await session.query(origins)).rowCount).toBe(0);
      expect((await publisher.query('SELECT FROM pg_replication_slots WHERE slot_name = $1', [name])).rowCount).toBe(0);
      const made = make();
      await sleep(800);
      await holder.query('ROLLBACK');
      await made;
      expect(await readSubscription(session, name)).toMatchObject({ enabled: false, tables: 2 });
      await make();
    });

    it('CREATE SUBSCRIPTION does not wait on the publisher without end: who has a table there is named', async () => {
      const { config } = publisherDb;
      await withClient({ ...config, application_name: 'nightly report' }, async (there) => {
        await there.query('BEGIN; LOCK TABLE public.orders IN ACCESS EXCLUSIVE MODE');
        const { rows } = await there.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
        const outcome = make(BRIEFLY.forMs).then(
          () => 'made',
          (error: unknown) => String(error),
        );
        const told = await Promise.race([outcome, sleep(5_000, 'waits on')]);
        await there.query('ROLLBACK');
        await outcome;
        // Before 16, a publisher looks up its tables without a lock.
        const who = new RegExp(
          `the tables of the publication ${name}: .*waited for ${holds(rows[0]?.pid ?? 0, 'SELECT .*')}`,
        );
        expect(told).toMatch(server === 'pg15' ? /^made$/ : who);
      });
      await make();
    });

    it('CREATE SUBSCRIPTION of a worker that was late finds the one that another worker has made', async () => {
      await holder.query('BEGIN; LOCK TABLE public.orders IN ACCESS EXCLUSIVE MODE');
      const late = make();
      await sleep(100);
      await holder.query(`
      CREATE SUBSCRIPTION ${name} CONNECTION 'dbname=nowhere' PUBLICATION p
        WITH (connect = false, enabled = false, slot_name = NONE, create_slot = false);
      COMMIT`);
      await late;
      expect(await readSubscription(session, name)).toMatchObject({ enabled: false, tables: 0 });
    });

    it.each<[string, (session: Session, name: string) => Promise<unknown>, boolean]>([
      ['ALTER SUBSCRIPTION %s ENABLE', (s, n) => enableSubscription(s, n, BRIEFLY), false],
      ['ALTER SUBSCRIPTION %s DISABLE', (s, n) => disableSubscriptions(s, [n], BRIEFLY), true],
      ['ALTER SUBSCRIPTION %s CONNECTION', (s, n) => redirectSubscription(s, n, 'dbname=elsewhere', BRIEFLY), false],
      ['DROP SUBSCRIPTION %s', (s, n) => dropSubscription(s, n, BRIEFLY), false],
    ])('%s names who changes the subscription, and is done when they have gone', async (statement, work, isEnabled) => {
      await make();
      if (isEnabled) await enableSubscription(session, name);
      await holder.query(`BEGIN; ALTER SUBSCRIPTION ${name} SET (synchronous_commit = off)`);
      await named(work(session, name), statement.replace('%s', name), 'BEGIN; ALTER SUBSCRIPTION');
      await holder.query('ROLLBACK');
      await work(session, name);
      const { rows } = await session.query<{ enabled: boolean; conninfo: string }>(
        'SELECT subenabled AS enabled, subconninfo AS conninfo FROM pg_subscription WHERE subname = $1',
        [name],
      );
      if (statement.startsWith('DROP')) expect(rows).toEqual([]);
      if (statement.endsWith('ENABLE')) expect(rows[0]?.enabled).toBe(!isEnabled);
      if (statement.endsWith('CONNECTION')) expect(rows[0]?.conninfo).toBe('dbname=elsewhere');
    });

    it('the trial of the preflight does not take a lock that is missing for a server that is out of reach', async () => {
      const [blue, green] = [
        { database: asDatabase(publisherDb, 'blue'), session: publisher, side: 'blue', version: 18 },
        { database, session, side: 'green', version: 18 },
      ] as unknown as [SideContext, SideContext];
      // Of the whole server, so for a moment only.
      await holder.query('BEGIN; LOCK TABLE pg_subscription IN SHARE MODE');
      const found = await peerConnection
        .run({ blue, green, reachWithinMs: 600 })
        .finally(() => holder.query('ROLLBACK'));
      expect(found).toHaveLength(2);
      for (const { severity, message, remedy } of found) {
        expect({ severity, message }).toMatchObject({
          severity: 'error',
          message: expect.stringMatching(
            new RegExp(
              `^whether the server of .* could not be tried: .*it waited for ${holds(pid, 'BEGIN; LOCK TABLE')}`,
            ),
          ) as string,
        });
        expect(remedy).toMatch(/^End what is named/);
      }
      expect(await peerConnection.run({ blue, green, reachWithinMs: 10_000 })).toEqual([]);
    });
  },
);

describe('a promotion whose way back can not be proven, since a table is locked', () => {
  let rig: PromotionRig;
  let holder: pg.Client;
  let onGreen: pg.Client;

  beforeEach(async () => {
    rig = await PromotionRig.create('way back locked');
    await rig.writers.pause();
    holder = new pg.Client({ ...rig.databases.blue.config, application_name: 'nightly report' });
    onGreen = new pg.Client({ ...rig.databases.green.config, application_name: 'nightly report' });
    await Promise.all([holder.connect(), onGreen.connect()]);
  });

  afterEach(async () => {
    await Promise.all([holder.end(), onGreen.end()]);
    await rig.close();
  });

  const prepare = (): Promise<unknown> => {
    const { migration, tables, databases, from } = rig.move('blue');
    return preparePromotion({
      ...{ databases, migration, from, fenced: tables, locksWithinMs: BRIEFLY.forMs },
      wayBack: tables.map((table) => ({ table })),
    });
  };

  it('is blocked, with who locks it; it says nothing of a side that can not be reached', async () => {
    const { rows } = await holder.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    await holder.query('BEGIN; LOCK TABLE public.notes IN ACCESS EXCLUSIVE MODE');
    const blocked: unknown = await prepare().catch((error: unknown) => error);
    expect(blocked).toMatchObject({
      type: 'PromotionBlocked',
      message: expect.stringMatching(
        new RegExp(
          // The trial of the address already subscribes to what is published.
          `the way back can't be proven: a subscription for a trial: .*it waited for ${holds(rows[0]?.pid ?? 0, 'BEGIN; LOCK TABLE')}\\. Locking: pid`,
        ),
      ) as string,
    });
    expect((blocked as Error).message).not.toContain("can't subscribe");
    await holder.query('ROLLBACK');
    await prepare();
  });

  it.each([
    ['a vacuum of somebody is at work on green', 'CREATE PUBLICATION', 'SHARE UPDATE EXCLUSIVE', ''],
    ['green has a table to somebody alone', 'the tables of the publication', 'ACCESS EXCLUSIVE', ' Locking: pid'],
  ])('is blocked within the time for its locks where %s, with who it is', async (_, what, mode, more) => {
    // The publications are there already where it is the look at their tables that waits.
    if (more !== '') await prepare();
    const { rows } = await onGreen.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    await onGreen.query(`BEGIN; LOCK TABLE public.notes IN ${mode} MODE`);
    const began = performance.now();
    const outcome = prepare().catch((error: unknown) => error);
    const blocked = await Promise.race([outcome, sleep(20_000, 'waits on')]);
    expect(blocked).toMatchObject({
      ...{ type: 'PromotionBlocked', retryable: false },
      message: expect.stringMatching(
        new RegExp(
          `green: the way back can't be proven: ${what} .*it waited for ${holds(rows[0]?.pid ?? 0, 'BEGIN; LOCK TABLE')}${more === '' ? '\n' : `\\.${more}`}`,
        ),
      ) as string,
    });
    expect(performance.now() - began).toBeLessThan(8_000);
    await onGreen.query('ROLLBACK');
    await prepare();
  });
});
