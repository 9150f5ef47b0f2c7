import { createServer, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import type { PlanInput } from '../../src/plan/schema.js';
import type { PreflightFinding } from '../../src/postgres/preflight/finding.js';
import type { Database } from '../../src/postgres/session.js';
import { databasesOf } from '../../src/worker/connections.js';
import { testDatabase, withClient } from '../support/postgres.js';
import { contents, errorsOf, only, preflightPair, TAG } from '../support/preflight-pair.js';

const pair = preflightPair('servers');
const { check, onBlue, onGreen, undo } = pair;

describe('preflight', () => {
  it('warns of parameters that the worker makes nothing of; the other server gets by with those that are there', async () => {
    const environment = {
      VERDIGRIS_CONNECTION_TEST_BLUE: `${pair.blueDb.uri}?uselibpqcompat=true&sslmode=disable&schema=public&connect_timeout=5`,
      VERDIGRIS_CONNECTION_TEST_GREEN: `${pair.greenDb.uri}?ssl=0`,
    };
    const plan = { blue: { connection: 'test_blue' }, green: { connection: 'test_green' } };
    const found = await check({}, databasesOf(plan, environment));
    expect(errorsOf(found)).toEqual([]);
    const [warned, ...more] = only(found, 'connection-parameters');
    expect(more).toEqual([]);
    expect(warned).toMatchObject({ severity: 'warning', side: 'blue', object: 'test_blue' });
    expect(warned?.message).toMatch(/: schema, connect_timeout$/);
  });

  it('warns of limits of time that hold for what PostgreSQL itself runs for a feed, until they are gone for its user', async () => {
    expect(only(await check(), 'feed-timeouts')).toEqual([]);
    await onBlue(`ALTER DATABASE ${pair.blueDb.database} SET statement_timeout = '30s'`);
    undo.push(() => onBlue(`ALTER DATABASE ${pair.blueDb.database} RESET statement_timeout`));
    await onGreen(`ALTER DATABASE ${pair.greenDb.database} SET transaction_timeout = '1min'`);
    undo.push(() => onGreen(`ALTER DATABASE ${pair.greenDb.database} RESET transaction_timeout`));
    const found = only(await check(), 'feed-timeouts');
    expect(
      found.map(({ severity, side, object, message }) => [severity, side, object, message.split(' also ')[0]]),
    ).toEqual([
      ['warning', 'blue', 'statement_timeout', 'the statement_timeout of 30 s that user "postgres" has on blue'],
      ['warning', 'green', 'transaction_timeout', 'the transaction_timeout of 60 s that user "postgres" has on green'],
    ]);
    for (const { side, remedy } of found) {
      const statement = remedy.split(', until')[0] ?? '';
      await (side === 'blue' ? onBlue(statement) : onGreen(statement));
      undo.push(() =>
        side === 'blue'
          ? onBlue(statement.replace(/ SET (\w+) = 0/, ' RESET $1'))
          : onGreen(statement.replace(/ SET (\w+) = 0/, ' RESET $1')),
      );
    }
    expect(only(await check(), 'feed-timeouts')).toEqual([]);
  });

  it('refuses a name whose slots another database of the server has, on both sides', async () => {
    const name = `orders-${TAG}`;
    const slots = { blue: `verdigris_orders_${TAG}_to_green_2`, green: `verdigris_orders_${TAG}_to_blue` };
    const others = [await testDatabase('pg15', 'preflight other'), await testDatabase('pg18', 'preflight other')];
    for (const [i, slot] of [slots.blue, slots.green].entries()) {
      const other = others[i];
      if (other === undefined) throw new Error('there are two');
      undo.push(() => other.drop());
      await withClient(other.config, (client) =>
        client.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [slot]),
      );
    }
    const found = only(await check({ name, replicate: { streams: 2 } }), 'slot-names');
    expect(found.map(({ side, severity, object }) => [side, severity, object])).toEqual([
      ['blue', 'error', slots.blue],
      ['green', 'error', slots.green],
    ]);
    expect(found[0]?.message).toContain(`"${others[0]?.database}"`);
    // One of its own database is that of an earlier try.
    await onBlue(`SELECT pg_create_logical_replication_slot('verdigris_own_${TAG}_to_green', 'pgoutput')`);
    undo.push(() => onBlue(`SELECT pg_drop_replication_slot('verdigris_own_${TAG}_to_green')`));
    expect(only(await check({ name: `own-${TAG}` }), 'slot-names')).toEqual([]);
    expect(only(await check({ name, replicate: { streams: 1 } }), 'slot-names').map(({ side }) => side)).toEqual([
      'green',
    ]);
  });

  it('names physical replicas of blue, which nobody writes after the retirement', async () => {
    const slot = `replica_${TAG}`;
    await onBlue(`SELECT pg_create_physical_replication_slot('${slot}')`);
    undo.push(() => onBlue(`SELECT pg_drop_replication_slot('${slot}')`));
    expect(only(await check(), 'replicas').filter(({ object }) => object === slot)).toEqual([
      expect.objectContaining({
        severity: 'warning',
        side: 'blue',
        message: expect.stringContaining(`the physical slot "${slot}" (not connected) reads blue's WAL`) as string,
        remedy: expect.stringContaining('before `retire`') as string,
      }),
    ]);
  });

  it('says of a consumer of blue when to hand it over', async () => {
    const slot = `cdc_late_${TAG}`;
    await onBlue(`SELECT pg_create_logical_replication_slot('${slot}', 'pgoutput')`);
    undo.push(() => onBlue(`SELECT pg_drop_replication_slot('${slot}')`));
    const [finding] = only(await check(), 'other-consumers').filter(({ object }) => object === slot);
    expect(finding?.remedy).toMatch(
      /Before `retire`: publication and slot on green.*No slot on green before writes move/,
    );
  });

  it('refuses a publication of all tables only while a subscription reads it, which would stop at tables of the run', async () => {
    const name = `bi_${TAG}`;
    await onBlue(`CREATE PUBLICATION ${name} FOR ALL TABLES`);
    undo.push(() => onBlue(`DROP PUBLICATION ${name}`));
    const told = async (): Promise<string[]> =>
      only(await check(), 'other-consumers')
        .filter(({ object }) => object === name)
        .map(({ severity, message }) => `${severity} ${message}`);
    expect(await told()).toContainEqual(expect.stringMatching(/^warning .*has the tables of schema verdigris, too/));
    const reader = await testDatabase('pg18', 'preflight_reader');
    undo.push(() => reader.drop());
    const conninfo = pair.blue.peerConninfo.replaceAll("'", "''");
    await onBlue(`SELECT pg_create_logical_replication_slot('${name}', 'pgoutput')`);
    await withClient(reader.config, async (client) => {
      await client.query(
        `CREATE SUBSCRIPTION ${name} CONNECTION '${conninfo}' PUBLICATION ${name} WITH (connect = false, slot_name = ${name})`,
      );
      await client.query(`ALTER SUBSCRIPTION ${name} ENABLE`);
    });
    undo.push(() =>
      withClient(reader.config, (client) => client.query(`DROP SUBSCRIPTION ${name}`)).then(() => undefined),
    );
    await vi.waitFor(
      async () =>
        expect(await told()).toContainEqual(expect.stringMatching(new RegExp(`^error .*and ${name} reads it`))),
      { timeout: 10_000, interval: 300 },
    );
  });

  it('warns of stored settings that green lacks or has otherwise, without their values', async () => {
    const role = `app_${TAG}`;
    for (const [on, path] of [
      [onBlue, 'app, public'],
      [onGreen, 'public'],
    ] as const) {
      await on(
        `CREATE ROLE ${role}; ALTER ROLE ${role} SET search_path = ${path}; ALTER ROLE ${role} SET work_mem = '8MB'`,
      );
      undo.push(() => on(`DROP ROLE ${role}`));
    }
    await onBlue(`ALTER ROLE ${role} SET statement_timeout = '7s'`);
    const found = only(await check(), 'stored-settings').map(({ object, message }) => `${object}: ${message}`);
    expect(found).toContainEqual(
      expect.stringMatching(new RegExp(`role ${role}: statement_timeout.* are not on green`)),
    );
    expect(found).toContainEqual(
      expect.stringMatching(new RegExp(`role ${role}: search_path.* have other values on green`)),
    );
    expect(found.join()).not.toMatch(/work_mem|7s/);
  });
});

