import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { copySchemaActivities } from '../../activities/copy-schema.js';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';
import { ALL_TABLES, type TablePatterns } from '../../src/postgres/catalog-pattern.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import type { PreflightFinding } from '../../src/postgres/preflight/finding.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import { readLeftOut, readUnofferedExtensions } from '../../src/postgres/schema-copy/left-out-extensions.js';
import { canGiveOwnership } from '../../src/postgres/schema-copy/ownership-given.js';
import { differentSystemGrants } from '../../src/postgres/schema-copy/system-grants.js';
import { closeSession, openSession, type Databases, type Session } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

/* PostgreSQL 15 has two extensions that 18 has not: old_snapshot, a function in any schema, and adminpack, in pg_catalog. */

const [READER, SERVICE, MOVER] = ['reader', 'service', 'mover'].map((name) => `left_out_${name}_${process.pid}`) as [
  string,
  string,
  string,
];

let own: readonly [TestDatabase, TestDatabase];
let databases: Databases;
let blue: Session;
let green: Session;

/** On both servers. */
async function onServers(sql: string): Promise<void> {
  for (const server of ['pg15', 'pg18'] as const) {
    const database = await testDatabase(server, 'left out roles');
    await withClient(database.config, (client) => client.query(sql));
    await database.drop();
  }
}

// Blue's service is a superuser that green does not know.
beforeAll(async () => {
  await onServers(`CREATE ROLE ${READER}; CREATE ROLE ${MOVER} LOGIN PASSWORD 'x'`);
});
afterAll(() => onServers(`DROP ROLE IF EXISTS ${READER}, ${SERVICE}, ${MOVER}`));

beforeEach(async () => {
  own = [await testDatabase('pg15', 'left out blue'), await testDatabase('pg18', 'left out green')];
  databases = { blue: asDatabase(own[0], 'blue'), green: asDatabase(own[1], 'green') };
  blue = await openSession(databases.blue, { purpose: 'test' });
  green = await openSession(databases.green, { purpose: 'test' });
  await blue.query(`DO $$ BEGIN CREATE ROLE ${SERVICE} SUPERUSER; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
    CREATE TABLE public.orders (id int PRIMARY KEY, note text)`);
  await blue.query(OF_SERVICE);
});

afterEach(async () => {
  for (const session of [blue, green]) await closeSession(session);
  for (const database of own) await database.drop();
});

/** A schema of a service, with a table, a policy and grants; adminpack has a type in public. */
const OF_SERVICE = `
  CREATE SCHEMA "Vacuum"; COMMENT ON SCHEMA "Vacuum" IS 'of the service'; CREATE EXTENSION old_snapshot SCHEMA "Vacuum"; CREATE EXTENSION adminpack;
  CREATE TABLE "Vacuum".job (id serial PRIMARY KEY, who text DEFAULT current_user CHECK (who <> ''));
  CREATE TYPE public.kind AS ENUM ('a'); CREATE FUNCTION public.of_kind(public.kind) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
  ALTER EXTENSION old_snapshot ADD TABLE "Vacuum".job; ALTER EXTENSION old_snapshot ADD SEQUENCE "Vacuum".job_id_seq;
  ALTER EXTENSION adminpack ADD TYPE public.kind; ALTER EXTENSION adminpack ADD FUNCTION public.of_kind(public.kind);
  CREATE INDEX ON "Vacuum".job (who); CREATE POLICY own ON "Vacuum".job USING (who = current_user);
  COMMENT ON POLICY own ON "Vacuum".job IS 'x'; ALTER TABLE "Vacuum".job ENABLE ROW LEVEL SECURITY;
  GRANT USAGE ON SCHEMA "Vacuum" TO ${READER}; GRANT SELECT, INSERT (who) ON "Vacuum".job TO ${READER};
  GRANT EXECUTE ON FUNCTION "Vacuum".pg_old_snapshot_time_mapping TO ${READER}; GRANT EXECUTE ON FUNCTION public.of_kind TO ${READER};
  GRANT USAGE ON TYPE public.kind TO ${READER};
  ALTER SCHEMA "Vacuum" OWNER TO ${SERVICE};
  CREATE FUNCTION public.calls() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM "Vacuum".pg_old_snapshot_time_mapping(); END'`;

