import { readFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import type { AddressInfo } from 'node:net';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import type { PairContext } from '../../src/postgres/preflight/check.js';
import { loggedPassword } from '../../src/postgres/preflight/logged-password.js';
import { probePeer } from '../../src/postgres/peer-probe.js';
import { runSecretStatement } from '../../src/postgres/secret-statement.js';
import { closeSession, inTransaction, openSession, type Session } from '../../src/postgres/session.js';
import { dropSubscription, ensureSubscription, redirectSubscription } from '../../src/postgres/subscription.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { testedVersion } from '../support/tested-version.js';

const VERSION = testedVersion('pg18') === 'pg18' ? 18 : 15;
const SECRET = 'Passw0rd-of-the-peer';
const NAME = 'secret_feed';

describe(`the password of the other server, on PostgreSQL ${VERSION}`, () => {
  let server: EmbeddedPostgres;
  let db: TestDatabase;

  beforeAll(async () => {
    server = await startPostgres({
      version: VERSION,
      name: 'secret',
      settings: {
        shared_preload_libraries: 'pg_stat_statements',
        log_statement: 'ddl',
        log_lock_waits: 'on',
        fsync: 'off',
      },
    });
    db = await testDatabase(server, 'secret');
    await withClient(db.config, async (client) => {
      await client.query(`SET log_statement = 'none'; SET pg_stat_statements.track_utility = off`);
      await client.query(`CREATE ROLE plain LOGIN REPLICATION PASSWORD '${SECRET}'`);
    });
    await asAdmin(`CREATE EXTENSION pg_stat_statements; GRANT CREATE ON DATABASE ${db.database} TO plain;
      GRANT SET ON PARAMETER deadlock_timeout TO plain`);
    if (VERSION > 15) await asAdmin('GRANT pg_create_subscription TO plain');
  });

  afterAll(() => server.stop());

  const asAdmin = (sql: string): Promise<unknown> => withClient(db.config, (client) => client.query(sql));
  const conninfo = (port = server.port): string =>
    `host=127.0.0.1 port=${port} user=plain password=${SECRET} dbname=${db.database}`;

  async function as<T>(
    login: pg.ClientConfig,
    work: (session: Session) => Promise<T>,
    statementTimeoutMs = 0,
  ): Promise<T> {
    const database = { ...asDatabase(db, 'green'), config: { ...db.config, ...login } };
    const session = await openSession(database, { purpose: 'test', statementTimeoutMs });
    try {
      return await work(session);
    } finally {
      await closeSession(session);
    }
  }
  const PLAIN = { user: 'plain', password: SECRET };

  /** Everything that the run does with it, with the errors that it goes by. */
  async function useIt(login: pg.ClientConfig): Promise<void> {
    const { port, close } = await silentPort();
    await as(login, async (session) => {
      // Of the publication that is not there PostgreSQL warns.
      await probePeer(session, conninfo());
      await expect(probePeer(session, conninfo(1))).rejects.toMatchObject({ code: '08006' });
      await expect(probePeer(session, `${conninfo()} nonsense`)).rejects.toMatchObject({ code: '42601' });
      const options = { name: NAME, conninfo: conninfo(), copyData: false, enabled: false, publisherVersion: VERSION };
      await ensureSubscription(session, options);
      const again = `CREATE SUBSCRIPTION ${NAME} CONNECTION '${conninfo()}' PUBLICATION ${NAME} WITH (connect = false)`;
      await expect(inTransaction(session, () => runSecretStatement(session, again))).rejects.toMatchObject({
        ...{ code: '42710', message: `subscription "${NAME}" already exists` },
      });
      await withClient(db.config, async (holder) => {
        await holder.query('BEGIN; LOCK TABLE pg_subscription IN ACCESS EXCLUSIVE MODE');
        await session.query(`SET lock_timeout = '300ms'; SET deadlock_timeout = '20ms'`);
        await expect(inTransaction(session, () => runSecretStatement(session, again))).rejects.toMatchObject({
          code: '55P03',
        });
        await holder.query('COMMIT');
      });
      await redirectSubscription(session, NAME, `${conninfo()} connect_timeout=3`);
      await dropSubscription(session, NAME);
    });
    await expect(as(login, (session) => probePeer(session, conninfo(port)), 500)).rejects.toMatchObject({
      code: '57014',
    });
    close();
    expect(readFileSync(server.logFile, 'utf8').includes('still waiting for')).toBe(true);
  }

  async function expectKept(): Promise<void> {
    const log = readFileSync(server.logFile, 'utf8');
    expect(log.split('\n').filter((line) => line.includes(SECRET))).toEqual([]);
    const { rows } = await withClient(db.config, (client) =>
      client.query<{ all: number; secret: number }>(
        `SELECT count(*)::int AS all, count(*) FILTER (WHERE query LIKE '%' || $1 || '%')::int AS secret FROM pg_stat_statements`,
        [SECRET],
      ),
    );
    expect(rows).toEqual([{ all: expect.any(Number) as number, secret: 0 }]);
    expect(rows[0]?.all).toBeGreaterThan(10);
    // What is looked for would be there.
    expect(log).toMatch(/WARNING: {2}publication "verdigris_probe_.*\n.*CONTEXT: {2}SQL function "run" statement 1/);
  }

  it.skipIf(VERSION === 15)('is in no log and no statistics where the role is no superuser', async () => {
    await useIt(PLAIN);
    await expectKept();
  });

  it('nor where it may not make a subscription', async () => {
    await asAdmin(`CREATE ROLE nobody LOGIN PASSWORD 'x'; GRANT CREATE ON DATABASE ${db.database} TO nobody`);
    const login = { user: 'nobody', password: 'x' };
    await expect(as(login, (session) => probePeer(session, conninfo()))).rejects.toMatchObject({ code: '42501' });
    await as({}, (session) => probePeer(session, conninfo()));
    await expectKept();
  });

  it('nor where all statements are written down with their values, and the role may switch that off', async () => {
    await asAdmin(`ALTER ROLE postgres SET log_statement = 'all'; ALTER ROLE postgres SET log_min_duration_statement = 0;
      ALTER ROLE postgres SET pg_stat_statements.track = 'all'`);
    await useIt({});
    await expectKept();
  });

  it('nor in the statistics of services that count what functions run, or the preflight says so', async () => {
    await as(PLAIN, async (session) => {
      // As these modules list their settings: a relation of this session goes before the one of the catalog.
      await session.query(`CREATE TEMP VIEW pg_settings AS
        SELECT name, setting, context, vartype FROM pg_catalog.pg_settings UNION ALL
        VALUES ('pg_stat_monitor.pgsm_track', 'all', 'user', 'enum'), ('pg_stat_monitor.pgsm_track_utility', 'on', 'user', 'bool'),
               ('pg_qs.query_capture_mode', 'all', 'sighup', 'enum'), ('pg_qs.track_utility', 'on', 'sighup', 'bool')`);
      const side = { session, database: { ...asDatabase(db, 'green'), peerConninfo: conninfo() } };
      const pair = { blue: { ...side, side: 'blue' }, green: { ...side, side: 'green' } } as unknown as PairContext;
      const found = await loggedPassword.run(pair);
      expect(found).toMatchObject([
        { side: 'green', severity: 'warning', object: 'pg_qs.query_capture_mode' },
        { side: 'blue', severity: 'warning', object: 'pg_qs.query_capture_mode' },
      ]);
      expect(found.map(({ remedy }) => remedy).join()).not.toContain('GRANT');
      await session.query('BEGIN');
      await runSecretStatement(session, 'SELECT 1');
      const { rows } = await session.query(
        `SELECT current_setting('pg_stat_monitor.pgsm_track_utility', true) AS monitor, current_setting('pg_qs.track_utility', true) AS qs`,
      );
      expect(rows).toEqual([{ monitor: 'off', qs: null }]);
      await session.query('ROLLBACK');
    });
  });

  it('is made no second time where another worker has made the subscription between the look and the statement', async () => {
    const other = `CREATE SUBSCRIPTION ${NAME} CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)`;
    await as({}, async (session) => {
      const ask = session.query.bind(session) as (...statement: unknown[]) => Promise<unknown>;
      const query = async (...statement: unknown[]): Promise<unknown> => {
        if (String(statement[0]).includes('CREATE SCHEMA')) await asAdmin(other);
        return ask(...statement);
      };
      Object.assign(session, { query });
      const options = { name: NAME, conninfo: conninfo(), copyData: false, enabled: false, publisherVersion: VERSION };
      await ensureSubscription(session, options);
      await dropSubscription(session, NAME);
    });
  });
});

/** A port that takes connections and says nothing. */
async function silentPort(): Promise<{ port: number; close: () => void }> {
  const sockets: Socket[] = [];
  const listener = createServer((socket) => sockets.push(socket));
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const { port } = listener.address() as AddressInfo;
  const close = (): void => {
    for (const socket of sockets) socket.destroy();
    listener.close();
  };
  return { port, close };
}
