import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { decidePostgres, type PostgresGate } from '../../src/gates/decide-postgres.js';
import { readPostgres } from '../../src/gates/postgres-source.js';
import { volumeBetween } from '../../src/gates/postgres-series.js';
import { feedName } from '../../src/postgres/feed.js';
import { ident, literal } from '../../src/postgres/identifier.js';
import { LoadMeter } from '../../src/postgres/load.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { numberedNames } from '../../src/postgres/streams.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { createReaderRole } from '../support/reader-role.js';

let databases: TestDatabase[];
let sessions: { blue: Session; green: Session };
const clients: pg.Client[] = [];

beforeAll(async () => {
  const blue = await testDatabase('pg15', 'gate source');
  const green = await testDatabase('pg18', 'gate source');
  databases = [blue, green];
  sessions = {
    blue: await openSession(asDatabase(blue, 'blue'), { purpose: 'gates' }),
    green: await openSession(asDatabase(green, 'green'), { purpose: 'gates' }),
  };
  await installState(sessions.blue, 'blue');
  for (const name of ['holder', 'waiter']) {
    const client = new pg.Client({ ...blue.config, application_name: name });
    client.on('error', () => undefined);
    await client.connect();
    clients.push(client);
  }
});

afterAll(async () => {
  await Promise.all(clients.map((client) => client.end()));
  await closeSession(sessions.blue);
  await closeSession(sessions.green);
  for (const database of databases) await database.drop();
});

test('both servers say who waits for a lock and for whom, how old transactions are, and how many there were', async () => {
  const [holder, waiter] = clients;
  if (holder === undefined || waiter === undefined) throw new Error('no clients');
  const quiet = await readPostgres(sessions, 'shop');
  expect(quiet.blue).toMatchObject({ lockWaits: [], whoWaits: '', oldestTransactionSeconds: 0, retainedWalBytes: 0 });
  expect(quiet.green).toMatchObject({ lockWaits: [], conflicts: 0 });
  await holder.query('BEGIN; SELECT pg_advisory_xact_lock(1)');
  const waiting = waiter.query('SELECT pg_advisory_xact_lock(1)');
  let busy = await readPostgres(sessions, 'shop');
  while (busy.blue.lockWaits.length === 0) busy = await readPostgres(sessions, 'shop');
  expect(busy.blue.whoWaits).toMatch(/^pid \d+ has waited [\d.]+ s for pid \d+$/);
  expect(busy.blue.oldestTransactionSeconds).toBeGreaterThan(0);
  expect(busy.blue.transactions).toBeGreaterThan(0);
  await holder.query('ROLLBACK');
  await waiting;
});

test('what several streams apply on green counts on blue alone, and what green is asked counts there', async () => {
  const migration = 'gate-volume';
  const streams = numberedNames(feedName(migration, 'to_green'), 2);
  const [ofBlue, ofGreen] = databases as [TestDatabase, TestDatabase];
  await withClient(ofBlue.config, (blue) =>
    withClient(ofGreen.config, async (green) => {
      const made = async (work: () => Promise<unknown>): Promise<Record<'rate' | 'decoded', number>> => {
        const from = await readPostgres(sessions, migration);
        await work();
        // Sessions report theirs about once a second, when they are asked for something.
        await sleep(1_500);
        await Promise.all([blue.query('SELECT 1'), green.query('SELECT 1')]);
        const to = await readPostgres(sessions, migration);
        const seconds = (to.blue.atMs - from.blue.atMs) / 1_000;
        return { rate: (volumeBetween(from, to, 0) ?? NaN) * seconds, decoded: to.blue.decoded - from.blue.decoded };
      };
      const times = async (client: pg.Client, count: number, sql: string): Promise<void> => {
        for (let i = 0; i < count; i++) await client.query(sql);
      };
      for (const client of [blue, green]) await client.query('CREATE TABLE a (n int); CREATE TABLE b (n int)');
      await blue.query('CREATE TABLE hidden (n int)');
      await blue.query(
        `INSERT INTO verdigris.owner (run_id, migration, side, streams) VALUES ('r', ${literal(migration)}, 'blue', 2)`,
      );
      for (const [i, name] of streams.entries()) {
        await blue.query(`CREATE PUBLICATION ${ident(name)} FOR TABLE ${i === 0 ? 'a' : 'b'}`);
        await blue.query(`SELECT pg_create_logical_replication_slot(${literal(name)}, 'pgoutput')`);
        await green.query(
          `CREATE SUBSCRIPTION ${ident(name)} CONNECTION ${literal(asDatabase(ofBlue, 'blue').peerConninfo)}
             PUBLICATION ${ident(name)} WITH (create_slot = false, copy_data = false)`,
        );
      }
      await times(blue, 1, 'INSERT INTO a VALUES (0); INSERT INTO b VALUES (0)');
      const hasAll = `SELECT FROM public.a, public.b WHERE b.n = 0 HAVING count(*) = $1`;
      let asked = 0;
      const arrived = async (rows: number): Promise<void> => {
        for (asked = 1; (await sessions.green.query(hasAll, [rows])).rows.length === 0; asked += 1) await sleep(50);
      };
      await arrived(1);
      await sleep(1_500);
      const { rate, decoded } = await made(async () => {
        await times(blue, 300, 'INSERT INTO a VALUES (1)');
        await times(blue, 300, 'INSERT INTO hidden VALUES (1)');
        await arrived(301);
      });
      // Each slot decodes every transaction, and green applies one in three of them.
      expect(decoded).toBeGreaterThanOrEqual(1_200);
      expect(rate).toBeGreaterThanOrEqual(600);
      // Each of our own questions whether the rows are there is a transaction on green.
      expect(rate - asked).toBeLessThan(750);
      expect((await made(() => times(green, 300, 'SELECT n FROM a LIMIT 1'))).rate).toBeGreaterThanOrEqual(300);
      for (const name of streams) await green.query(`DROP SUBSCRIPTION ${ident(name)}`);
    }),
  );
});

