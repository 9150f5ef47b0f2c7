import { afterAll, beforeAll, expect, it } from 'vitest';
import { ALL_TABLES } from '../../src/postgres/catalog-pattern.js';
import { applyPreData } from '../../src/postgres/schema-copy/apply-pre-data.js';
import { compareCatalogs } from '../../src/postgres/schema-copy/compare-catalogs.js';
import { readDumpFilter } from '../../src/postgres/schema-copy/dump-filter.js';
import {
  canGiveOwnership,
  ownershipObstacles,
  superuserOfPublic,
} from '../../src/postgres/schema-copy/ownership-given.js';
import { dumpSchema } from '../../src/postgres/schema-copy/pg-dump.js';
import { readPreDataStatements } from '../../src/postgres/schema-copy/schema-statements.js';
import { differentSystemGrants } from '../../src/postgres/schema-copy/system-grants.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';

const [OWNER, OTHER, READER, MOVER] = ['owner', 'other', 'reader', 'mover'].map(
  (name) => `given_${name}_${process.pid}`,
) as [string, string, string, string];

let own: readonly [TestDatabase, TestDatabase];
let blue: Session;
let green: Session;
let mover: Session;

beforeAll(async () => {
  own = [await testDatabase('pg15', 'given blue'), await testDatabase('pg18', 'given green')];
  blue = await openSession(asDatabase(own[0], 'blue'), { purpose: 'test' });
  green = await openSession(asDatabase(own[1], 'green'), { purpose: 'test' });
  for (const session of [blue, green]) {
    await session.query(`CREATE ROLE ${OWNER}; CREATE ROLE ${READER}; CREATE ROLE ${MOVER} LOGIN PASSWORD 'x'`);
  }
  await green.query(`GRANT CREATE ON DATABASE "${own[1].database}" TO ${MOVER}`);
  await blue.query(`
    GRANT CREATE ON DATABASE "${own[0].database}" TO ${OWNER}; GRANT CREATE ON SCHEMA public TO ${OWNER}; SET ROLE ${OWNER};
    CREATE TYPE public.mood AS ENUM ('a'); CREATE TABLE public.a (id int PRIMARY KEY, m public.mood); CREATE SCHEMA shop;
    CREATE FUNCTION shop.one() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TABLE shop.b (id bigserial PRIMARY KEY);
    CREATE TYPE shop.span AS RANGE (subtype = int4); GRANT SELECT, INSERT ON public.a TO ${READER};
    GRANT USAGE ON SCHEMA shop TO ${READER}; RESET ROLE;
    CREATE TYPE shop.period AS RANGE (subtype = date); ALTER TYPE shop.period OWNER TO ${OWNER};
    REVOKE USAGE ON TYPE shop.period FROM PUBLIC`);
  const asMover = { ...own[1].config, user: MOVER, password: 'x' };
  mover = await openSession({ ...asDatabase(own[1], 'green'), config: asMover }, { purpose: 'test' });
});

afterAll(async () => {
  await closeSession(mover);
  for (const [i, session] of [blue, green].entries()) {
    await closeSession(session);
    await own[i]?.drop();
  }
  for (const server of ['pg15', 'pg18'] as const) {
    const database = await testDatabase(server, 'given roles');
    const session = await openSession(asDatabase(database, 'blue'), { purpose: 'test' });
    await session.query(`DROP ROLE IF EXISTS ${[OWNER, OTHER, READER, MOVER].join(', ')}`);
    await closeSession(session);
    await database.drop();
  }
});

it('a superuser can give everything to anybody', async () => {
  expect(await canGiveOwnership(blue, green, ALL_TABLES)).toBe(true);
});

it('another user only what it may become, where the owners may make something', async () => {
  expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(false);
  await green.query(`GRANT ${OWNER} TO ${MOVER}`);
  // It owns a table in public on blue, and may make none there on green.
  expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(false);
  await green.query(`GRANT CREATE ON SCHEMA public TO ${OWNER}`);
  // Blue's public may have been changed: only its owner could repeat that.
  expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(false);
  await green.query(`ALTER SCHEMA public OWNER TO ${OWNER}`);
  expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(true);
  // The right to make something in it is none to give it to its owner.
  await green.query(`CREATE SCHEMA shop; GRANT USAGE, CREATE ON SCHEMA shop TO ${OWNER}, ${MOVER}`);
  expect(await ownershipObstacles(blue, mover, ALL_TABLES)).toEqual([
    { kind: 'schema', schema: 'shop', owner: OWNER, ownerOnGreen: 'postgres' },
  ]);
  await expect(mover.query(`ALTER SCHEMA shop OWNER TO ${OWNER}`)).rejects.toMatchObject({ code: '42501' });
  await green.query(`ALTER SCHEMA shop OWNER TO ${OWNER}`);
  expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(true);
  await green.query('DROP SCHEMA shop');
});

