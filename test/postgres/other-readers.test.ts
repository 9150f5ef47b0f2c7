import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeReader, readOtherReaders } from '../../src/postgres/other-readers.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

const TAG = randomBytes(4).toString('hex');

let database: TestDatabase;
let elsewhere: TestDatabase;
let session: Session;

beforeAll(async () => {
  database = await testDatabase('pg15', 'readers');
  elsewhere = await testDatabase('pg15', 'readers elsewhere');
  session = await openSession(asDatabase(database, 'blue'), { purpose: 'test' });
});
afterAll(async () => {
  await session.query('SELECT pg_drop_replication_slot($1)', [`replica_${TAG}`]);
  await closeSession(session);
  await database.drop();
  await elsewhere.drop();
});

it('are others than the run, its feeds and what copies a table for one of them; slots of other databases are not asked about', async () => {
  for (const name of [`cdc_${TAG}`, `verdigris_to_green_${TAG}`, `pg_16401_sync_16385_7${TAG}`]) {
    await session.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [name]);
  }
  await session.query('SELECT pg_create_physical_replication_slot($1)', [`replica_${TAG}`]);
  await withClient(elsewhere.config, (client) =>
    client.query(`SELECT pg_create_logical_replication_slot('other_${TAG}', 'pgoutput')`),
  );
  const found = (await readOtherReaders(session)).map(describeReader).filter((text) => text.includes(TAG));
  expect(found).toEqual([
    `the slot "cdc_${TAG}" (pgoutput, not connected)`,
    `the physical slot "replica_${TAG}" (not connected)`,
  ]);
});
