import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { createActivities } from '../../activities/index.js';
import { planSchema } from '../../src/plan/schema.js';
import { libpqEnvironment } from '../../src/postgres/schema-copy/pg-dump-native.js';
import { knownSettings } from '../../src/postgres/known-settings.js';
import { setOnlyTables } from '../../src/postgres/only-tables.js';
import {
  closeSession,
  openBeside,
  openReplicationSession,
  openSession,
  RefusedLogin,
  useAgain,
  withSession,
  type Database,
} from '../../src/postgres/session.js';
import { databasesOf, secretsRead } from '../../src/worker/connections.js';
import { redactor } from '../../src/worker/redact.js';
import { LinkProxy } from '../support/link-proxy.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

const USER = `connection_user_${randomBytes(4).toString('hex')}`;

let db: TestDatabase;
let database: Database;
beforeAll(async () => {
  db = await testDatabase('pg18', 'connection');
  database = asDatabase(db, 'green');
});
afterAll(() => db.drop());

const opening = (config: object): Promise<unknown> =>
  withSession({ ...database, config: { ...database.config, ...config } }, { purpose: 'test' }, () => Promise.resolve());

describe('a session that can not be opened is tried again', () => {
  it('when the server does not answer, or ends the connection', async () => {
    const sockets: Socket[] = [];
    const silent = createServer((socket) => sockets.push(socket));
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as AddressInfo;
    try {
      await expect(opening({ port, connectionTimeoutMillis: 200 })).rejects.toMatchObject({
        type: 'ConnectionFailed',
        retryable: true,
        message: expect.stringContaining('timeout expired') as string,
      });
      const cut = opening({ port });
      await sleep(50);
      sockets.forEach((socket) => socket.destroy());
      await expect(cut).rejects.toMatchObject({ type: 'ConnectionFailed', retryable: true });
    } finally {
      sockets.forEach((socket) => socket.destroy());
      await new Promise((resolve) => silent.close(resolve));
    }
  });

  it.each([
    ['role', `ALTER ROLE ${USER} CONNECTION LIMIT 0`],
    ['database', 'ALTER DATABASE %d CONNECTION LIMIT 0'],
  ])('when all connections of the %s are taken', async (_, limit) => {
    await withClient(db.config, async (client) => {
      await client.query(`CREATE ROLE ${USER} LOGIN PASSWORD 'secret-of-user'`);
      try {
        await client.query(limit.replace('%d', db.database));
        await expect(opening({ user: USER, password: 'secret-of-user' })).rejects.toMatchObject({
          type: 'ConnectionFailed',
          retryable: true,
          message: expect.stringMatching(/all connections are taken.*53300.*\nNext step: give green room/) as string,
        });
      } finally {
        await client.query(`DROP ROLE ${USER}; ALTER DATABASE ${db.database} CONNECTION LIMIT -1`);
      }
    });
  });

  it('when the server speaks no TLS, and that is asked for', async () => {
    await expect(opening({ ssl: true })).rejects.toMatchObject({
      ...{ type: 'ConnectionFailed', retryable: true },
      message: expect.stringMatching(/the server speaks no TLS\nNext step: mend .*sslmode/) as string,
    });
  });

  it('when the password is wrong: it may have been changed a moment ago', async () => {
    const refused = opening({ password: 'wrong' });
    await expect(refused).rejects.toBeInstanceOf(RefusedLogin);
    await expect(refused).rejects.toMatchObject({ type: 'ConnectionFailed', retryable: true });
  });

  it('but not without a password, or to a database that is not there', async () => {
    for (const config of [{ password: '' }, { database: 'nowhere' }]) {
      await expect(opening(config)).rejects.toMatchObject({ type: 'ConnectionFailed', retryable: false });
    }
  });
});

describe('a password that is changed', () => {
  const FILE = join(mkdtempSync(join(tmpdir(), 'verdigris-secret-')), 'uri');
  const plan = planSchema.parse({ name: 'rotated', blue: { connection: 'a' }, green: { connection: 'b' } });
  const ref = { plan, runId: 'run' };
  const alter = (password: string): Promise<unknown> =>
    withClient(db.config, (client) => client.query(`ALTER ROLE ${USER} PASSWORD '${password}'`));
  const mount = (password: string): void =>
    writeFileSync(FILE, `postgres://${USER}:${password}@127.0.0.1:${db.port}/${db.database}\n`);
  const environment = { VERDIGRIS_CONNECTION_A_FILE: FILE, VERDIGRIS_CONNECTION_B_FILE: FILE };

  beforeAll(async () => {
    await withClient(db.config, (client) => client.query(`CREATE ROLE ${USER} LOGIN PASSWORD 'first-secret'`));
    mount('first-secret');
  });
  afterAll(async () => {
    await withClient(db.config, (client) => client.query(`DROP ROLE ${USER}`));
    rmSync(dirname(FILE), { recursive: true });
  });

  it('is read anew for each session, and cut out of texts like the one before', async () => {
    const { blue } = databasesOf(plan, environment);
    const open = (): Promise<unknown> => withSession(blue, { purpose: 'test' }, () => Promise.resolve());
    await withSession(blue, { purpose: 'test' }, async (session) => {
      await alter('second-secret');
      await expect(open()).rejects.toBeInstanceOf(RefusedLogin);
      mount('second-secret');
      await open();
      await (await openBeside(session, { purpose: 'test' })).end();
    });
    expect(libpqEnvironment(blue)?.['PGPASSWORD']).toBe('second-secret');
    expect(redactor([], secretsRead)('first-secret, second-secret, other')).toBe('***, ***, other');
  });

  it('keeps a step waiting, and is told at once by the preflight', async () => {
    mount('not-yet');
    const activities = createActivities({ environment, redact: (text) => text });
    const ended = (work: () => Promise<unknown>): Promise<unknown> =>
      new MockActivityEnvironment().run(work).catch((error: unknown) => error);
    for (const work of [
      () => activities.copySchema(ref),
      () => activities.undoReplication(ref, { keepGreen: false }),
      () => activities.promote(ref, 'blue', 1),
    ]) {
      expect(await ended(work)).toMatchObject({ type: 'ConnectionFailed', nonRetryable: false });
    }
    expect(await ended(() => activities.preflight(ref))).toMatchObject({
      ...{ type: 'PreflightFailed', nonRetryable: true },
      message: expect.stringMatching(/blue: a: .*\(28P01\) \(connection\)/) as string,
    });
    // Nobody may be there any more when it looks again after a wait.
    expect(await ended(() => activities.preflight(ref, true))).toMatchObject({
      ...{ type: 'PreflightFailed', nonRetryable: false },
      message: expect.stringMatching(/blue: a: .*\(28P01\) \(connection\)/) as string,
    });
    expect(await ended(() => activities.otherReaders(ref))).toMatchObject({ nonRetryable: true });
  });
});

