import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { copyAnew } from '../../src/postgres/bootstrap/copy-anew.js';
import { tablesync, waitUntilReady } from '../../src/postgres/bootstrap/tablesync.js';
import { feedName } from '../../src/postgres/feed.js';
import { writeProgress } from '../../src/postgres/migrate/progress-row.js';
import { ensureSlot } from '../../src/postgres/replication-slot.js';
import { closeSession, openSession } from '../../src/postgres/session.js';
import { COPY_ANEW, FeedErrors } from '../../src/postgres/stuck-feed.js';
import { ensureSubscription } from '../../src/postgres/subscription.js';
import { CopyPair } from '../postgres/copy-pair.js';

const DDL = 'CREATE TABLE item (id int PRIMARY KEY, body text); CREATE TABLE other (id int PRIMARY KEY);';
const ROWS = `INSERT INTO item SELECT n, 'body ' || n FROM generate_series(1, 1000) n;
              INSERT INTO other SELECT generate_series(1, 1000)`;

/** What green does with each row of `item` before it takes it, whoever writes it. */
function whenWritten(what: string): string {
  return `
    CREATE OR REPLACE FUNCTION obstacle() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN ${what} RETURN NEW; END$$;
    CREATE OR REPLACE TRIGGER obstacle BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION obstacle();
    ALTER TABLE item ENABLE ALWAYS TRIGGER obstacle;`;
}

const AWAY = 'DROP TRIGGER IF EXISTS obstacle ON item; DROP EVENT TRIGGER IF EXISTS obstacle';
const FULL = `RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';`;

/** Green makes no table either, as on a disk that is full. */
const FULL_FOR_TABLES = `
  CREATE FUNCTION obstacle_of_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN ${FULL} END$$;
  CREATE EVENT TRIGGER obstacle ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION obstacle_of_ddl();
  ALTER EVENT TRIGGER obstacle ENABLE ALWAYS`;

/** Who reads `item` for green. */
const COPYING = `SELECT pid FROM pg_stat_activity WHERE usename = $1 AND query LIKE 'COPY%item%'`;

async function withPair(purpose: string, work: (pair: CopyPair) => Promise<void>): Promise<void> {
  const pair = await CopyPair.start(['pg15', 'pg18'], purpose, DDL, ROWS);
  try {
    await pair.planCopy();
    await ensureSlot(pair.ourBlue, feedOf(pair));
    await work(pair);
  } finally {
    await pair.stop();
  }
}

function feedOf(pair: CopyPair): string {
  return feedName(pair.run.migration, 'to_green');
}

function synchronize(pair: CopyPair, peerConninfo = pair.blueDatabase.peerConninfo): Promise<unknown> {
  return tablesync.run({
    databases: { blue: { ...pair.blueDatabase, peerConninfo }, green: pair.greenDatabase },
    ...{ migration: pair.run.migration, direction: 'to_green', streams: 1, maxRetainedWal: 1e12 },
    signal: new AbortController().signal,
    report: () => undefined,
  });
}

async function expectSame(pair: CopyPair): Promise<void> {
  await pair.caughtUp();
  expect(await pair.differences()).toEqual([]);
}