describe('a connection', () => {
  const SECRET = 'pa"ss w0rd!-secret';

  it('that fails is one error; the other side is still looked at, and no secret is told', async () => {
    await onBlue('CREATE TABLE public.keyless (a int)');
    undo.push(() => onBlue('DROP TABLE public.keyless'));
    const wrong: Database = { ...pair.green, config: { ...pair.green.config, password: SECRET } };
    const findings = await check({}, { green: wrong });
    expect(errorsOf(findings)).toEqual(
      ['replica-identity blue', 'connection green'].sort((a) => (a.startsWith('conn') ? 1 : -1)),
    );
    expect(JSON.stringify(findings)).not.toContain('secret');
  });

  it('from one server to the other is really tried, both ways, and the reason is told without secrets', async () => {
    const quoted = `'${SECRET}'`;
    const findings = await check(
      {},
      {
        blue: {
          ...pair.blue,
          peerConninfo: `host=127.0.0.1 port=${pair.blueDb.port} user=postgres password=${quoted} dbname=${pair.blueDb.database}`,
        },
        green: {
          ...pair.green,
          peerConninfo: `postgres://postgres:${encodeURIComponent(SECRET)}@127.0.0.1:1/${pair.greenDb.database}`,
        },
      },
    );
    const peer = only(findings, 'peer-connection');
    expect(peer.map(({ side }) => side).sort()).toEqual(['blue', 'green']);
    expect(peer.find(({ side }) => side === 'green')?.message).toMatch(
      /green can't reach blue: .*password authentication failed/,
    );
    expect(peer.find(({ side }) => side === 'blue')?.message).toMatch(
      /blue can't reach green: .*[Cc]onnection refused/s,
    );
    expect(JSON.stringify(findings)).not.toMatch(/secret|127\.0\.0\.1/);
    expect(await contents(pair.greenDb)).toMatchObject({ subscriptions: 0, slots: 0 });
  });

  it("by an address that is a server's own is none, though it answers", async () => {
    const { port, database } = pair.blueDb;
    const own = `host=localhost port=${port} user=postgres password='${pair.blueDb.config.password}' dbname=${database}`;
    const findings = await check({}, { green: { ...pair.green, peerConninfo: own } });
    expect(only(findings, 'peer-connection')).toMatchObject([
      { side: 'blue', severity: 'error', message: expect.stringContaining('it reaches itself') as string },
    ]);
    expect(await contents(pair.blueDb)).toMatchObject({ subscriptions: 0, slots: 0 });
  });

  it('to a host that never answers is given up in time', async () => {
    const sockets: Socket[] = [];
    const silent = createServer((socket) => sockets.push(socket));
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    undo.push(
      () => new Promise((resolve) => silent.close(resolve)),
      async () => sockets.forEach((socket) => socket.destroy()),
    );
    const address = silent.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const started = performance.now();
    const findings = await check(
      {},
      { blue: { ...pair.blue, peerConninfo: `host=127.0.0.1 port=${port} user=x password=yyyy dbname=z` } },
    );
    expect(only(findings, 'peer-connection')).toMatchObject([
      { side: 'green', message: expect.stringContaining('no answer within 1 s') as string },
    ]);
    expect(performance.now() - started).toBeLessThan(30_000);
  });
});

