import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import type { StepContext } from '../../src/postgres/migrate/step-context.js';
import { compareCatalogs, type CatalogDifference } from '../../src/postgres/schema-copy/compare-catalogs.js';
import { applyPreData } from '../../src/postgres/schema-copy/apply-pre-data.js';
import { applyForeignKeys, applyKeys, applyRest } from '../../src/postgres/schema-copy/apply-post-data.js';
import { applySecondaryIndexes } from '../../src/postgres/schema-copy/apply-indexes.js';
import { readUserObjects } from '../../src/postgres/schema-copy/created-objects.js';
import { dropCopiedSchema } from '../../src/postgres/schema-copy/drop-copied-schema.js';
import { refreshMaterializedViews } from '../../src/postgres/schema-copy/materialized-views.js';
import { dumpSchema } from '../../src/postgres/schema-copy/pg-dump.js';
import { readSchemaStatements, type SchemaStatements } from '../../src/postgres/schema-copy/schema-statements.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, withClient, type TestDatabase, type TestServer } from '../support/postgres.js';
import { oddSchema } from './schema-copy-fixture.js';

const ROLE = `odd_role_${randomBytes(4).toString('hex')}`;
const RUN = 'run-1';
const EVERYTHING = { include: ['*.*'], exclude: [] as string[] };

interface Pair {
  readonly blueDb: TestDatabase;
  readonly greenDb: TestDatabase;
  readonly blue: Session;
  readonly green: Session;
  readonly blueDatabase: Database;
  readonly context: StepContext;
  close(): Promise<void>;
}

async function pair(from: TestServer, purpose: string, blueSql: string): Promise<Pair> {
  const blueDb = await testDatabase(from, `${purpose} blue`);
  const greenDb = await testDatabase('pg18', `${purpose} green`);
  for (const { config } of [blueDb, greenDb]) {
    await withClient(config, (client) =>
      client.query(
        `DO $$ BEGIN CREATE ROLE ${ROLE}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`,
      ),
    );
  }
  await withClient(blueDb.config, (client) => client.query(blueSql));
  const blueDatabase = asDatabase(blueDb, 'blue');
  const greenDatabase = asDatabase(greenDb, 'green');
  const blue = await openSession(blueDatabase, { purpose: 'test' });
  const green = await openSession(greenDatabase, { purpose: 'test' });
  await installState(green, 'green');
  const connect = (why: string): Promise<Session> => openSession(greenDatabase, { purpose: why });
  const context: StepContext = {
    runId: RUN,
    session: green,
    connect,
    signal: new AbortController().signal,
    onProgress: () => undefined,
  };
  const close = async (): Promise<void> => {
    await closeSession(blue);
    await closeSession(green);
    await blueDb.drop();
    await greenDb.drop();
  };
  return { blueDb, greenDb, blue, green, blueDatabase, context, close };
}

async function read(database: Database, exclude: { schema: string; name: string }[] = []): Promise<SchemaStatements> {
  const options = { exclude, ownersAndGrants: true };
  return readSchemaStatements(
    await dumpSchema(database, 'pre-data', options),
    await dumpSchema(database, 'post-data', options),
  );
}

async function applyAll(context: StepContext, statements: SchemaStatements): Promise<void> {
  await applyPreData(context, statements.preData);
  await applyKeys(context, statements.keys);
  await applySecondaryIndexes(context, statements.secondaryIndexes);
  await applyForeignKeys(context, statements.foreignKeys);
  await applyRest(context, statements.rest);
}

const compare = (p: Pair, tables = EVERYTHING): Promise<CatalogDifference[]> =>
  compareCatalogs(p.blue, p.green, { tables, migrations: [] });

const open: Pair[] = [];
afterEach(async () => {
  for (const p of open.splice(0)) await p.close();
});
afterAll(async () => {
  for (const server of ['pg15', 'pg18'] as const) {
    const db = await testDatabase(server, 'role');
    await withClient(db.config, (client) => client.query(`DROP ROLE IF EXISTS ${ROLE}`));
    await db.drop();
  }
});

describe.each(['pg15', 'pg18'] as const)('a copy from %s to 18', (server) => {
  it('has every object, however odd its name, and running it again changes nothing', async () => {
    const p = await pair(server, 'copy', oddSchema(ROLE));
    open.push(p);
    const statements = await read(p.blueDatabase);
    await applyAll(p.context, statements);
    const differences = await compare(p);
    expect(differences.filter(({ severity }) => severity === 'error')).toEqual([]);
    expect(differences).toEqual([]);

    const before = await readUserObjects(p.green);
    await applyAll(p.context, statements);
    expect(await readUserObjects(p.green)).toEqual(before);
    expect((await refreshMaterializedViews(p.context)).map(({ name }) => name)).toEqual(['plain_summary', 'summary']);
  });

  it('is taken back completely, and only that', async () => {
    const p = await pair(server, 'undo', oddSchema(ROLE));
    open.push(p);
    const empty = await readUserObjects(p.green);
    const rights = `SELECT nspacl::text, nspowner FROM pg_namespace WHERE nspname = 'public'`;
    const publicBefore = (await p.green.query(rights)).rows;
    await applyAll(p.context, await read(p.blueDatabase));
    await p.green.query('CREATE TABLE public.somebody_elses (id int)');
    expect(await dropCopiedSchema(p.context)).toEqual([]);
    const left = (await readUserObjects(p.green)).filter(({ identity }) => identity !== 'public.somebody_elses');
    expect(left).toEqual(empty);
    expect((await p.green.query('SELECT FROM pg_default_acl')).rowCount).toBe(0);
    expect((await p.green.query(rights)).rows).toEqual(publicBefore);
    expect(await dropCopiedSchema(p.context)).toEqual([]);
    expect((await p.green.query('SELECT FROM public.somebody_elses')).rowCount).toBe(0);
  });
});