it('not what somebody else than the owner has granted, nor what belongs to a role that green does not know', async () => {
  await blue.query(`CREATE ROLE ${OTHER}; GRANT SELECT ON public.a TO ${OTHER} WITH GRANT OPTION;
    SET ROLE ${OTHER}; GRANT SELECT ON public.a TO ${READER}; RESET ROLE`);
  expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(false);
  await blue.query(`REVOKE SELECT ON public.a FROM ${OTHER} CASCADE`);
  expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(true);
  await blue.query(`CREATE TABLE public.c (id int); ALTER TABLE public.c OWNER TO ${OTHER}`);
  expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(false);
  const withoutIt = { include: ['*.*'], exclude: ['public.c'] };
  expect(await canGiveOwnership(blue, mover, withoutIt)).toBe(true);
  await blue.query('DROP TABLE public.c');
  // No dump says whose an extension is, and large objects are not copied.
  await blue.query(`GRANT CREATE ON DATABASE "${own[0].database}" TO ${OTHER}; GRANT CREATE ON SCHEMA public TO ${OTHER};
    SET ROLE ${OTHER}; CREATE EXTENSION citext; SELECT lo_create(0); RESET ROLE`);
  expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(true);
  await blue.query(`DROP OWNED BY ${OTHER}`);
});

it('and not whose a user mapping is: the owner of its server makes it', async () => {
  await blue.query(`CREATE FOREIGN DATA WRAPPER elsewhere; GRANT USAGE ON FOREIGN DATA WRAPPER elsewhere TO ${OWNER};
    SET ROLE ${OWNER}; CREATE SERVER erp FOREIGN DATA WRAPPER elsewhere; CREATE USER MAPPING FOR ${READER} SERVER erp;
    RESET ROLE; ALTER FOREIGN DATA WRAPPER elsewhere OWNER TO postgres`);
  const owners = (await ownershipObstacles(blue, mover, ALL_TABLES)).map((one) => 'role' in one && one.role);
  expect(owners).not.toContain(READER);
  await blue.query('DROP FOREIGN DATA WRAPPER elsewhere CASCADE');
});

it('and not which superuser owns the schema public, as in a database that began before PostgreSQL 15', async () => {
  await blue.query(`ALTER SCHEMA public OWNER TO postgres; GRANT CREATE ON SCHEMA public TO ${READER}`);
  expect(await canGiveOwnership(blue, mover, ALL_TABLES)).toBe(true);
  // With a superuser green gets it as it is.
  expect(await superuserOfPublic(blue, mover)).toBe('postgres');
  expect(await superuserOfPublic(blue, green)).toBe(null);
});

it('and then the copy that it makes has the owners and the grants of blue', async () => {
  await installState(mover, 'green');
  // Nobody but a superuser may repeat the grants; the REVOKE is a warning of PostgreSQL's, and changes nothing.
  for (const session of [blue, green]) await session.query('CREATE EXTENSION postgres_fdw');
  for (const session of [blue, green]) {
    await session.query(`GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO ${OWNER}`);
  }
  await blue.query(`SET ROLE ${OWNER}; CREATE SERVER erp FOREIGN DATA WRAPPER postgres_fdw;
    CREATE USER MAPPING FOR ${READER} SERVER erp OPTIONS (user 'x'); RESET ROLE`);
  await blue.query(`GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO ${READER};
    GRANT SELECT (rolname) ON pg_catalog.pg_authid TO ${READER}; GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean) TO ${READER};
    REVOKE EXECUTE ON FUNCTION pg_catalog.pg_jit_available() FROM PUBLIC`);
  const dump = await dumpSchema(asDatabase(own[0], 'blue'), 'pre-data', { exclude: [], ownersAndGrants: true });
  const context = {
    ...{ runId: 'given', session: mover, connect: () => Promise.reject(new Error('no other session')) },
    ...{ signal: new AbortController().signal, onProgress: () => undefined },
  };
  await applyPreData(context, await readPreDataStatements(dump, await readDumpFilter(blue, mover, ALL_TABLES)));
  const ofSystem = (await differentSystemGrants(blue, mover, [])).map(({ statement }) => statement);
  expect(ofSystem.toSorted()).toEqual([
    `GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(pg_catalog.text,boolean) TO "${READER}"`,
    `GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO "${READER}"`,
    'REVOKE EXECUTE ON FUNCTION pg_catalog.pg_jit_available() FROM PUBLIC',
  ]);
  await green.query(ofSystem.join('; '));
  expect(await differentSystemGrants(blue, mover, [])).toEqual([]);
  const differences = await compareCatalogs(blue, mover, { tables: { include: ['*.*'], exclude: [] }, migrations: [] });
  const rights = differences.filter(({ difference }) => /owner|grants/.test(difference));
  // Green's own schema public, which no copy makes.
  expect(new Set(rights.map(({ severity, kind, object }) => `${severity} ${kind} ${object}`))).toEqual(
    new Set(['warning schema public']),
  );
  const { rows } = await green.query<{ owner: string; reads: boolean }>(
    `SELECT pg_get_userbyid(relowner) AS owner, has_table_privilege($1, oid, 'INSERT') AS reads FROM pg_class WHERE relname = 'a'`,
    [READER],
  );
  expect(rows).toEqual([{ owner: OWNER, reads: true }]);
  const { rows: mappings } = await green.query(
    `SELECT m.usename, pg_get_userbyid(s.srvowner) AS owner FROM pg_user_mappings m JOIN pg_foreign_server s ON s.oid = m.srvid`,
  );
  expect(mappings).toEqual([{ usename: READER, owner: OWNER }]);
  const { rows: ofPublic } = await green.query<{ owner: string; creates: boolean }>(
    `SELECT pg_get_userbyid(nspowner) AS owner, has_schema_privilege($1, oid, 'CREATE') AS creates FROM pg_namespace WHERE nspname = 'public'`,
    [READER],
  );
  expect(ofPublic).toEqual([{ owner: OWNER, creates: true }]);
});