it('names sessions that hold advisory locks, which green does not know', async () => {
  const locks = async (): Promise<unknown[]> => only(await check(), 'advisory-locks');
  await withClient({ ...pair.blue.config, application_name: 'the leader' }, async (client) => {
    await client.query('BEGIN; SELECT pg_advisory_xact_lock(7)');
    expect(await locks()).toEqual([]);
    await client.query('COMMIT; SELECT pg_advisory_lock(7), pg_advisory_lock_shared(8)');
    expect(await locks()).toMatchObject([
      { severity: 'warning', side: 'blue', object: 'the leader, user postgres: 2' },
    ]);
  });
  expect(await locks()).toEqual([]);
});

it('names sessions that listen, and those that take jobs by a lock of rows: the fence refuses neither', async () => {
  const found = async (name: string): Promise<unknown[]> =>
    only(await check(), name).map(({ severity, side, object }) => [severity, side, object]);
  await withClient({ ...pair.blue.config, application_name: 'cable' }, async (client) => {
    await client.query('LISTEN verdigris_route');
    expect(await found('listeners')).toEqual([]);
    await client.query('listen "new orders"');
    expect(await found('listeners')).toEqual([['warning', 'blue', 'cable, user postgres']]);
    await client.query(
      'UPDATE orders SET total = 1 WHERE id = (SELECT id FROM orders LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id',
    );
    expect([...(await found('listeners')), ...(await found('job-queues'))]).toEqual([]);
    await client.query('SELECT id\n FROM orders ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1');
    expect(await found('job-queues')).toEqual([['warning', 'blue', 'cable, user postgres']]);
  });
  expect([...(await found('listeners')), ...(await found('job-queues'))]).toEqual([]);
});

