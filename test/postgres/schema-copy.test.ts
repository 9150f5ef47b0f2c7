import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { parseStatements, type Statement } from '../../src/plan/sql-tree.js';
import { formatTableName } from '../../src/plan/table-name.js';
import { notVacuumed, whileVacuuming } from '../../src/postgres/bootstrap/copy/vacuum-copied.js';
import { readTables } from '../../src/postgres/catalog.js';
import { ident } from '../../src/postgres/identifier.js';
import { addConstraint } from '../../src/postgres/migrate/add-constraint.js';
import type { StepContext } from '../../src/postgres/migrate/step-context.js';
import { compareCatalogs, type CatalogDifference } from '../../src/postgres/schema-copy/compare-catalogs.js';
import { applyPreData } from '../../src/postgres/schema-copy/apply-pre-data.js';
import { buildTogether } from '../../src/postgres/schema-copy/build-together.js';
import { applyKeys } from '../../src/postgres/schema-copy/apply-keys.js';
import { applyForeignKeys } from '../../src/postgres/schema-copy/apply-foreign-keys.js';
import { applyRest } from '../../src/postgres/schema-copy/apply-post-data.js';
import { applySecondaryIndexes } from '../../src/postgres/schema-copy/apply-indexes.js';
import { readUserObjects } from '../../src/postgres/schema-copy/created-objects.js';
import { dropCopiedSchema } from '../../src/postgres/schema-copy/drop-copied-schema.js';
import { refreshMaterializedViews, unpopulatedViews } from '../../src/postgres/schema-copy/materialized-views.js';
import { excludedRelations } from '../../src/postgres/schema-copy/excluded-relations.js';
import { findNativePgDump } from '../../src/postgres/schema-copy/pg-dump-native.js';
import { schemaCopyFailed } from '../../src/postgres/schema-copy/schema-copy-failed.js';
import { statementsInSlices } from '../../src/postgres/schema-copy/dump-slices.js';
import { dumpArguments, dumpSchema, passesByItself } from '../../src/postgres/schema-copy/pg-dump.js';
import {
  concurrently,
  readPostDataStatements,
  readPreDataStatements,
  withoutMetaCommands,
  type SchemaStatements,
} from '../../src/postgres/schema-copy/schema-statements.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, withClient, type TestDatabase, type TestServer } from '../support/postgres.js';
import { oddSchema } from './schema-copy-fixture.js';
import { testedPairs, testedVersion } from '../support/tested-version.js';
import { untilRow } from '../support/wait-for-row.js';

const ROLE = `odd_role_${randomBytes(4).toString('hex')}`;
/** Made after ROLE. */
const LATER_ROLE = `${ROLE}_later`;
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

/** Cancels as soon as somebody waits for a lock there. @returns when that was, ms of performance.now() */
async function abortInWait({ config }: TestDatabase, controller: AbortController): Promise<number> {
  await withClient(config, (client) =>
    untilRow(client, `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`),
  );
  controller.abort(new Error('cancelled'));
  return performance.now();
}

