import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readPostgres } from '../../src/gates/postgres-source.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';

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
