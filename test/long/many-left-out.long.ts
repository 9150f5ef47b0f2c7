import { afterEach, expect, it } from 'vitest';
import { excludedRelations } from '../../src/postgres/schema-copy/excluded-relations.js';
import { dumpSchema } from '../../src/postgres/schema-copy/pg-dump.js';
import { readPostDataStatements, readPreDataStatements } from '../../src/postgres/schema-copy/schema-statements.js';
import { withSession } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

let db: TestDatabase;
afterEach(async () => {
  delete process.env.VERDIGRIS_PG_DUMP;
  await db.drop();
});

it('the pg_dump that comes along leaves out thousands of tables, partitions and sequences', async () => {
  db = await testDatabase('pg18', 'many left out');
  await withClient(db.config, async (client) => {
    await client.query(
      'CREATE TABLE public.kept (id int PRIMARY KEY); CREATE TABLE public.events (id int, day int) PARTITION BY RANGE (day)',
    );
    await client.query(
      `DO $$ BEGIN
         FOR i IN 1..400 LOOP
           EXECUTE format('CREATE TABLE public.events_of_a_day_%s PARTITION OF public.events FOR VALUES FROM (%s) TO (%s)', i, i, i + 1);
         END LOOP;
         FOR i IN 1..600 LOOP
           EXECUTE format('CREATE TABLE public.table_of_a_tenant_%s (id serial)', i);
         END LOOP;
       END $$`,
    );
  });
  process.env.VERDIGRIS_PG_DUMP = '/there/is/none';
  const database = asDatabase(db, 'blue');
  const exclude = await withSession(database, { purpose: 'test' }, (session) =>
    excludedRelations(session, { include: ['public.kept'], exclude: [] }),
  );
  expect(exclude).toHaveLength(1_601);
  const options = { exclude, ownersAndGrants: true };
  const preData = await readPreDataStatements(await dumpSchema(database, 'pre-data', options));
  expect(preData.filter((text) => /events|tenant/.test(text))).toEqual([]);
  expect(preData.filter((text) => text.startsWith('CREATE TABLE'))).toHaveLength(1);
  const postData = await readPostDataStatements(await dumpSchema(database, 'post-data', options));
  expect(postData.keys.create.map(({ name }) => name)).toEqual(['kept_pkey']);
  expect(JSON.stringify(postData)).not.toMatch(/events|tenant/);
}, 300_000);