async function pair(from: TestServer, purpose: string, blueSql: string, to: TestServer = 'pg18'): Promise<Pair> {
  const blueDb = await testDatabase(from, `${purpose} blue`);
  const greenDb = await testDatabase(to, `${purpose} green`);
  for (const { config } of [blueDb, greenDb]) {
    await withClient(config, (client) =>
      client.query(
        `DO $$ BEGIN CREATE ROLE ${ROLE}; CREATE ROLE ${LATER_ROLE}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`,
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

async function statementsOf(preData: string, postData: string): Promise<SchemaStatements> {
  return { preData: await readPreDataStatements(preData), ...(await readPostDataStatements(postData)) };
}

async function read(database: Database, exclude: { schema: string; name: string }[] = []): Promise<SchemaStatements> {
  const options = { exclude, ownersAndGrants: true };
  return statementsOf(
    await dumpSchema(database, 'pre-data', options),
    await dumpSchema(database, 'post-data', options),
  );
}

async function applyAll(context: StepContext, statements: SchemaStatements): Promise<void> {
  await applyPreData(context, statements.preData);
  await applyKeys(context, statements.keys);
  await applySecondaryIndexes(context, statements.secondaryIndexes);
  await applyForeignKeys(context, statements.foreignKeys);
  await applyRest(context, statements);
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
    await withClient(db.config, (client) => client.query(`DROP ROLE IF EXISTS ${ROLE}, ${LATER_ROLE}`));
    await db.drop();
  }
});

describe.each([testedVersion('pg15')])('a copy from %s to 18', (server) => {
  it('has every object, however odd its name, and running it again changes nothing', async () => {
    const p = await pair(server, 'copy', oddSchema(ROLE));
    open.push(p);
    const statements = await read(p.blueDatabase);
    await applyAll(p.context, statements);
    const differences = await compare(p);
    expect(differences.filter(({ severity }) => severity === 'error')).toEqual([]);
    // Of 18 to 18 only, since before 17 no partition has an identity: a dump attaches this one before its parent has it.
    const told =
      server === 'pg15' ? [] : ['shop."event 2026 a".id: identity of the partition is missing on green and a on blue'];
    expect(differences.map(({ object, difference }) => `${object}: ${difference}`)).toEqual(told);

    const before = await readUserObjects(p.green);
    await applyAll(p.context, statements);
    expect(await readUserObjects(p.green)).toEqual(before);
    expect((await refreshMaterializedViews(p.context)).map(({ name }) => name)).toEqual(['plain_summary', 'summary']);
  });

  it('says the same about backslashes where blue reads them in strings by default', async () => {
    const p = await pair(
      server,
      'strings',
      `CREATE TABLE public.a (id int PRIMARY KEY, v text CHECK (v ~ E'^\\\\d+$') DEFAULT E'\\\\');
       CREATE VIEW public.b AS SELECT id, v ~ E'^\\\\d+$' AS fits FROM public.a`,
    );
    open.push(p);
    await withClient(p.blueDb.config, (client) =>
      client.query(`ALTER DATABASE ${p.blueDb.database} SET standard_conforming_strings = off`),
    );
    const native = await read(p.blueDatabase);
    process.env.VERDIGRIS_PG_DUMP = '/there/is/none';
    const wasm = await read(p.blueDatabase).finally(() => delete process.env.VERDIGRIS_PG_DUMP);
    for (const { preData } of [native, wasm]) {
      expect(preData.join()).toContain(String.raw`~ '^\d+$'`);
      expect(preData.join()).toContain(String.raw`DEFAULT '\'`);
    }
    await applyAll(p.context, native);
    await p.green.query(`INSERT INTO public.a VALUES (1, '12')`);
    expect((await p.green.query('SELECT fits FROM public.b')).rows).toEqual([{ fits: true }]);
    const blue = await openSession(p.blueDatabase, { purpose: 'test' });
    expect(await compare({ ...p, blue })).toEqual([]);
    await closeSession(blue);
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
    await p.green.query('DROP SCHEMA verdigris CASCADE');
    expect(await dropCopiedSchema(p.context)).toEqual([]);
  });
});

const PAIRS = testedPairs<readonly [TestServer, TestServer]>([
  ['pg15', 'pg18'],
  ['pg15', 'pg15'],
  ['pg18', 'pg18'],
]);

describe.each(PAIRS)(
  'expressions that a server writes in another way when it has read its own words, from %s to %s',
  (from, to) => {
    const ONE_OF = `status IN ('a', 'b')`;
    const EXPRESSIONS = `
    CREATE SCHEMA shop;
    CREATE DOMAIN shop.state AS varchar(20) DEFAULT 'a' CHECK (VALUE IN ('a', 'b')) CHECK (VALUE NOT IN ('y', 'z'));
    CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE FUNCTION shop.is_one(status varchar, other boolean DEFAULT 'x'::varchar IN ('a', 'b')) RETURNS boolean LANGUAGE sql
      RETURN ${ONE_OF};
    CREATE TABLE shop."user" (
      id int PRIMARY KEY, status varchar(20) CHECK (${ONE_OF}), other boolean DEFAULT ('x'::varchar IN ('a', 'b')),
      made boolean GENERATED ALWAYS AS (${ONE_OF}) STORED, period int4range,
      EXCLUDE USING gist (period WITH &&) WHERE (${ONE_OF}));
    ALTER TABLE shop."user" ADD CONSTRAINT later CHECK (status NOT IN ('y', 'z')) NOT VALID;
    CREATE INDEX part ON shop."user" (id) WHERE ${ONE_OF};
    CREATE STATISTICS shop.of_both ON (${ONE_OF}), id FROM shop."user";
    CREATE VIEW shop.few AS SELECT id, ${ONE_OF} AS one FROM shop."user" WHERE ${ONE_OF};
    CREATE MATERIALIZED VIEW shop.kept AS SELECT id, status FROM shop."user" WHERE ${ONE_OF};
    CREATE INDEX kept_part ON shop.kept (id) WHERE ${ONE_OF};
    CREATE POLICY own ON shop."user" USING (${ONE_OF}) WITH CHECK (${ONE_OF});
    CREATE RULE never AS ON DELETE TO shop."user" WHERE OLD.${ONE_OF} DO INSTEAD NOTHING;
    CREATE TRIGGER touch BEFORE UPDATE ON shop."user" FOR EACH ROW WHEN (NEW.${ONE_OF}) EXECUTE FUNCTION shop.touch();
    CREATE TABLE shop.event (id int, status varchar(20), CHECK (${ONE_OF})) PARTITION BY LIST (status);
    CREATE TABLE shop.event_a PARTITION OF shop.event FOR VALUES IN ('a', 'b');
    CREATE INDEX event_part ON shop.event (id) WHERE ${ONE_OF};
    CREATE INDEX event_alone ON ONLY shop.event (status) WHERE ${ONE_OF};`;

    it('are no difference; another expression is one', async () => {
      const p = await pair(from, 'expressions', EXPRESSIONS, to);
      open.push(p);
      await applyAll(p.context, await read(p.blueDatabase));
      expect(await compare(p)).toEqual([]);

      await p.green.query(`
      ALTER TABLE shop."user" DROP CONSTRAINT user_status_check, ADD CONSTRAINT user_status_check CHECK (status IN ('a', 'c'));
      DROP INDEX shop.part; CREATE INDEX part ON shop."user" (id) WHERE status IN ('a', 'c');
      CREATE OR REPLACE VIEW shop.few AS SELECT id, ${ONE_OF} AS one FROM shop."user" WHERE status IN ('a', 'c');
      ALTER POLICY own ON shop."user" USING (status IN ('a', 'c'));
      DROP TRIGGER touch ON shop."user";
      CREATE TRIGGER touch BEFORE UPDATE ON shop."user" FOR EACH ROW WHEN (NEW.status IN ('a', 'c')) EXECUTE FUNCTION shop.touch();
      ALTER TABLE shop."user" ALTER COLUMN other DROP DEFAULT`);
      const severity = from === to ? 'error' : 'warning';
      const found = (await compare(p)).filter(({ difference }) => !difference.startsWith('has default'));
      expect(found.map((each) => `${each.severity} ${each.kind} ${each.object}`).sort()).toEqual(
        [
          `column shop.user.other`,
          'constraint shop.user.user_status_check',
          'index shop.part',
          'policy shop.user.own',
          'trigger shop.user.touch',
          'view shop.few',
        ].map((object) => `${severity} ${object}`),
      );
      const { rows } = await p.green.query(`SELECT FROM pg_class WHERE pg_is_other_temp_schema(relnamespace) IS NULL`);
      expect(rows).toEqual([]);
    });
  },
);

describe('the copy', () => {
  const SMALL = `
    CREATE TABLE public.a (id int PRIMARY KEY, v int);
    CREATE TABLE public.b (id int PRIMARY KEY, a int REFERENCES public.a);
    CREATE INDEX b_a ON public.b (a);
    CREATE INDEX a_v ON public.a (v);
    CREATE TABLE public.secret (id serial PRIMARY KEY);`;

  async function smallPair(): Promise<Pair> {
    const p = await pair('pg15', 'small', SMALL);
    open.push(p);
    return p;
  }

  it('made before the rows is all or nothing: a statement that fails leaves no object and names itself', async () => {
    const p = await smallPair();
    const { preData } = await read(p.blueDatabase);
    const failing = [...preData, 'CREATE TABLE public.broken (id no_such_type)'];
    await expect(applyPreData(p.context, failing)).rejects.toMatchObject({
      type: 'SchemaCopyFailed',
      message: expect.stringMatching(
        /green: CREATE TABLE public\.broken: type "no_such_type" does not exist.*\nNext step: /s,
      ) as string,
    });
    expect(await readUserObjects(p.green)).toEqual([]);
    expect(await dropCopiedSchema(p.context)).toEqual([]);
    await applyPreData(p.context, preData);
    expect((await readUserObjects(p.green)).length).toBeGreaterThan(0);
  });

  it('says what green lacks: a file of a dictionary, or what an extension asks of its server', async () => {
    const p = await smallPair();
    const dictionary =
      'CREATE TEXT SEARCH DICTIONARY public.words (TEMPLATE = pg_catalog.synonym, SYNONYMS = not_there)';
    await expect(applyPreData(p.context, [dictionary])).rejects.toMatchObject({
      type: 'SchemaCopyFailed',
      nextStep: expect.stringContaining('tsearch_data') as string,
    });
    const preload = 'odd can only be loaded via shared_preload_libraries';
    const said = (code: string, message: string): unknown =>
      schemaCopyFailed(
        'CREATE EXTENSION IF NOT EXISTS "odd"',
        Object.assign(new Error(message), { code, where: 'x', file: 'guc.c' }),
      );
    const asksFor = { nextStep: expect.stringContaining('as blue') as string };
    expect(said('XX000', preload)).toMatchObject(asksFor);
    expect(said('P0001', 'can only create extension in database postgres')).toMatchObject(asksFor);
    expect(said('42704', 'unrecognized configuration parameter "odd.database"')).toMatchObject(asksFor);
    expect(said('42501', 'permission denied')).toMatchObject({ nextStep: expect.stringContaining('grant') as string });
  });

  it('that meets rows which break their own keys holds the run, and goes on once they are repaired', async () => {
    const p = await pair(
      'pg15',
      'broken rows',
      `CREATE TABLE public.a (id int PRIMARY KEY, code text UNIQUE, during int4range, EXCLUDE USING gist (during WITH &&));
       CREATE TABLE public.b (id int PRIMARY KEY, a int REFERENCES public.a);`,
    );
    open.push(p);
    const s = await read(p.blueDatabase);
    await applyPreData(p.context, s.preData);
    await p.green.query(`INSERT INTO public.a VALUES (1, 'x', '[1,5)'), (2, 'x', '[10,20)'), (3, 'y', '[4,6)');
                         INSERT INTO public.b VALUES (1, 1), (2, 9)`);
    const held = (nextStep: string): unknown =>
      expect.objectContaining({
        type: 'BackfillFailed',
        retryable: false,
        nextStep: expect.stringMatching(new RegExp(`${nextStep}.*then resume`)) as string,
      });
    await expect(applyKeys(p.context, s.keys)).rejects.toEqual(held('unique index|exclusion constraint'));
    await p.green.query(`UPDATE public.a SET code = 'z' WHERE id = 2`);
    await expect(applyKeys(p.context, s.keys)).rejects.toEqual(held('exclusion constraint'));
    await p.green.query(`UPDATE public.a SET during = '[5,6)' WHERE id = 3`);
    await applyKeys(p.context, s.keys);
    await expect(applyForeignKeys(p.context, s.foreignKeys)).rejects.toEqual(held('foreign key'));
    await p.green.query('DELETE FROM public.b WHERE id = 2');
    await applyForeignKeys(p.context, s.foreignKeys);
    expect(await compare(p)).toEqual([]);
  });

  it('goes on after a crash at any statement: what is done is skipped, what is not is done', async () => {
    const p = await smallPair();
    const s = await read(p.blueDatabase);
    for (let keys = 0; keys <= s.keys.create.length; keys++) {
      await applyPreData(p.context, s.preData);
      await applyKeys(p.context, { create: s.keys.create.slice(0, keys), join: [] });
    }
    await applyKeys(p.context, s.keys);
    const { secondaryIndexes: all, foreignKeys } = s;
    await applySecondaryIndexes(p.context, { ...all, indexes: all.indexes.slice(0, 1) });
    await applySecondaryIndexes(p.context, all);
    await applyForeignKeys(
      p.context,
      foreignKeys.map((key) => ({ ...key, validate: null })),
    );
    await applyForeignKeys(p.context, foreignKeys);
    await applyRest(p.context, s);
    expect(await compare(p)).toEqual([]);
  });

  it('asks once for all of them what is there when it is done again, and opens no session then', async () => {
    const p = await smallPair();
    const s = await read(p.blueDatabase);
    const opened: string[] = [];
    const context: StepContext = {
      ...p.context,
      connect: (why) => {
        opened.push(why);
        return p.context.connect(why);
      },
    };
    await applyPreData(context, s.preData);
    await applyKeys(context, s.keys);
    await applySecondaryIndexes(context, { ...s.secondaryIndexes, indexes: s.secondaryIndexes.indexes.slice(0, 1) });
    expect(opened).not.toEqual([]);
    opened.length = 0;
    await applyKeys(context, s.keys);
    await applySecondaryIndexes(context, { ...s.secondaryIndexes, indexes: s.secondaryIndexes.indexes.slice(0, 1) });
    expect(opened).toEqual([]);
    await applySecondaryIndexes(context, s.secondaryIndexes);
    expect(opened).toHaveLength(1);
  });

  it('vacuums a table while it is found out what to build, and ends that with the work', async () => {
    const p = await pair(
      'pg15',
      'vacuum',
      `CREATE TABLE public.small (id int PRIMARY KEY); CREATE TABLE public.large (id int PRIMARY KEY); CREATE INDEX large_id ON public.large (id)`,
    );
    open.push(p);
    const s = await read(p.blueDatabase);
    await applyPreData(p.context, s.preData);
    await p.green.query(
      `INSERT INTO public.small SELECT generate_series(1, 10); INSERT INTO public.large SELECT generate_series(1, 5000)`,
    );
    const large = { schema: 'public', name: 'large' };
    const tables = await readTables(p.green, EVERYTHING);
    expect((await notVacuumed(p.green, tables)).map(({ name }) => name.name)).toEqual(['large', 'small']);

    await withClient(p.greenDb.config, async (holder) => {
      await holder.query('BEGIN; LOCK TABLE public.large IN SHARE UPDATE EXCLUSIVE MODE');
      const failed = whileVacuuming(p.context, large, () => Promise.reject(new Error('no schema')));
      await expect(failed).rejects.toThrow('no schema');
    });

    await whileVacuuming(p.context, large, async (begun) => {
      expect(begun?.table).toEqual(large);
      await buildTogether(p.context, s, undefined, undefined, begun);
    });
    const { rows } = await p.green.query(
      `SELECT relname AS name, vacuum_count::int AS vacuums FROM pg_stat_user_tables WHERE schemaname = 'public' ORDER BY 1`,
    );
    expect(rows).toEqual([
      { name: 'large', vacuums: 1 },
      { name: 'small', vacuums: 1 },
    ]);
    // Where another test has made a slot on this server at that moment, VACUUM could not find that all see the rows.
    for (let look = 0; look < 20 && (await notVacuumed(p.green, tables)).length > 0; look++) {
      await sleep(100);
      await p.green.query('VACUUM public.large');
      await p.green.query('VACUUM public.small');
    }
    expect(await notVacuumed(p.green, tables)).toEqual([]);
  });

  it('makes keys of indexes that were built beside the others: the same catalog, also when it is begun again', async () => {
    const p = await pair('pg15', 'beside', oddSchema(ROLE));
    open.push(p);
    const s = await read(p.blueDatabase);
    await applyPreData(p.context, s.preData);
    await buildTogether(p.context, { keys: s.keys, secondaryIndexes: { parents: [], indexes: [], attach: [] } });
    const { rows } = await p.context.session.query(
      `SELECT FROM pg_index i WHERE i.indisunique AND NOT i.indisprimary AND i.indrelid >= 16384::oid
          AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)`,
    );
    expect(rows.length).toBeGreaterThan(0);
    await applyKeys(p.context, { create: s.keys.create.slice(0, 2), join: [] });
    await buildTogether(p.context, s);
    await applyKeys(p.context, s.keys);
    await applySecondaryIndexes(p.context, s.secondaryIndexes);
    await applyForeignKeys(p.context, s.foreignKeys);
    await applyRest(p.context, s);
    expect(await compare(p)).toEqual([]);
  });

  it('makes keys over periods as they are written, and plain ones whatever their columns are called', async () => {
    const p = await pair(
      'pg18',
      'periods',
      `CREATE EXTENSION btree_gist;
       CREATE TABLE public.bookings (room int, during int4range, "a (b), c" int, "select" int, code text,
         PRIMARY KEY (room, during WITHOUT OVERLAPS), UNIQUE ("a (b), c", "select"), UNIQUE NULLS NOT DISTINCT (code),
         CONSTRAINT twice UNIQUE (room, "select") INCLUDE (code), CONSTRAINT apart UNIQUE (code, during WITHOUT OVERLAPS));`,
    );
    open.push(p);
    const s = await read(p.blueDatabase);
    await applyPreData(p.context, s.preData);
    await buildTogether(p.context, s);
    const { rows } = await p.green.query(`SELECT relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
       WHERE i.indrelid = 'public.bookings'::regclass`);
    expect(rows).toHaveLength(1);
    await applyKeys(p.context, s.keys);
    expect(await compare(p)).toEqual([]);
  });

  it('builds an INVALID leftover of a concurrent build again', async () => {
    const p = await smallPair();
    const s = await read(p.blueDatabase);
    await applyPreData(p.context, s.preData);
    await applyKeys(p.context, s.keys);
    await p.green.query('CREATE INDEX b_a ON public.b (a)');
    await p.green.query("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.b_a'::regclass");
    await applySecondaryIndexes(p.context, s.secondaryIndexes);
    const { rows } = await p.green.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.b_a'::regclass");
    expect(rows).toEqual([{ indisvalid: true }]);
  });

  it('is the same as a blue that has an INVALID index, which no dump brings; one on green is missing', async () => {
    const p = await smallPair();
    await p.blue.query('INSERT INTO public.a VALUES (1, 1), (2, 1)');
    const failed = p.blue.query('CREATE UNIQUE INDEX CONCURRENTLY left_over ON public.a (v)');
    await expect(failed).rejects.toMatchObject({ code: '23505' });
    await applyAll(p.context, await read(p.blueDatabase));
    expect(await compare(p)).toEqual([]);
    await p.green.query("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.b_a'::regclass");
    expect(await compare(p)).toMatchObject([{ severity: 'error', kind: 'index', object: 'public.b_a' }]);
  });

  it('is the same whatever the order of the roles of a policy, and whoever granted what on blue', async () => {
    const p = await pair(
      'pg15',
      'roles',
      `CREATE TABLE public.a (id int PRIMARY KEY, v int);
       CREATE POLICY two ON public.a TO ${LATER_ROLE}, ${ROLE} USING (v > 0);
       GRANT UPDATE (v), SELECT (v) ON public.a TO ${ROLE} WITH GRANT OPTION;
       GRANT SELECT ON public.a TO ${ROLE} WITH GRANT OPTION;
       GRANT UPDATE (v) ON public.a TO ${LATER_ROLE} WITH GRANT OPTION;
       SET ROLE ${ROLE};
       GRANT UPDATE (v), SELECT (v) ON public.a TO ${LATER_ROLE};
       GRANT SELECT ON public.a TO ${LATER_ROLE};
       RESET ROLE;
       GRANT SELECT ON public.a TO ${LATER_ROLE}`,
    );
    open.push(p);
    await applyAll(p.context, await read(p.blueDatabase));
    expect(await compare(p)).toEqual([]);
    await p.green.query(
      `ALTER POLICY two ON public.a TO ${ROLE}; REVOKE UPDATE (v) ON public.a FROM ${LATER_ROLE} CASCADE;
       REVOKE SELECT ON public.a FROM ${LATER_ROLE} CASCADE`,
    );
    expect((await compare(p)).map(({ severity, kind, object }) => `${severity} ${kind} ${object}`)).toEqual([
      'error table public.a',
      'error column public.a.v',
      'error policy public.a.two',
    ]);
  });

  it('may be granted more by default privileges of green, which are told; what they take away is a difference', async () => {
    const p = await smallPair();
    await p.green.query(`
      ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO ${ROLE};
      ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC`);
    await p.blue.query("CREATE TYPE public.mood AS ENUM ('a')");
    await applyAll(p.context, await read(p.blueDatabase));
    expect((await compare(p)).map(({ severity, kind, object }) => `${severity} ${kind} ${object}`)).toEqual([
      'warning table public.a',
      'warning table public.b',
      'warning table public.secret',
      'error type public.mood',
    ]);
  });

  it('leaves a materialized view that blue has not populated, and holds the run for one that can be filled no more', async () => {
    const p = await pair(
      'pg15',
      'views',
      `CREATE TABLE public.t (v int);
       CREATE MATERIALIZED VIEW public.a_late AS SELECT 1 / v AS x FROM public.t WITH NO DATA;
       CREATE MATERIALIZED VIEW public.broken AS SELECT 1 / v AS x FROM public.t;
       CREATE MATERIALIZED VIEW public.total AS SELECT count(*) FROM public.t;`,
    );
    open.push(p);
    await applyAll(p.context, await read(p.blueDatabase));
    await p.green.query('INSERT INTO public.t VALUES (0)');
    const refresh = async (): Promise<string[]> =>
      (await refreshMaterializedViews(p.context, await unpopulatedViews(p.blue))).map(({ name }) => name);
    await expect(refresh()).rejects.toMatchObject({
      type: 'BackfillFailed',
      retryable: false,
      message: expect.stringContaining(
        'green: REFRESH MATERIALIZED VIEW "public"."broken": division by zero',
      ) as string,
    });
    await p.blue.query('REFRESH MATERIALIZED VIEW public.broken WITH NO DATA');
    expect(await refresh()).toEqual(['total']);
    await p.blue.query('REFRESH MATERIALIZED VIEW public.broken');
    await p.green.query('UPDATE public.t SET v = 1');
    expect(await refresh()).toEqual(['broken', 'total']);
    expect(await compare(p)).toEqual([]);
  });

  it('stops a build of an index when it is cancelled', async () => {
    const p = await smallPair();
    const s = await read(p.blueDatabase);
    await applyPreData(p.context, s.preData);
    await applyKeys(p.context, s.keys);
    const controller = new AbortController();
    await withClient(p.greenDb.config, async (holder) => {
      await holder.query('BEGIN; INSERT INTO public.b VALUES (1)');
      const building = applySecondaryIndexes({ ...p.context, signal: controller.signal }, s.secondaryIndexes);
      await Promise.all([expect(building).rejects.toThrow('cancelled'), abortInWait(p.greenDb, controller)]);
      await holder.query('ROLLBACK');
    });
    await applySecondaryIndexes(p.context, s.secondaryIndexes);
    await applyForeignKeys(p.context, s.foreignKeys);
    await applyRest(p.context, s);
    expect(await compare(p)).toEqual([]);
  });

  it('leaves out what the plan does not move, with its sequences', async () => {
    const p = await smallPair();
    const tables = { include: ['*.*'], exclude: ['public.secret'] };
    const exclude = await excludedRelations(p.blue, tables);
    expect(exclude.map(({ name }) => name)).toEqual(['secret', 'secret_id_seq']);
    await applyAll(p.context, await read(p.blueDatabase, exclude));
    expect((await readUserObjects(p.green)).map(({ identity }) => identity).sort()).toEqual(['public.a', 'public.b']);
    expect(await compare(p, tables)).toEqual([]);
  });

  it('is compared: what is missing, other, or only on green is named', async () => {
    const p = await smallPair();
    await applyAll(p.context, await read(p.blueDatabase));
    await p.blue.query('ALTER TABLE public.a ALTER COLUMN v SET NOT NULL; CREATE INDEX late ON public.a (v, id)');
    await p.green.query(
      'ALTER TABLE public.b DROP CONSTRAINT b_a_fkey; CREATE TABLE public.extra (id int); ALTER TABLE public.b ADD COLUMN planned int',
    );
    const differences = await compareCatalogs(p.blue, p.green, {
      tables: EVERYTHING,
      migrations: [{ addColumn: { table: 'b', column: 'planned', type: 'int', notNull: false } }],
    });
    expect(
      differences.map(({ severity, kind, object, difference }) => `${severity} ${kind} ${object}: ${difference}`),
    ).toEqual([
      'error index public.late: is on blue and not on green',
      'error constraint public.b.b_a_fkey: is on blue and not on green',
      'error column public.a.v: not null is false on green and true on blue',
      'warning table public.extra: is on green and not on blue',
      'warning column public.extra.id: is on green and not on blue',
    ]);
  });

  it('lacks tables that were added to an extension, which are named: no dump has them', async () => {
    const p = await smallPair();
    await p.blue.query(`CREATE EXTENSION hstore; CREATE TABLE public.jobs (id int PRIMARY KEY);
      ALTER EXTENSION hstore ADD TABLE public.jobs`);
    await applyAll(p.context, await read(p.blueDatabase));
    expect((await compare(p)).map(({ severity, kind, object }) => `${severity} ${kind} ${object}`)).toEqual([
      'warning table public.jobs',
    ]);
    expect(await compare(p, { include: ['*.*'], exclude: ['public.jobs'] })).toEqual([]);
  });

  it('has tables of extensions in a schema that its user may not use', async () => {
    const p = await smallPair();
    await p.blue.query(`CREATE EXTENSION hstore; CREATE SCHEMA closed; CREATE TABLE closed.jobs (id int PRIMARY KEY);
      CREATE TABLE closed.log (id int PRIMARY KEY); ALTER EXTENSION hstore ADD TABLE closed.jobs; ALTER EXTENSION hstore ADD TABLE closed.log`);
    await applyAll(p.context, await read(p.blueDatabase));
    await p.green.query(`CREATE TABLE closed.jobs (id int PRIMARY KEY); ALTER EXTENSION hstore ADD TABLE closed.jobs`);
    await p.green.query(`SET ROLE ${ROLE}`);
    const members = (await compare(p)).filter(({ difference }) => difference.startsWith('belongs to the extension'));
    expect(members.map(({ object }) => object)).toEqual(['closed.log']);
  });

  it('takes what the plan adds to a table for no difference in its partitions and children either', async () => {
    const p = await pair(
      'pg15',
      'parts',
      `CREATE TABLE "Part ed" (id int, day date, v int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
       CREATE TABLE half PARTITION OF "Part ed" FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY HASH (id);
       CREATE TABLE quarter PARTITION OF half FOR VALUES WITH (MODULUS 1, REMAINDER 0);
       CREATE TABLE animal (id int PRIMARY KEY); CREATE TABLE dog (PRIMARY KEY (id)) INHERITS (animal)`,
    );
    open.push(p);
    await applyAll(p.context, await read(p.blueDatabase));
    await p.green.query(
      `ALTER TABLE public."Part ed" ADD COLUMN "New One" int; CREATE INDEX planned ON public."Part ed" ("New One");
       ALTER TABLE public."Part ed" ADD CONSTRAINT positive CHECK (v > 0), ALTER v SET NOT NULL;
       ALTER TABLE public.animal ADD COLUMN legs int; ALTER TABLE public.dog ADD COLUMN bark text; CREATE INDEX alone ON public.quarter (v)`,
    );
    const differences = await compareCatalogs(p.blue, p.green, {
      tables: EVERYTHING,
      migrations: [
        { addColumn: { table: '"Part ed"', column: 'New One', type: 'int', notNull: false } },
        {
          createIndex: {
            table: '"Part ed"',
            name: 'planned',
            columns: ['"New One"'],
            unique: false,
            method: 'btree',
            include: [],
          },
        },
        { addConstraint: { table: '"Part ed"', name: 'positive', check: 'v > 0' } },
        { setNotNull: { table: '"Part ed"', column: 'v', up: '1' } },
        { addColumn: { table: 'animal', column: 'legs', type: 'int', notNull: false } },
      ],
    });
    expect(differences.map(({ kind, object }) => `${kind} ${object}`)).toEqual([
      'column public.dog.bark',
      'index public.alone',
    ]);
  });

  it('leaves constraints as they are that steps of the plan have made before those of blue', async () => {
    const p = await pair(
      'pg15',
      'planned',
      `CREATE TABLE parents (id int PRIMARY KEY); INSERT INTO parents VALUES (1);
       CREATE TABLE items (id int, parent int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
       CREATE TABLE items_rest PARTITION OF items DEFAULT;
       CREATE TABLE notes (id int PRIMARY KEY, parent int, other int REFERENCES parents);
       ALTER TABLE items ADD CONSTRAINT items_id CHECK (id > 0) NOT VALID, ADD CONSTRAINT items_other CHECK (id < 9) NOT VALID;
       ALTER TABLE items ADD CONSTRAINT items_parent FOREIGN KEY (parent) REFERENCES parents;
       ALTER TABLE notes ADD CONSTRAINT notes_parent FOREIGN KEY (parent) REFERENCES parents NOT VALID;
       COMMENT ON CONSTRAINT notes_parent ON notes IS 'of blue'`,
    );
    open.push(p);
    const s = await read(p.blueDatabase);
    await applyPreData(p.context, s.preData);
    await applyKeys(p.context, s.keys);
    const toParents = {
      columns: ['parent'],
      references: { table: 'parents', columns: ['id'] },
      onDelete: 'NO ACTION' as const,
      onUpdate: 'NO ACTION' as const,
    };
    const planned = [
      { table: 'items', name: 'items_id', check: 'id > 0' },
      { table: 'items', name: 'items_parent', foreignKey: toParents },
      { table: 'notes', name: 'notes_parent', foreignKey: toParents },
    ];
    for (const constraint of planned) {
      await addConstraint(p.context, { schema: 'public', name: constraint.table }, constraint);
    }
    for (let times = 0; times < 2; times++) {
      await applyForeignKeys(p.context, s.foreignKeys);
      await applyRest(p.context, s);
    }
    const migrations = planned.map((constraint) => ({ addConstraint: constraint }));
    expect(await compareCatalogs(p.blue, p.green, { tables: EVERYTHING, migrations })).toEqual([]);
    // What no step has validated is blue's as it is there.
    const { rows } = await p.green.query(
      `SELECT conname, convalidated FROM pg_constraint WHERE conrelid IN ('public.items'::regclass, 'public.notes'::regclass) AND contype IN ('c', 'f')
        ORDER BY conname COLLATE "C"`,
    );
    expect(rows).toEqual([
      { conname: 'items_id', convalidated: true },
      { conname: 'items_other', convalidated: false },
      { conname: 'items_parent', convalidated: true },
      { conname: 'notes_other_fkey', convalidated: true },
      { conname: 'notes_parent', convalidated: true },
    ]);
    await p.green.query('ALTER TABLE public.notes DROP CONSTRAINT notes_parent');
    await p.green.query(
      `ALTER TABLE public.notes ADD CONSTRAINT notes_parent FOREIGN KEY (other) REFERENCES public.parents`,
    );
    expect(await compareCatalogs(p.blue, p.green, { tables: EVERYTHING, migrations })).toMatchObject([
      { object: 'public.notes.notes_parent', difference: expect.stringMatching(/^comment is/) as string },
      { object: 'public.notes.notes_parent', difference: expect.stringMatching(/^definition is/) as string },
    ]);
  });

  it('keeps a schema in which somebody has made things meanwhile', async () => {
    const p = await pair('pg15', 'kept', 'CREATE SCHEMA shop; CREATE TABLE shop.a (id int PRIMARY KEY)');
    open.push(p);
    await applyAll(p.context, await read(p.blueDatabase));
    await p.green.query('CREATE TABLE shop.mine (id int)');
    expect(await dropCopiedSchema(p.context)).toEqual(['shop']);
    expect((await readUserObjects(p.green)).map(({ identity }) => identity)).toEqual(['shop', 'shop.mine']);
  });

  it('without a superuser on green belongs to its user', async () => {
    const p = await pair(
      'pg15',
      'plain',
      `${SMALL} GRANT SELECT ON public.a TO ${ROLE}; ALTER TABLE public.b OWNER TO ${ROLE}`,
    );
    open.push(p);
    const options = { exclude: [], ownersAndGrants: false };
    const statements = await statementsOf(
      await dumpSchema(p.blueDatabase, 'pre-data', options),
      await dumpSchema(p.blueDatabase, 'post-data', options),
    );
    expect(JSON.stringify(statements)).not.toMatch(/OWNER TO|GRANT /);
  });
});

describe('pg_dump', () => {
  afterEach(() => {
    delete process.env.VERDIGRIS_PG_DUMP;
  });

  it('as WebAssembly gives the same statements as the native one', async (context) => {
    const p = await pair('pg15', 'wasm', oddSchema(ROLE));
    open.push(p);
    const native = await findNativePgDump();
    process.env.VERDIGRIS_PG_DUMP = '/there/is/none';
    const wasm = await read(p.blueDatabase);
    expect(wasm.keys.create.length).toBeGreaterThan(10);
    if (native === undefined || native.major < 15) context.skip('there is no pg_dump of 15 or later here');
    delete process.env.VERDIGRIS_PG_DUMP;
    expect(withoutVersions(await read(p.blueDatabase))).toEqual(withoutVersions(wasm));
  });

  // Again where the machine itself stood still: a dump that goes on takes as long each time.
  it('as WebAssembly ends when it is cancelled, although it waits for a lock', { retry: 2 }, async () => {
    const p = await pair('pg15', 'cancel', 'CREATE TABLE public.a (id int PRIMARY KEY)');
    open.push(p);
    process.env.VERDIGRIS_PG_DUMP = '/there/is/none';
    const controller = new AbortController();
    await withClient(p.blueDb.config, async (holder) => {
      await holder.query('BEGIN; LOCK TABLE public.a IN ACCESS EXCLUSIVE MODE');
      const options = { exclude: [], ownersAndGrants: true, signal: controller.signal };
      const dumping = dumpSchema(p.blueDatabase, 'pre-data', options);
      const cancelled = abortInWait(p.blueDb, controller);
      await expect(dumping).rejects.toThrow('cancelled');
      // By itself pg_dump waits for two seconds.
      expect(performance.now() - (await cancelled)).toBeLessThan(1_500);
      const { rows } = await holder.query(
        `SELECT count(*)::int AS left FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()`,
      );
      expect(rows).toEqual([{ left: 0 }]);
    });
  });

  it('that may not read a table says so without secrets', async () => {
    const p = await pair('pg15', 'denied', 'CREATE TABLE public.a (id int PRIMARY KEY)');
    open.push(p);
    const user = `dumper_${randomBytes(4).toString('hex')}`;
    await p.blue.query(`CREATE ROLE ${user} LOGIN PASSWORD 'very-secret'`);
    try {
      for (const program of ['/there/is/none', undefined]) {
        if (program === undefined) delete process.env.VERDIGRIS_PG_DUMP;
        else process.env.VERDIGRIS_PG_DUMP = program;
        const database = { ...p.blueDatabase, config: { ...p.blueDatabase.config, user, password: 'very-secret' } };
        const failed = dumpSchema(database, 'pre-data', { exclude: [], ownersAndGrants: true });
        await expect(failed).rejects.toMatchObject({
          type: 'SchemaCopyFailed',
          message: expect.stringMatching(/permission denied for table a/) as string,
        });
        await expect(failed).rejects.not.toThrow(/very-secret|127\.0\.0\.1/);
      }
    } finally {
      await p.blue.query(`DROP ROLE ${user}`);
    }
  });

  it('that meets a text which is no UTF8 says what to do about it', async () => {
    const ascii = await testDatabase('pg15', 'ascii', `ENCODING 'SQL_ASCII' LOCALE 'C'`);
    try {
      await withClient(ascii.config, (client) =>
        client.query(`CREATE TABLE public.a (id int PRIMARY KEY);
          DO $$ BEGIN EXECUTE format('COMMENT ON TABLE public.a IS %L', convert_from('\\xe9', 'SQL_ASCII')); END $$`),
      );
      for (const program of ['/there/is/none', undefined]) {
        if (program === undefined) delete process.env.VERDIGRIS_PG_DUMP;
        else process.env.VERDIGRIS_PG_DUMP = program;
        await expect(
          dumpSchema(asDatabase(ascii, 'blue'), 'pre-data', { exclude: [], ownersAndGrants: true }),
        ).rejects.toMatchObject({
          type: 'SchemaCopyFailed',
          retryable: false,
          nextStep: expect.stringContaining('in UTF8 or ASCII on blue') as string,
        });
      }
    } finally {
      await ascii.drop();
    }
  });

  it('is tried again for what passes, and not for a name that says so', () => {
    for (const said of [
      'pg_dump: error: connection to server at "db" (10.0.0.1), port 5432 failed: Connection refused',
      'pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout',
      'pg_dump: error: query failed: server closed the connection unexpectedly\nQuery was: SELECT 1',
      'connection to server at "db" failed: FATAL:  sorry, too many clients already',
    ])
      expect(passesByItself(said), said).toBe(true);
    for (const said of [
      'pg_dump: error: query failed: ERROR:  permission denied for table connection_state\nQuery was: LOCK TABLE public.connection_state',
      'pg_dump: error: query failed: ERROR:  cache lookup failed for "connection"\nQuery was: SELECT connection FROM x',
    ])
      expect(passesByItself(said), said).toBe(false);
  });

  it('is told nothing in its arguments that others may not read', () => {
    const args = dumpArguments('pre-data', { ownersAndGrants: false });
    expect(args.join(' ')).not.toMatch(/host|user|password|postgres/);
  });

  it('leaves out what it is to leave out, whatever its name, and nothing else', async () => {
    const names = [
      ...['Plain', 'a*b', 'c|d', '(e)', 'f"g', String.raw`h\d`, 'i\nj', 'k#l', 'm$n', '.o', '[p]', 'q?r', 's t'],
      ...Array.from({ length: 20 }, (_, i) => `größe_${i}_${'ü'.repeat(i)}`),
    ];
    const kept = ['plain', 'a1b', 'c', 'd', 'e', 'h1', 'größe', 'größe_1_x', 'qxr', 's'];
    const schemas = ['public', 'Odd "x"'];
    const p = await pair(
      'pg15',
      'left out',
      schemas
        .flatMap((schema) => [
          `CREATE SCHEMA IF NOT EXISTS ${ident(schema)}`,
          ...[...names, ...kept].map((name) => `CREATE TABLE ${ident(schema)}.${ident(name)} (id int PRIMARY KEY)`),
        ])
        .join(';'),
    );
    open.push(p);
    const exclude = schemas.flatMap((schema) => names.map((name) => ({ schema, name })));
    for (const program of [undefined, '/there/is/none']) {
      if (program !== undefined) process.env.VERDIGRIS_PG_DUMP = program;
      const { preData, keys } = await read(p.blueDatabase, exclude);
      expect(keys.create.map(({ table }) => formatTableName(table)).sort()).toEqual(
        schemas.flatMap((schema) => kept.map((name) => formatTableName({ schema, name }))).sort(),
      );
      expect(preData.filter((text) => text.startsWith('CREATE TABLE'))).toHaveLength(2 * kept.length);
    }
  });

  it('that knows filters is given what it leaves out by its standard input', async () => {
    const p = await pair('pg15', 'filter', 'CREATE TABLE public.a (id int)');
    open.push(p);
    const folder = await mkdtemp(join(tmpdir(), 'verdigris-pg-dump-'));
    const program = join(folder, 'pg_dump');
    const version = '[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 17.2" && exit';
    await writeFile(program, `#!/bin/sh\n${version}\necho "$*"\ncat\n`, { mode: 0o755 });
    process.env.VERDIGRIS_PG_DUMP = program;
    try {
      const exclude = Array.from({ length: 30_000 }, (_, i) => ({ schema: 'public', name: `events_${i}` }));
      const options = { exclude, ownersAndGrants: true };
      const said = await dumpSchema(p.blueDatabase, 'pre-data', options);
      expect(said.split('\n')[0]).toMatch(/--filter=-$/);
      expect(said.match(/^exclude table "public"\."events_\d+"$/gm)).toHaveLength(30_000);
      await writeFile(program, `#!/bin/sh\n${version}\nexit 3\n`);
      await expect(dumpSchema(p.blueDatabase, 'pre-data', options)).rejects.toThrow('pg_dump ended with 3');
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

/** Versions of pg_dump write ALTER TABLE or ALTER VIEW ... OWNER, and default privileges with one space or two. */
function withoutVersions(statements: SchemaStatements): unknown {
  return JSON.parse(
    JSON.stringify(statements)
      .replaceAll(/ {2,}TO /g, ' TO ')
      .replaceAll(/ALTER (VIEW|MATERIALIZED VIEW|SEQUENCE) ((?:\\"|[^"])+?) OWNER TO/g, 'ALTER TABLE $2 OWNER TO'),
  ) as unknown;
}

describe('a dump', () => {
  /** A section in which there is nothing. */
  const SETTINGS = 'SET statement_timeout = 0;';

  it('in slices has the statements of the whole', async () => {
    const p = await pair('pg15', 'slices', oddSchema(ROLE));
    open.push(p);
    const bare = (statements: readonly Statement[]): unknown =>
      JSON.parse(JSON.stringify(statements, (name, value: unknown) => (name === 'location' ? undefined : value)));
    for (const section of ['pre-data', 'post-data'] as const) {
      const dump = withoutMetaCommands(
        await dumpSchema(p.blueDatabase, section, { exclude: [], ownersAndGrants: true }),
      );
      const whole = bare(await parseStatements(dump));
      for (const length of [1, 700, 5_000]) {
        const slices: Statement[][] = [];
        for await (const slice of statementsInSlices(dump, length)) slices.push(slice);
        expect(slices.length).toBeGreaterThan(1);
        expect(bare(slices.flat())).toEqual(whole);
      }
    }
  });

  it('that is no SQL to the parser ends the run at once, since the next one would be the same', async () => {
    await expect(
      statementsOf(`${SETTINGS}\nCREATE FUNCTION shop.f(json jsonb) RETURNS int`, SETTINGS),
    ).rejects.toMatchObject({
      ...{ type: 'SchemaCopyFailed', retryable: false },
      message: expect.stringMatching(/^blue: the schema as pg_dump writes it \(pre-data\) .* near "jsonb"/) as string,
    });
  });

  it('is freed of what only its own server understands', async () => {
    const { preData } = await statementsOf(
      `\\restrict abc123
SET statement_timeout = 0;
SET transaction_timeout = 0;
SET check_function_bodies = false;
SELECT pg_catalog.set_config('search_path', '', false);
CREATE SCHEMA public;
CREATE FUNCTION public.f() RETURNS text LANGUAGE sql AS $$ SELECT '
\\restrict me; SET (pg_attver=1)' $$;
ALTER TABLE ONLY public.a ALTER COLUMN x SET (pg_attver=3);
ALTER TABLE ONLY public.a ALTER COLUMN y SET (n_distinct=5, pg_attver=3);
COMMENT ON EXTENSION citext IS 'x';
\\unrestrict abc123
`,
      SETTINGS,
    );
    expect(preData).toEqual([
      'SET LOCAL check_function_bodies = false',
      'CREATE SCHEMA IF NOT EXISTS public',
      "CREATE FUNCTION public.f() RETURNS text LANGUAGE sql AS $$ SELECT '\n\\restrict me; SET (pg_attver=1)' $$",
      'ALTER TABLE ONLY public.a ALTER COLUMN y SET (n_distinct=5)',
    ]);
  });

  it('has its keys apart from its indexes, and foreign keys in two halves where PostgreSQL allows it', async () => {
    const statements = await statementsOf(
      SETTINGS,
      `ALTER TABLE ONLY s.t ADD CONSTRAINT t_pkey PRIMARY KEY (id);
       CREATE UNIQUE INDEX ident ON s.t USING btree (a);
       ALTER TABLE ONLY s.t REPLICA IDENTITY USING INDEX ident;
       CREATE UNIQUE INDEX plain ON s.t USING btree (b);
       CREATE MATERIALIZED VIEW s.late AS SELECT 1 AS x WITH NO DATA;
       CREATE INDEX late_x ON s.late USING btree (x);
       ALTER TABLE ONLY s.t ADD CONSTRAINT fk FOREIGN KEY (b) REFERENCES s.u(id);
       ALTER TABLE ONLY s.t ADD CONSTRAINT fk_unchecked FOREIGN KEY (b) REFERENCES s.u(id) NOT VALID;
       ALTER TABLE s.p ADD CONSTRAINT fk_p FOREIGN KEY (b) REFERENCES s.u(id);
       ALTER TABLE s.t ADD CONSTRAINT positive CHECK ((b > 0)) NOT VALID;`,
    );
    const table = { schema: 's', name: 't' };
    expect(statements.keys).toEqual({
      create: [
        { table, name: 't_pkey', create: 'ALTER TABLE ONLY s.t ADD CONSTRAINT t_pkey PRIMARY KEY (id)' },
        { table, name: 'ident', create: 'CREATE UNIQUE INDEX ident ON s.t USING btree (a)' },
      ],
      join: ['ALTER TABLE ONLY s.t REPLICA IDENTITY USING INDEX ident'],
    });
    expect(statements.secondaryIndexes.indexes).toEqual([
      { table, name: 'plain', create: 'CREATE UNIQUE INDEX plain ON s.t USING btree (b)' },
    ]);
    expect(concurrently('CREATE UNIQUE INDEX plain ON s.t USING btree (b)')).toBe(
      'CREATE UNIQUE INDEX CONCURRENTLY plain ON s.t USING btree (b)',
    );
    expect(statements.foreignKeys).toEqual([
      {
        table,
        name: 'fk',
        add: 'ALTER TABLE ONLY s.t ADD CONSTRAINT fk FOREIGN KEY (b) REFERENCES s.u(id) NOT VALID',
        validate: 'ALTER TABLE ONLY "s"."t" VALIDATE CONSTRAINT "fk"',
      },
      {
        table,
        name: 'fk_unchecked',
        add: 'ALTER TABLE ONLY s.t ADD CONSTRAINT fk_unchecked FOREIGN KEY (b) REFERENCES s.u(id) NOT VALID',
        validate: null,
      },
      {
        table: { schema: 's', name: 'p' },
        name: 'fk_p',
        add: 'ALTER TABLE s.p ADD CONSTRAINT fk_p FOREIGN KEY (b) REFERENCES s.u(id)',
        validate: null,
      },
    ]);
    expect(statements.rest).toEqual([
      'CREATE MATERIALIZED VIEW s.late AS SELECT 1 AS x WITH NO DATA',
      'CREATE INDEX late_x ON s.late USING btree (x)',
      'ALTER TABLE s.t ADD CONSTRAINT positive CHECK ((b > 0)) NOT VALID',
    ]);
    expect(statements.checks).toEqual([
      { table, name: 'positive', add: 'ALTER TABLE s.t ADD CONSTRAINT positive CHECK ((b > 0)) NOT VALID' },
    ]);
  });
});