describe('a session of ours', () => {
  it('does not have all settings of the server written out', async () => {
    const query = vi.spyOn(pg.Client.prototype, 'query');
    try {
      await withSession(database, { purpose: 'test' }, async (session) => {
        await session.query(`SELECT ${setOnlyTables(true)}`);
        await closeSession(await openReplicationSession(database, 'test'));
        expect(query.mock.calls.flat().filter((sent) => String(sent).includes('pg_settings'))).toEqual([]);
        const known = await session.query(`SELECT name FROM ${knownSettings(['lock_timeout', 'no_such_setting'])}`);
        expect(known.rows).toEqual([{ name: 'lock_timeout' }]);
      });
    } finally {
      query.mockRestore();
    }
  });

  it('takes no function or operator of another schema for one of pg_catalog, whatever the database has for search_path', async () => {
    const own = await testDatabase('pg18', 'names found');
    try {
      await withClient(own.config, (client) =>
        client.query(`
          CREATE SCHEMA trap; CREATE SEQUENCE trap.sprung;
          CREATE FUNCTION trap.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$SELECT nextval('trap.sprung')::text$$;
          CREATE FUNCTION trap.current_setting(text) RETURNS text LANGUAGE sql AS $$SELECT nextval('trap.sprung')::text$$;
          CREATE FUNCTION trap.count(text) RETURNS bigint LANGUAGE sql AS $$SELECT nextval('trap.sprung')$$;
          CREATE FUNCTION trap.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS $$SELECT nextval('trap.sprung') < 0$$;
          CREATE FUNCTION trap.same(text, text) RETURNS boolean LANGUAGE sql AS $$SELECT nextval('trap.sprung') < 0$$;
          CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.same);
          ALTER DATABASE ${own.database} SET search_path = trap, pg_catalog`),
      );
      await withSession(asDatabase(own, 'green'), { purpose: 'test' }, async (session) => {
        const names = ['search_path', 'standard_conforming_strings', 'synchronous_commit'];
        const { rows } = await session.query(`SELECT current_setting(name) AS is FROM ${knownSettings(names)}`);
        expect(rows).toEqual([{ is: 'pg_catalog' }, { is: 'on' }, { is: 'on' }]);
        await closeSession(await openReplicationSession(asDatabase(own, 'green'), 'test'));
        const { rows: sprung } = await session.query('SELECT is_called FROM trap.sprung');
        expect(sprung).toEqual([{ is_called: false }]);
      });
    } finally {
      await own.drop();
    }
  });

  it('that is used again for another purpose is cut with its signal, though nothing answers', async () => {
    const link = await LinkProxy.start(db.port);
    try {
      const behind = { ...database, config: { ...database.config, port: link.port } };
      await withSession(behind, { purpose: 'test' }, async (session) => {
        link.delay(3_000);
        const began = performance.now();
        const again = useAgain(session, { purpose: 'again', cutOn: AbortSignal.timeout(100) });
        await expect(again).rejects.toThrow();
        expect(performance.now() - began).toBeLessThan(2_000);
      });
    } finally {
      await link.close();
    }
  });

  it('is ended by no timeout of the database', async () => {
    await withClient(db.config, async (client) => {
      for (const name of ['transaction_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout'])
        await client.query(`ALTER DATABASE ${db.database} SET ${name} = '200ms'`);
    });
    const session = await openSession(database, { purpose: 'test' });
    try {
      await sleep(300);
      await session.query('SELECT pg_sleep(0.3)');
      await session.query('BEGIN');
      await sleep(300);
      await session.query('COMMIT');
    } finally {
      await session.end().catch(() => undefined);
      await withClient({ ...db.config, database: 'postgres' }, (client) =>
        client.query(`ALTER DATABASE ${db.database} RESET ALL`),
      );
    }
  });
});