describe("PostgreSQL's own synchronization of tables", () => {
  it('is tried again, and says what is missing, while green has no room for a table', () =>
    withPair('sync_full', async (pair) => {
      await pair.green.query(whenWritten(`IF NEW.id = 900 THEN ${FULL} END IF;`));
      await expect(synchronize(pair)).rejects.toMatchObject({
        ...{ type: 'SqlError', retryable: true, cause: { code: '53100' } },
        message: expect.stringMatching(
          /^green: the copy of table public\.item ran out of something: .*53100/,
        ) as string,
      });
      await pair.green.query(AWAY);
      await synchronize(pair);
      await expectSame(pair);
    }));

  it('is tried again while its workers do not get through to blue', () =>
    withPair('sync_link', async (pair) => {
      const role = `peer_${randomBytes(4).toString('hex')}`;
      await pair.blue.query(`
        CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'secret-of-peer';
        GRANT USAGE ON SCHEMA verdigris TO ${role};
        GRANT SELECT ON ALL TABLES IN SCHEMA public, verdigris TO ${role}`);
      try {
        const conninfo = pair.blueDatabase.peerConninfo
          .replace('user=postgres', `user=${role}`)
          .replace(/password=\S+/, 'password=secret-of-peer');
        await pair.green.query(whenWritten('IF NEW.id <= 40 THEN PERFORM pg_sleep(0.05); END IF;'));
        const synchronized = synchronize(pair, conninfo).catch((error: unknown) => error);
        await expect.poll(async () => (await pair.blue.query(COPYING, [role])).rowCount, { timeout: 20_000 }).toBe(1);
        await pair.blue.query(`ALTER ROLE ${role} NOLOGIN`);
        await pair.blue.query(`SELECT pg_terminate_backend(pid) FROM (${COPYING}) copying`, [role]);
        const failure = await synchronized;
        expect(failure).toMatchObject({
          ...{ type: 'ConnectionFailed', retryable: true },
          message: expect.stringMatching(/^green does not reach blue: .*not permitted to log in/) as string,
        });
        expect(String(failure)).not.toMatch(/secret-of-peer|127\.0\.0\.1/);
        await pair.blue.query(`ALTER ROLE ${role} LOGIN`);
        await pair.green.query(AWAY);
        await synchronize(pair, conninfo);
        await expectSame(pair);
      } finally {
        await pair.green.query(`ALTER SUBSCRIPTION ${feedOf(pair)} CONNECTION '${pair.blueDatabase.peerConninfo}'`);
        await pair.blue.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
      }
    }));

  it('is given up after many errors, and minutes, without a table that becomes ready', () =>
    withPair('sync_hopeless', async (pair) => {
      await pair.green.query(
        whenWritten(`IF EXISTS (SELECT FROM pg_stat_subscription WHERE pid = pg_backend_pid()) THEN
                       RAISE EXCEPTION 'only of a worker'; END IF;`),
      );
      const [name, conninfo] = [feedOf(pair), pair.blueDatabase.peerConninfo];
      await ensureSubscription(pair.ourGreen, { name, conninfo, copyData: true, enabled: true, publisherVersion: 15 });
      const started = performance.now();
      const waiting = waitUntilReady(pair.ourBlue, pair.ourGreen, [name], {
        ...pair.context(),
        ...{ migration: pair.run.migration, direction: 'to_green', maxRetainedWal: 1e12 },
        hopeless: { errors: 1, ms: 8_000 },
      });
      await expect(waiting).rejects.toMatchObject({ type: 'ReplicationBroken', retryable: false });
      expect(performance.now() - started).toBeGreaterThan(8_000);
    }));

  it('goes on when the errors are over and a table that is being copied takes long', () =>
    withPair('sync_over', async (pair) => {
      await pair.green.query(`CREATE SEQUENCE tries`);
      await pair.green.query(
        whenWritten(`IF EXISTS (SELECT FROM pg_stat_subscription WHERE pid = pg_backend_pid()) THEN
                       IF NEW.id = 1 AND nextval('public.tries') <= 3 THEN RAISE EXCEPTION 'only three times'; END IF;
                       IF NEW.id <= 250 THEN PERFORM pg_sleep(0.1); END IF;
                     END IF;`),
      );
      const [name, conninfo] = [feedOf(pair), pair.blueDatabase.peerConninfo];
      await ensureSubscription(pair.ourGreen, { name, conninfo, copyData: true, enabled: true, publisherVersion: 15 });
      await waitUntilReady(pair.ourBlue, pair.ourGreen, [name], {
        ...pair.context(),
        ...{ migration: pair.run.migration, direction: 'to_green', maxRetainedWal: 1e12 },
        hopeless: { errors: 2, ms: 18_000 },
      });
      await expectSame(pair);
    }));
});

describe('a feed that is late', () => {
  let pair: CopyPair;

  beforeAll(async () => {
    pair = await CopyPair.start(['pg15', 'pg18'], 'late', DDL, ROWS);
    await pair.planCopy();
    await ensureSlot(pair.ourBlue, feedOf(pair));
    await synchronize(pair);
  });

  afterAll(() => pair.stop());

  it('is called one without room where green has none, and no table is to be copied anew', async () => {
    await pair.green.query(whenWritten(FULL) + FULL_FOR_TABLES);
    await pair.blue.query(`INSERT INTO item VALUES (5000, 'late')`);
    const errors = new FeedErrors(pair.context(), pair.ourBlue, pair.ourGreen);
    const watched = (async (): Promise<void> => {
      for (const end = Date.now() + 40_000; Date.now() < end; await sleep(300)) await errors.refuse();
    })();
    await expect(watched).rejects.toMatchObject({
      ...{ type: 'SqlError', retryable: true },
      message: expect.stringMatching(/^green: the feed ran out of something: .*53100/) as string,
    });
    expect(await toCopyAnew()).toBe(0);
    await pair.green.query(AWAY);
    await expectSame(pair);
  });

  it.each([
    ['many transactions', Array.from({ length: 8 }, (_, n) => `INSERT INTO item VALUES (${6_000 + n}, 'late')`)],
    ['a large one', [`INSERT INTO item SELECT n, 'late' FROM generate_series(7000, 7007) n`]],
  ])('by %s is waited for: its tables are not copied anew', async (_, statements) => {
    const table = { schema: 'public', name: 'item' };
    await pair.green.query(whenWritten('PERFORM pg_sleep(0.3);'));
    const before = await fileOf();
    const key = { runId: pair.run.runId, step: COPY_ANEW, object: 'public.item' };
    await writeProgress(pair.ourGreen, key, { ...table, stream: feedOf(pair) }, false);
    for (const statement of statements) await pair.blue.query(statement);
    await copyAnew({ ...pair.context(), markerMs: 500 });
    expect(await toCopyAnew()).toBe(0);
    expect(await fileOf()).toEqual(before);
    await pair.green.query(AWAY);
    await expectSame(pair);
  });

  async function toCopyAnew(): Promise<number> {
    const session = await openSession(pair.greenDatabase, { purpose: 'test' });
    const { rowCount } = await session.query('SELECT FROM verdigris.progress WHERE step = $1', [COPY_ANEW]);
    await closeSession(session);
    return rowCount ?? 0;
  }

  /** Another one once the table has been emptied. */
  async function fileOf(): Promise<unknown> {
    return (await pair.green.query(`SELECT pg_relation_filenode('item') AS file`)).rows[0];
  }
});