function planOf(plan: Partial<PlanInput> = {}): ReturnType<typeof planSchema.parse> {
  return planSchema.parse({
    ...{ name: 'left-out', blue: { connection: 'app_blue' }, green: { connection: 'app_green' } },
    ...{ bootstrap: { method: 'tablesync' } },
    ...plan,
  });
}

async function findings(...checks: readonly string[]): Promise<PreflightFinding[]> {
  const report = await preflight({ ...databases, plan: planOf(), runId: 'left-out', reachWithinMs: 1_000 });
  return report.findings.filter(({ check }) => ['check-failed', ...checks].includes(check));
}

describe('an extension of blue that green does not offer', () => {
  it('is a warning where nothing that is copied needs it, and no role of it is missed', async () => {
    expect(await readLeftOut(blue, green, ALL_TABLES)).toEqual({
      extensions: ['adminpack', 'old_snapshot'],
      schemas: ['Vacuum'],
    });
    const told = await findings('extensions', 'roles');
    expect(told.map(({ severity, object }) => `${severity} ${object}`)).toEqual([
      'warning adminpack',
      'warning old_snapshot',
    ]);
    expect(told[1]?.message).toMatch(/left out with the schema "Vacuum", .* in the body of a function/);
    const system = async (leftOut: readonly string[]): Promise<string> =>
      (await differentSystemGrants(blue, green, leftOut)).map(({ statement }) => statement).join();
    expect(await system([])).toContain(`GRANT USAGE ON TYPE public.kind TO "${READER}"`);
    expect(await system(['adminpack', 'old_snapshot'])).toBe('');
  });

  it('stays on blue with its schema and what is granted on its members, and the comparison takes it as told', async () => {
    const run = { runId: 'left-out', migration: 'left-out' };
    await claimDatabases(databases, run, 'use-green-db');
    const ref = { plan: planOf(), runId: run.runId };
    const environment = { VERDIGRIS_CONNECTION_APP_BLUE: own[0].uri, VERDIGRIS_CONNECTION_APP_GREEN: own[1].uri };
    const { copySchema, completeSchema } = copySchemaActivities({ environment, redact: String });
    await new MockActivityEnvironment().run(() => copySchema(ref));
    const { warnings } = (await new MockActivityEnvironment().run(() => completeSchema(ref))) as { warnings: string[] };
    expect(warnings.filter((warning) => !warning.includes('schema public'))).toEqual([]);
    const { rows } = await green.query(
      `SELECT to_regprocedure('public.calls()') IS NOT NULL AS calls, to_regclass('public.orders') IS NOT NULL AS orders,
              to_regnamespace('"Vacuum"')::text AS schema, (SELECT count(*)::int FROM pg_extension) AS extensions`,
    );
    expect(rows).toEqual([{ calls: true, orders: true, schema: null, extensions: 1 }]);
  });

  it('keeps nobody from getting owners and grants whose role is the service of blue', async () => {
    await green.query(`ALTER SCHEMA public OWNER TO ${MOVER}`);
    await blue.query(`ALTER TABLE public.orders OWNER TO ${MOVER}; ALTER FUNCTION public.calls OWNER TO ${MOVER}`);
    const as = { ...databases.green, config: { ...databases.green.config, user: MOVER, password: 'x' } };
    const mover = await openSession(as, { purpose: 'test' });
    try {
      expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(true);
      // With it its schema is copied, whose owner green's user can't become.
      await blue.query(
        `CREATE TABLE "Vacuum".theirs (id int PRIMARY KEY); ALTER TABLE "Vacuum".theirs OWNER TO ${MOVER}`,
      );
      expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(false);
      await blue.query('DROP SCHEMA public CASCADE');
      expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(false);
    } finally {
      await closeSession(mover);
    }
  });

  const needed = async (tables: TablePatterns = ALL_TABLES): Promise<Record<string, readonly string[]>> =>
    Object.fromEntries(
      (await readUnofferedExtensions(blue, green, tables)).map(({ name, neededBy }) => [name, neededBy]),
    );

  it('is refused with what needs it', async () => {
    const needing = async (sql: string): Promise<unknown> => {
      await blue.query(`BEGIN; ${sql}`);
      const found = await needed();
      await blue.query('ROLLBACK');
      expect(found.old_snapshot).toEqual([]);
      return found.adminpack;
    };
    const addColumn = 'ALTER TABLE public.orders ADD';
    const createFunction = 'CREATE FUNCTION public.f';
    expect(await needing(`${addColumn} kind public.kind`)).toEqual(['table column public.orders.kind']);
    expect(await needing(`${addColumn} kinds public.kind[]`)).toEqual(['table column public.orders.kinds']);
    expect(await needing(`${addColumn} n int DEFAULT public.of_kind('a')`)).toEqual([
      'default value for public.orders.n',
    ]);
    expect(await needing(`${createFunction}(public.kind) RETURNS int LANGUAGE sql AS 'SELECT 1'`)).toEqual([
      'function public.f(public.kind)',
    ]);
    expect(await needing(`${createFunction}() RETURNS int LANGUAGE sql RETURN public.of_kind(NULL)`)).toEqual([
      'function public.f()',
    ]);
    expect(await needing('CREATE VIEW public.v AS SELECT public.of_kind(NULL) AS n')).toEqual(['view public.v']);
    expect(await needing('CREATE INDEX by_kind ON public.orders (public.of_kind(NULL))')).toEqual([
      'index public.by_kind',
    ]);
    expect(await needing('CREATE POLICY p ON public.orders USING (public.of_kind(NULL) = id)')).toEqual([
      'policy p on public.orders',
    ]);
    expect(await needing('ALTER FUNCTION public.calls() DEPENDS ON EXTENSION adminpack')).toEqual([
      'function public.calls()',
    ]);
    const ofAnother = `CREATE EXTENSION citext SCHEMA public; ${createFunction}() RETURNS int LANGUAGE sql RETURN public.of_kind(NULL);
      ALTER EXTENSION citext ADD FUNCTION public.f()`;
    expect(await needing(ofAnother)).toEqual(['extension citext']);

    await blue.query(`${addColumn} kind public.kind`);
    const [first] = await findings('extensions');
    expect(first).toMatchObject({ severity: 'error', object: 'adminpack' });
    expect(first?.message).toContain('table column public.orders.kind');
  });

  it('is not needed by tables that the plan leaves out, temporary ones, or what a dump does not have', async () => {
    await blue.query(`CREATE TABLE public.logged (id serial PRIMARY KEY, kind public.kind DEFAULT 'a' CHECK (public.of_kind(kind) > 0));
      CREATE INDEX ON public.logged (kind); CREATE PUBLICATION jobs FOR TABLE "Vacuum".job; CREATE TEMPORARY TABLE mine (kind public.kind)`);
    expect((await needed()).adminpack).toContain('table column public.logged.kind');
    expect(await needed({ include: ['*.*'], exclude: ['public.logged'] })).toEqual({ adminpack: [], old_snapshot: [] });
  });

  it('is needed by another one that is: neither is left out then', async () => {
    await blue.query(`INSERT INTO pg_depend SELECT 'pg_extension'::regclass, a.oid, 0, 'pg_extension'::regclass, b.oid, 0, 'n'
      FROM pg_extension a, pg_extension b WHERE a.extname = 'old_snapshot' AND b.extname = 'adminpack'`);
    expect(await needed()).toEqual({ adminpack: [], old_snapshot: [] });
    await blue.query('CREATE VIEW public.v AS SELECT * FROM "Vacuum".pg_old_snapshot_time_mapping()');
    expect(await needed()).toEqual({ adminpack: ['extension old_snapshot'], old_snapshot: ['view public.v'] });
  });

  it('leaves a schema to what else is in it', async () => {
    await blue.query(`ALTER DEFAULT PRIVILEGES IN SCHEMA "Vacuum" GRANT SELECT ON TABLES TO ${READER}`);
    expect(await readLeftOut(blue, green, ALL_TABLES)).toMatchObject({
      extensions: ['adminpack', 'old_snapshot'],
      schemas: [],
    });
  });
});