test('the rate of transactions stands while statistics that were reset are counted anew', async () => {
  const [ofBlue] = databases as [TestDatabase];
  const meter = new LoadMeter(sessions, () => 0);
  await withClient(ofBlue.config, async (client) => {
    const busy = async (): Promise<number> => {
      for (let i = 0; i < 300; i++) await client.query('SELECT 1');
      return (await meter.measure()).blue.transactionsPerSecond;
    };
    await meter.measure();
    // Sessions report theirs about once a second.
    while ((await busy()) < 100) await sleep(10);
    const counted = meter.countedForMs;
    await client.query('SELECT pg_stat_reset()');
    expect(await busy()).toBeGreaterThan(50);
    expect(meter.countedForMs).toBeLessThan(counted);
  });
});

test('a role that does not see the sessions of others passes no gate on them, and is told what to grant', async () => {
  const [holder, waiter] = clients;
  if (holder === undefined || waiter === undefined) throw new Error('no clients');
  const plain = await createReaderRole();
  const user = plain.config.user ?? '';
  const onBlue = (sql: string): Promise<unknown> =>
    withClient(databases[0]?.config ?? {}, (client) => client.query(sql));
  const blue = { ...asDatabase(databases[0] as TestDatabase, 'blue') };
  await onBlue(
    `GRANT USAGE ON SCHEMA verdigris TO ${ident(user)}; GRANT SELECT ON ALL TABLES IN SCHEMA verdigris TO ${ident(user)}`,
  );
  const ofPlainRole = await openSession(
    { ...blue, config: { ...blue.config, user, password: plain.config.password as string } },
    { purpose: 'gates' },
  );
  try {
    await holder.query('BEGIN; SELECT pg_advisory_xact_lock(1)');
    const waiting = waiter.query('SELECT pg_advisory_xact_lock(1)');
    let seen = await readPostgres(sessions, 'shop');
    while (seen.blue.lockWaits.length === 0) seen = await readPostgres(sessions, 'shop');
    expect(seen.blue).not.toHaveProperty('blindRole');
    const blind = await readPostgres({ ...sessions, blue: ofPlainRole }, 'shop');
    expect(blind.blue).toMatchObject({ blindRole: user, lockWaits: [], oldestTransactionSeconds: 0 });
    const gates: PostgresGate[] = [
      { metric: 'blockingLocks', max: 0, longerThan: '0s' },
      { metric: 'longTransactions', max: '0s' },
    ];
    for (const gate of gates) {
      const series = { atOpening: blind, samples: [blind, blind, blind], volumeBefore: undefined };
      expect(decidePostgres(gate, series)).toEqual({
        outcome: 'error',
        because: `${user} does not see what other users' sessions on blue do: GRANT pg_monitor TO ${user}`,
      });
      expect(decidePostgres(gate, { ...series, samples: [seen, seen, seen] }).outcome).toBe('fail');
    }
    // What needs no eye for others goes on.
    expect(
      decidePostgres(
        { metric: 'retainedWal', max: '1GB' },
        { atOpening: blind, samples: [blind, blind, blind], volumeBefore: undefined },
      ),
    ).toMatchObject({ outcome: 'pass' });
    await onBlue(`GRANT pg_monitor TO ${ident(user)}`);
    expect((await readPostgres({ ...sessions, blue: ofPlainRole }, 'shop')).blue).toMatchObject({
      lockWaits: [expect.any(Number)],
    });
    await holder.query('ROLLBACK');
    await waiting;
  } finally {
    await closeSession(ofPlainRole);
    await onBlue(`DROP OWNED BY ${ident(user)}`);
    await plain.drop();
  }
});