describe('connections', () => {
  it('of the server, the database and the user must be enough for the plan, with their numbers', async () => {
    const user = `preflight_user_${TAG}`;
    await onBlue(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user' CONNECTION LIMIT 13;
                  ALTER DATABASE ${pair.blueDb.database} CONNECTION LIMIT 4`);
    undo.push(() => onBlue(`DROP ROLE ${user}; ALTER DATABASE ${pair.blueDb.database} CONNECTION LIMIT -1`));
    const config = { ...pair.blue.config, user, password: 'secret-of-user' };
    const plan = { bootstrap: { parallel: 4 } };
    const found = only(await check(plan, { blue: { ...pair.blue, config } }), 'connections');
    expect(found).toMatchObject([
      {
        side: 'blue',
        severity: 'error',
        object: `database "${pair.blueDb.database}"`,
        message: '4 connections are allowed and 0 are in use, so 4 are free; at least 6 are needed',
        remedy: `ALTER DATABASE "${pair.blueDb.database}" CONNECTION LIMIT 14`,
      },
      {
        side: 'blue',
        severity: 'warning',
        object: `role "${user}"`,
        message: expect.stringContaining('13 are free; the run takes up to 14 at once') as string,
      },
    ]);
    // A superuser is held to neither.
    expect(only(await check(plan), 'connections')).toEqual([]);
  });
});

describe('a server', () => {
  let small: EmbeddedPostgres;
  beforeAll(async () => {
    small = await startPostgres({
      version: 15,
      name: 'preflight-small',
      settings: {
        fsync: 'off',
        wal_level: 'replica',
        max_replication_slots: '1',
        max_wal_senders: '1',
        max_logical_replication_workers: '0',
        max_worker_processes: '1',
        max_connections: '10',
        max_locks_per_transaction: '10',
        max_slot_wal_keep_size: '100MB',
        synchronous_commit: 'off',
        default_transaction_read_only: 'on',
        timezone: 'Europe/Berlin',
      },
    });
  });
  afterAll(() => small.stop());

  it('that is not set up for logical replication is told everything at once', async () => {
    const config = {
      host: '127.0.0.1',
      port: small.port,
      user: 'postgres',
      password: small.password,
      database: 'postgres',
    };
    await withClient(config, (client) =>
      client.query('BEGIN READ WRITE').then(() => client.query('CREATE TABLE t (id int PRIMARY KEY); COMMIT')),
    );
    const database: Database = { side: 'blue', connection: 'small', config, peerConninfo: small.uri() };
    const findings = await check({}, { blue: database });
    const onSmall = findings
      .filter(({ side }) => side === 'blue')
      .map(({ check: name, severity }) => `${severity} ${name}`);
    expect(onSmall).toEqual(
      expect.arrayContaining([
        'error wal-level',
        'error read-only-by-default',
        'error replication-slots',
        'error wal-senders',
        'error logical-replication-workers',
        'warning connections',
        'warning wal-retention',
        'info asynchronous-commit',
      ]),
    );
    // Nobody has ALTER SYSTEM on a managed service.
    expect(only(findings, 'wal-level')[0]?.remedy).toContain('cloudsql.logical_decoding');
    expect(only(findings, 'read-only-by-default')[0]?.remedy).toContain('give it storage');
    expect(only(findings, 'settings').map(({ object }) => object)).toContain('TimeZone');
    expect(findings.filter(({ check: name }) => name === 'check-failed')).toEqual([]);
  });

  it('whose first superuser has another name than that of blue lacks an owner', async () => {
    const config = { ...pair.greenDb.config, port: small.port, password: small.password, database: 'postgres' };
    const user = `small_admin_${TAG}`;
    const asUser = { ...config, user, password: 'secret-of-user' };
    const write = (as: typeof config, sql: string): Promise<unknown> =>
      withClient(as, (client) => client.query(`BEGIN READ WRITE; ${sql}; COMMIT`));
    await write(config, `CREATE ROLE ${user} SUPERUSER LOGIN PASSWORD 'secret-of-user'`);
    undo.push(() => write(config, `DROP ROLE ${user}`));
    const database: Database = { side: 'green', connection: 'small', config: asUser, peerConninfo: small.uri() };
    const found = async (plan: Partial<PlanInput> = {}): Promise<string[]> =>
      only(await check(plan, { green: database }), 'roles').map(({ severity, object }) => `${severity} ${object}`);
    expect(await found()).toEqual([]);
    await write(asUser, 'ALTER ROLE postgres RENAME TO root');
    undo.push(() => write(asUser, 'ALTER ROLE root RENAME TO postgres'));
    expect(await found()).toEqual(['error postgres']);
    expect(await found({ tables: { exclude: ['public.*'] } })).toEqual([]);
  });

  it('whose table of locks is clearly too small for all tables in one transaction is warned of', async () => {
    const config = { ...pair.greenDb.config, port: small.port, password: small.password, database: 'postgres' };
    const small15: Database = { side: 'green', connection: 'small', config, peerConninfo: small.uri() };
    const found = async (): Promise<PreflightFinding[]> => only(await check({}, { green: small15 }), 'schema-locks');
    expect(await found()).toEqual([]);
    await onBlue(`CREATE SCHEMA wide; DO $$ BEGIN
      FOR n IN 1..150 LOOP EXECUTE format('CREATE TABLE wide.t%s (id int PRIMARY KEY, body text)', n); END LOOP; END $$`);
    undo.push(() => onBlue('DROP SCHEMA wide CASCADE'));
    expect(await found()).toEqual([
      expect.objectContaining({ severity: 'warning', side: 'green', object: 'max_locks_per_transaction' }),
    ]);
    expect(only(await check(), 'schema-locks')).toEqual([]);
  });
});
