import pg from 'pg';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { hiddenRows } from '../../src/postgres/hidden-rows.js';
import { ident } from '../../src/postgres/identifier.js';
import { describeMissingRights, inTheWay, missingRights } from '../../src/postgres/missing-rights.js';
import { describeMissingSettings, missingSettings, settingsInTheWay } from '../../src/postgres/missing-settings.js';
import { describePlanRights, missingPlanRights, rolesToAsk } from '../../src/postgres/plan-rights.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';
import { workOf } from './replicated-pair.js';

const SCHEMA = `
  CREATE SCHEMA "Odd one"; CREATE SEQUENCE public.numbers; CREATE TABLE public.only_blue (id int);
  CREATE TABLE public.orders (id int PRIMARY KEY, note text); CREATE TABLE "Odd one"."Or ders" (id int, secret text);
  CREATE VIEW public.open_orders AS SELECT * FROM public.orders;
  CREATE TABLE public.parts (id int) PARTITION BY RANGE (id); CREATE TABLE public.part PARTITION OF public.parts DEFAULT`;

let own: readonly [TestDatabase, TestDatabase];
let blue: Session;
let green: Session;
let application: pg.Client;
const role = `rights_${process.pid}`;

beforeAll(async () => {
  own = [await testDatabase('pg15', 'rights blue'), await testDatabase('pg18', 'rights green')];
  blue = await openSession(asDatabase(own[0], 'blue'), { purpose: 'test' });
  green = await openSession(asDatabase(own[1], 'green'), { purpose: 'test' });
  await blue.query(SCHEMA);
  await green.query(SCHEMA.replace('CREATE TABLE public.only_blue (id int);', ''));
  await blue.query(`
    CREATE ROLE ${role} LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA "Odd one" TO ${role};
    GRANT SELECT, INSERT ON public.orders, public.only_blue TO ${role}; GRANT SELECT ON public.open_orders, public.part TO ${role};
    GRANT SELECT (id) ON "Odd one"."Or ders" TO ${role}; GRANT USAGE ON SEQUENCE public.numbers TO ${role}`);
  application = new pg.Client({ ...own[0].config, user: role, password: 'x' });
  await application.connect();
});

afterAll(async () => {
  await application.end();
  for (const session of [blue, green]) {
    await session.query(`DROP OWNED BY ${ident(role)}`).catch(() => undefined);
    await session.query(`DROP ROLE IF EXISTS ${ident(role)}`);
    await closeSession(session);
  }
  for (const database of own) await database.drop();
});

/** Green has the role, with the rights that it has on blue. */
async function sameOnGreen(): Promise<void> {
  await green.query(`
    DO $$ BEGIN CREATE ROLE ${role} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT USAGE ON SCHEMA "Odd one" TO ${role};
    GRANT SELECT, INSERT ON public.orders TO ${role}; GRANT SELECT ON public.open_orders, "Odd one"."Or ders" TO ${role};
    GRANT USAGE ON SEQUENCE public.numbers TO ${role}`);
}

it('a role that is connected to blue and unknown on green is told', async () => {
  expect(await missingRights(blue, green)).toMatchObject([{ role, absent: true, rights: [], owned: [] }]);
  expect(describeMissingRights(await missingRights(blue, green))[0]).toContain(`CREATE ROLE ${ident(role)} LOGIN`);
});

it('each right that it lacks is told with its GRANT, of objects that both sides have, but for partitions', async () => {
  await green.query(`CREATE ROLE ${role} LOGIN; GRANT SELECT ON public.orders TO ${ident(role)}`);
  const [missing] = await missingRights(blue, green);
  expect(missing?.rights.toSorted((a, b) => a.on.localeCompare(b.on))).toEqual([
    { on: 'SCHEMA "Odd one"', privileges: ['USAGE'] },
    { on: 'SEQUENCE public.numbers', privileges: ['USAGE'] },
    { on: 'TABLE "Odd one"."Or ders"', privileges: ['SELECT (of some columns)'] },
    { on: 'TABLE public.open_orders', privileges: ['SELECT'] },
    { on: 'TABLE public.orders', privileges: ['INSERT'] },
  ]);
  const [text] = describeMissingRights(await missingRights(blue, green));
  expect(text).toContain(`GRANT INSERT ON TABLE public.orders TO ${ident(role)}`);
});

it('nothing is missing when they are granted, whichever way: by a role that it is a member of, too', async () => {
  const group = `${role}_group`;
  await green.query(`
    CREATE ROLE ${group}; GRANT ${group} TO ${role}; GRANT INSERT ON public.orders TO ${group};
    GRANT SELECT ON public.open_orders TO PUBLIC; GRANT SELECT ON "Odd one"."Or ders" TO ${group};
    GRANT USAGE ON SCHEMA "Odd one" TO ${role}; GRANT ALL ON SEQUENCE public.numbers TO ${role}`);
  try {
    const [missing] = await missingRights(blue, green);
    // All columns are more than some: what is asked for is there.
    expect(missing).toBeUndefined();
  } finally {
    await green.query(`DROP OWNED BY ${group}; DROP ROLE ${group}`);
  }
});

it('what the trigger of the plan uses must be usable for whoever may write the table, through a view as well', async () => {
  const ddl = `
    CREATE SCHEMA hidden; CREATE TYPE hidden.state AS ENUM ('a', 'b');
    CREATE FUNCTION hidden.lower_a(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
    REVOKE EXECUTE ON FUNCTION hidden.lower_a(text) FROM PUBLIC;
    CREATE TABLE hidden.orders (id int, status text, title text); CREATE VIEW public.written AS SELECT * FROM hidden.orders;
    CREATE TABLE hidden.only_read (id int, status text); CREATE TABLE hidden.shut (id int, status text)`;
  // A right on a table is none as long as its schema is shut.
  const grants = `GRANT INSERT ON public.written, hidden.shut TO ${ident(role)};
                  GRANT SELECT ON hidden.only_read TO ${ident(role)}`;
  const up = 'lower_a(status)::hidden.state';
  const work = await workOf([
    { changeType: { table: 'hidden.orders', column: 'status', newColumn: 'st', type: 'state', up, down: 'st::text' } },
    { addColumn: { table: 'hidden.orders', column: 'plain', type: 'text', up: 'upper(title)' } },
    { addColumn: { table: 'hidden.only_read', column: 'st', type: 'hidden.state', up: 'status::hidden.state' } },
    { addColumn: { table: 'hidden.shut', column: 'st', type: 'hidden.state', up: 'status::hidden.state' } },
  ]);
  const missing = async (session: Session): Promise<string[]> =>
    describePlanRights(await missingPlanRights(session, await rolesToAsk(blue, session), work));
  await sameOnGreen();
  for (const session of [blue, green]) await session.query(`${ddl}; ${grants}`);
  await green.query(`
    ALTER TABLE hidden.orders ADD st hidden.state, ADD plain text; ALTER TABLE hidden.only_read ADD st hidden.state`);
  try {
    for (const session of [blue, green]) {
      expect(await missing(session)).toEqual([
        expect.stringMatching(
          /may write hidden\.orders, .*: GRANT USAGE ON SCHEMA "hidden" TO .*; GRANT EXECUTE ON FUNCTION hidden\.lower_a\(text\) TO /,
        ),
      ]);
      await session.query(`GRANT USAGE ON SCHEMA hidden TO ${ident(role)}`);
      expect(await missing(session)).toEqual([expect.stringMatching(/: GRANT EXECUTE ON FUNCTION [^;]*$/)]);
      await session.query(`GRANT EXECUTE ON FUNCTION hidden.lower_a TO ${ident(role)}`);
      expect(await missing(session)).toEqual([]);
    }
  } finally {
    for (const session of [blue, green]) await session.query('DROP SCHEMA hidden CASCADE');
  }
});

it('a role with grants on each column of a table must be granted those that the plan adds', async () => {
  const work = await workOf([
    { addColumn: { table: 'by_column', column: 'more', type: 'text' } },
    { addColumn: { table: 'by_column', column: 'Most', type: 'text' } },
  ]);
  const missing = async (session: Session): Promise<string[]> =>
    describePlanRights(await missingPlanRights(session, await rolesToAsk(blue, session), work));
  await sameOnGreen();
  try {
    for (const session of [blue, green]) {
      await session.query(`CREATE TABLE public.by_column (id int, note text);
                           GRANT SELECT (id) ON public.by_column TO ${ident(role)}`);
      // It can't have read all columns before.
      expect(await missing(session)).toEqual([]);
      await session.query(`GRANT SELECT (note) ON public.by_column TO ${ident(role)}`);
      expect(await missing(session)).toEqual([
        expect.stringContaining(`GRANT SELECT ("more", "Most") ON "public"."by_column" TO ${ident(role)}`),
      ]);
    }
    await green.query(`ALTER TABLE public.by_column ADD more text, ADD "Most" text;
                       GRANT SELECT (more) ON public.by_column TO ${ident(role)}`);
    expect(await missing(green)).toEqual([expect.stringContaining('GRANT SELECT ("Most") ON')]);
    await green.query(`GRANT SELECT ON public.by_column TO ${ident(role)}`);
    expect(await missing(green)).toEqual([]);
  } finally {
    for (const session of [blue, green]) await session.query('DROP TABLE IF EXISTS public.by_column');
  }
});

it('CREATE and TEMPORARY count where they were given to the role or its group, not where everybody has them', async () => {
  const [onBlue, onGreen] = own.map(({ database }) => ident(database));
  await sameOnGreen();
  await blue.query('GRANT CREATE ON SCHEMA public TO PUBLIC');
  expect(await missingRights(blue, green)).toEqual([]);
  const group = `${role}_makers`;
  await blue.query(`CREATE ROLE ${group}; GRANT ${group} TO ${role}; GRANT CREATE ON SCHEMA "Odd one" TO ${group};
    GRANT CREATE, TEMPORARY ON DATABASE ${onBlue} TO ${role}`);
  await green.query(`REVOKE TEMPORARY ON DATABASE ${onGreen} FROM PUBLIC`);
  try {
    const [missing] = await missingRights(blue, green);
    expect(missing?.rights.toSorted((a, b) => a.on.localeCompare(b.on))).toEqual([
      { on: `DATABASE ${own[1].database}`, privileges: ['CREATE', 'TEMPORARY'] },
      { on: 'SCHEMA "Odd one"', privileges: ['CREATE'] },
    ]);
    expect(inTheWay(missing === undefined ? [] : [missing])).toMatchObject([
      { role, absent: false, rights: [{ on: `DATABASE ${own[1].database}`, privileges: ['TEMPORARY'] }], owned: [] },
    ]);
    await green.query(
      (missing?.rights ?? [])
        .map(({ on, privileges }) => `GRANT ${privileges.join(', ')} ON ${on} TO ${role}`)
        .join('; '),
    );
    expect(await missingRights(blue, green)).toEqual([]);
  } finally {
    await blue.query(`REVOKE CREATE ON SCHEMA public FROM PUBLIC; DROP OWNED BY ${group}; DROP ROLE ${group};
      REVOKE ALL ON DATABASE ${onBlue} FROM ${role}`);
    await green.query(`REVOKE ALL ON DATABASE ${onGreen} FROM ${role}; REVOKE CREATE ON SCHEMA "Odd one" FROM ${role}`);
  }
});

it('an owner on blue that is none on green is told, until it is a member of the owner there', async () => {
  const mover = `${role}_mover`;
  await sameOnGreen();
  await blue.query(`ALTER TABLE public.orders OWNER TO ${role}`);
  await green.query(
    `CREATE ROLE ${mover}; ALTER TABLE public.orders OWNER TO ${mover}; GRANT ALL ON public.orders TO ${role}`,
  );
  try {
    const missing = await missingRights(blue, green);
    expect(missing).toMatchObject([
      {
        role,
        absent: false,
        rights: [],
        owned: [{ relation: 'public.orders', owner: mover, ownerIsSuperuser: false, isRestricted: false }],
      },
    ]);
    expect(inTheWay(missing)).toEqual([]);
    await green.query('ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY');
    const [restricted] = inTheWay(await missingRights(blue, green));
    expect(restricted?.owned).toMatchObject([{ relation: 'public.orders', isRestricted: true }]);
    // A policy that shows and takes every row hides none, unless a restrictive one stands beside it.
    await green.query(`CREATE POLICY everything ON public.orders TO ${role} USING (true)`);
    expect(inTheWay(await missingRights(blue, green))).toEqual([]);
    await green.query('CREATE POLICY few ON public.orders AS RESTRICTIVE USING (id > 0)');
    expect(inTheWay(await missingRights(blue, green))).toHaveLength(1);
    expect(describeMissingRights(missing)[0]).toContain(`GRANT ${ident(mover)} TO ${ident(role)}`);
    await green.query(`GRANT ${mover} TO ${role}`);
    expect(await missingRights(blue, green)).toEqual([]);
    await green.query(`REVOKE ${mover} FROM ${role}; ALTER TABLE public.orders OWNER TO ${role}`);
    expect(await missingRights(blue, green)).toEqual([]);
  } finally {
    await blue.query(`ALTER TABLE public.orders OWNER TO postgres; GRANT SELECT, INSERT ON public.orders TO ${role}`);
    await green.query(
      `ALTER TABLE public.orders OWNER TO postgres; ALTER TABLE public.orders DISABLE ROW LEVEL SECURITY;
       DROP POLICY IF EXISTS everything ON public.orders; DROP POLICY IF EXISTS few ON public.orders;
       GRANT SELECT, INSERT ON public.orders TO ${role}; DROP ROLE ${mover}`,
    );
  }
});

it('what is read grows with the tables and the roles, not with one times the other', async () => {
  const [roles, schemas] = [15, 20];
  const name = (n: number): string => `${role}_of_${n}`;
  const all = Array.from({ length: roles }, (_, n) => name(n));
  const clients = all.map((user) => new pg.Client({ ...own[0].config, user, password: 'x' }));
  const tenants = (isBlue: boolean): string => `
    DO $$ BEGIN
      FOR n IN 0..${roles - 1} LOOP
        EXECUTE format('CREATE ROLE ${role}_of_%s LOGIN PASSWORD %L', n, 'x');
      END LOOP;
      FOR n IN 0..${schemas - 1} LOOP
        EXECUTE format('CREATE SCHEMA tenant_%s; GRANT USAGE ON SCHEMA tenant_%s TO ${role}_of_%s', n, n, n % ${roles});
        FOR t IN 0..9 LOOP
          EXECUTE format('CREATE TABLE tenant_%s.t_%s (id int, note text)', n, t);
          CONTINUE WHEN t = 7 AND n = 3 AND NOT ${isBlue};
          EXECUTE format('GRANT SELECT, INSERT ON tenant_%s.t_%s TO ${role}_of_%s', n, t, n % ${roles});
        END LOOP;
      END LOOP;
    END $$`;
  try {
    await sameOnGreen();
    await blue.query(tenants(true));
    await green.query(tenants(false));
    await Promise.all(clients.map((client) => client.connect()));
    let bytes = 0;
    for (const session of [blue, green]) {
      const ask = session.query.bind(session) as (...statement: readonly unknown[]) => Promise<pg.QueryResult>;
      vi.spyOn(session, 'query').mockImplementation((async (...statement: readonly unknown[]) => {
        const answer = await ask(...statement);
        bytes += JSON.stringify(answer.rows).length;
        return answer;
      }) as never);
    }
    expect(await missingRights(blue, green)).toMatchObject([
      {
        ...{ role: name(3), absent: false, owned: [] },
        rights: [{ on: 'TABLE tenant_3.t_7', privileges: ['SELECT', 'INSERT'] }],
      },
    ]);
    // The names of 200 tables, three times on each side; with each of 15 roles they would be a megabyte.
    expect(bytes).toBeLessThan(60_000);
  } finally {
    vi.restoreAllMocks();
    await Promise.all(clients.map((client) => client.end()));
    for (const session of [blue, green]) {
      await session.query(`
        DO $$ BEGIN FOR n IN 0..${schemas - 1} LOOP EXECUTE format('DROP SCHEMA IF EXISTS tenant_%s CASCADE', n); END LOOP; END $$;
        DROP ROLE IF EXISTS ${all.join(', ')}`);
    }
  }
});

/** Blue and green as they are in one test: roles are of the whole server, and go with what they have. */
async function withRoles(names: readonly string[], test: () => Promise<void>): Promise<void> {
  await sameOnGreen();
  await green.query(`ALTER ROLE ${role} INHERIT; ALTER ROLE ${role} NOBYPASSRLS`);
  try {
    await test();
  } finally {
    await blue.query(`ALTER ROLE ${role} INHERIT NOBYPASSRLS; REVOKE pg_monitor, postgres FROM ${role}`);
    for (const session of [blue, green]) {
      await session.query(`DROP POLICY IF EXISTS narrow ON public.orders; DROP POLICY IF EXISTS wide ON public.orders;
        ALTER TABLE public.orders DISABLE ROW LEVEL SECURITY`);
      for (const name of names) {
        await session.query(`DROP OWNED BY ${name}`).catch(() => undefined);
        await session.query(`DROP ROLE IF EXISTS ${name}`);
      }
    }
  }
}

it('a role that a connected one is a member of for nothing but SET ROLE must be settable on green, with its rights', async () => {
  const [user, inner] = [`${role}_web_user`, `${role}_web_inner`];
  await withRoles([user, inner], async () => {
    await blue.query(`CREATE ROLE ${inner}; CREATE ROLE ${user} IN ROLE ${inner}; GRANT SELECT ON public.orders TO ${user};
      GRANT UPDATE ON public.orders TO ${inner}; ALTER ROLE ${role} NOINHERIT; GRANT ${user} TO ${role}`);
    const [absent] = inTheWay(await missingRights(blue, green));
    expect(absent).toMatchObject({
      role,
      memberships: [
        { role: inner, absent: true },
        { role: user, absent: true },
      ],
    });
    // Blue is 15, where each membership may be set; green is 18, where this one may not.
    await green.query(`CREATE ROLE ${inner}; CREATE ROLE ${user} IN ROLE ${inner}; GRANT SELECT ON public.orders TO ${user};
      GRANT ${user} TO ${role} WITH SET FALSE`);
    const missing = inTheWay(await missingRights(blue, green));
    expect(missing).toMatchObject([
      {
        role,
        rights: [],
        memberships: [
          { role: inner, absent: false },
          { role: user, absent: false },
        ],
      },
      { role: inner, setBy: role, rights: [{ on: 'TABLE public.orders', privileges: ['UPDATE'] }] },
      { role: user, setBy: role, rights: [{ on: 'TABLE public.orders', privileges: ['UPDATE'] }] },
    ]);
    const texts = describeMissingRights(missing);
    expect(texts[0]).toContain(`GRANT ${ident(user)} TO ${ident(role)}`);
    expect(texts[1]).toContain(`"${inner}" can be set on blue by "${role}"`);
    // The database is connected to as another role.
    await green.query(`REVOKE CONNECT ON DATABASE ${ident(own[1].database)} FROM PUBLIC;
      GRANT CONNECT ON DATABASE ${ident(own[1].database)} TO ${role}; GRANT ${user} TO ${role} WITH SET TRUE;
      GRANT UPDATE ON public.orders TO ${inner}`);
    expect(await missingRights(blue, green)).toEqual([]);
    await green.query(`GRANT CONNECT ON DATABASE ${ident(own[1].database)} TO PUBLIC;
      REVOKE CONNECT ON DATABASE ${ident(own[1].database)} FROM ${role}`);
  });
});

it('a membership whose rights are inherited is none that green must have, nor one of a role that has nothing here', async () => {
  const [group, service] = [`${role}_staff`, `${role}_service`];
  await withRoles([group, service, 'cloudsqlsuperuser'], async () => {
    await blue.query(`CREATE ROLE ${group}; GRANT SELECT ON public.orders TO ${group}; GRANT ${group} TO ${role};
      CREATE ROLE ${service}; CREATE ROLE cloudsqlsuperuser; GRANT INSERT ON public.orders TO cloudsqlsuperuser`);
    expect(await missingRights(blue, green)).toEqual([]);
    await green.query(`CREATE ROLE ${group}`);
    expect(await missingRights(blue, green)).toEqual([]);
    await blue.query(`REVOKE ${group} FROM ${role}; ALTER ROLE ${role} NOINHERIT;
      GRANT ${service}, cloudsqlsuperuser, pg_monitor, postgres TO ${role}`);
    expect(await missingRights(blue, green)).toEqual([]);
  });
});

it('who passes by BYPASSRLS on blue, or by the policy of a group, sees the same rows on green', async () => {
  const group = `${role}_seers`;
  await withRoles([group], async () => {
    await blue.query(`CREATE ROLE ${group}; GRANT ${group} TO ${role}; ALTER ROLE ${role} BYPASSRLS`);
    await green.query(`CREATE ROLE ${group}`);
    for (const session of [blue, green]) {
      await session.query(`ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY;
        CREATE POLICY narrow ON public.orders USING (id > 100); CREATE POLICY wide ON public.orders FOR SELECT TO ${group} USING (true)`);
    }
    const [bypass] = inTheWay(await missingRights(blue, green));
    expect(bypass).toMatchObject({ role, hidden: { relations: ['public.orders'], bypass: true } });
    expect(describeMissingRights(bypass === undefined ? [] : [bypass])[0]).toContain(
      `ALTER ROLE ${ident(role)} BYPASSRLS`,
    );
    await blue.query(`ALTER ROLE ${role} NOBYPASSRLS`);
    const [policy] = inTheWay(await missingRights(blue, green));
    expect(policy).toMatchObject({ role, hidden: { relations: ['public.orders'], bypass: false, groups: [group] } });
    expect(describeMissingRights(policy === undefined ? [] : [policy])[0]).toContain(
      `GRANT ${ident(group)} TO ${ident(role)}`,
    );
    await green.query(`GRANT ${group} TO ${role}`);
    expect(await missingRights(blue, green)).toEqual([]);
    // Green shows it all the rows.
    await green.query(`REVOKE ${group} FROM ${role}; ALTER ROLE ${role} BYPASSRLS`);
    expect(inTheWay(await missingRights(blue, green))).toEqual([]);
  });
});

it('policies that are called otherwise on each table are compared by their names, in bounded time', async () => {
  const [tables, users] = [400, 120];
  const group = `${role}_seers`;
  const all = Array.from({ length: users }, (_, n) => `${role}_user_${n}`);
  await withRoles([...all, group], async () => {
    for (const session of [blue, green]) {
      await session.query(`CREATE ROLE ${group}; CREATE SCHEMA tenants; DO $$ BEGIN
        FOR n IN 1..${tables} LOOP
          EXECUTE format('CREATE TABLE tenants.t%1$s (id int); ALTER TABLE tenants.t%1$s ENABLE ROW LEVEL SECURITY;
            CREATE POLICY wide_%1$s ON tenants.t%1$s FOR SELECT TO ${group} USING (true); CREATE POLICY a_%1$s ON tenants.t%1$s USING (id > 9)', n);
        END LOOP;
        FOR n IN 0..${users - 1} LOOP EXECUTE format('CREATE ROLE ${role}_user_%s', n); END LOOP; END $$;
        GRANT SELECT ON ALL TABLES IN SCHEMA tenants TO ${all.join(', ')}`);
    }
    await blue.query(`GRANT ${group} TO ${role}_user_7`);
    // What green has not by that name may be meant; its order, by name, is another one besides.
    await green.query(
      `ALTER POLICY wide_5 ON tenants.t5 RENAME TO narrow; ALTER POLICY a_6 ON tenants.t6 RENAME TO zz`,
    );
    try {
      const begun = performance.now();
      const hidden = await hiddenRows(blue, green, all);
      const ms = performance.now() - begun;
      expect([...hidden.keys()]).toEqual([`${role}_user_7`]);
      expect(hidden.get(`${role}_user_7`)).toMatchObject({ bypass: false, groups: [group] });
      const relations = hidden.get(`${role}_user_7`)?.relations ?? [];
      expect(relations).toHaveLength(tables - 1);
      expect(relations).toContain('tenants.t6');
      expect(relations).not.toContain('tenants.t5');
      expect(ms).toBeLessThan(1_500);
    } finally {
      for (const session of [blue, green]) await session.query('DROP SCHEMA tenants CASCADE');
    }
  });
});

it('a thousand roles that can be set are compared in bounded time', async () => {
  const tenants = 1_000;
  const name = (n: number): string => `${role}_tenant_${n}`;
  const all = Array.from({ length: tenants }, (_, n) => name(n));
  await withRoles([], async () => {
    for (const session of [blue, green]) {
      await session.query(`DO $$ BEGIN FOR n IN 0..${tenants - 1} LOOP
        EXECUTE format('CREATE ROLE ${role}_tenant_%s', n); EXECUTE format('GRANT ${role}_tenant_%s TO ${role}', n);
        IF n < 200 THEN
          EXECUTE format('CREATE TABLE public.of_%s (id int)', n);
          EXECUTE format('GRANT SELECT ON public.of_%s TO ${role}_tenant_%s', n, n);
        ELSE EXECUTE format('GRANT SELECT ON public.orders TO ${role}_tenant_%s', n); END IF;
      END LOOP; END $$`);
    }
    await blue.query(`ALTER ROLE ${role} NOINHERIT`);
    await green.query(`ALTER ROLE ${role} NOINHERIT; REVOKE ${name(tenants - 1)} FROM ${role}`);
    try {
      const begun = performance.now();
      const missing = await missingRights(blue, green);
      expect(missing).toMatchObject([{ role, memberships: [{ role: name(tenants - 1) }] }]);
      expect(performance.now() - begun).toBeLessThan(5_000);
    } finally {
      for (const session of [blue, green]) {
        await session.query(
          `DO $$ BEGIN FOR n IN 0..199 LOOP EXECUTE format('DROP TABLE public.of_%s', n); END LOOP; END $$`,
        );
        await session.query(`REVOKE ALL ON public.orders FROM ${all.join(', ')}`);
        await session.query(`DROP ROLE ${all.join(', ')}`);
      }
    }
  });
});

it('a setting that is stored on blue for a connected role or the database is stored on green, or its default', async () => {
  const [onBlue, onGreen] = own.map(({ database }) => ident(database));
  await sameOnGreen();
  const names = async (): Promise<string[]> => (await missingSettings(blue, green)).map(({ name }) => name);
  try {
    await blue.query(`
      ALTER ROLE ${role} SET search_path = shop, public; ALTER ROLE ${role} SET statement_timeout = '7s';
      ALTER ROLE ${role} SET auto_explain.log_min_duration = 5; ALTER ROLE ${role} SET pg_qs.query_capture_mode = 'all';
      ALTER ROLE ${role} SET "app.tenant" = 'secret';
      ALTER DATABASE ${onBlue} SET default_transaction_isolation = 'serializable'; ALTER DATABASE ${onBlue} SET row_security = on;
      ALTER DATABASE ${onBlue} SET search_path = overruled`);
    const missing = await missingSettings(blue, green);
    expect(missing.toSorted((one, other) => (one.name < other.name ? -1 : 1))).toEqual([
      { role, name: 'app.tenant', ofRole: true, maySet: true },
      { role, name: 'default_transaction_isolation', ofRole: false, maySet: true },
      { role, name: 'search_path', ofRole: true, maySet: true },
    ]);
    // As on a managed service: who sets green up may not store what no module there defines.
    const inTheWayOf = async (): Promise<string[]> =>
      settingsInTheWay(await missingSettings(blue, green)).map(({ name }) => name);
    await green.query(`SET ROLE ${role}`);
    await expect(green.query(`ALTER ROLE ${role} SET "app.tenant" = 'x'`)).rejects.toThrow(/permission denied to set/);
    await green.query(`ALTER ROLE ${role} SET search_path = shop; ALTER ROLE ${role} RESET search_path`);
    expect((await inTheWayOf()).toSorted()).toEqual(['default_transaction_isolation', 'search_path']);
    await green.query(`RESET ROLE; GRANT SET ON PARAMETER "app.tenant" TO ${role}; SET ROLE ${role}`);
    expect(await inTheWayOf()).toContain('app.tenant');
    await green.query(`RESET ROLE; REVOKE SET ON PARAMETER "app.tenant" FROM ${role}`);
    const [text, ...more] = describeMissingSettings(missing);
    expect(more).toEqual([]);
    expect(text).toContain(`ALTER ROLE ${ident(role)} SET search_path as on blue`);
    expect(text).not.toContain('secret');
    // Another value may be meant, and so may one for everybody.
    await green.query(`ALTER ROLE ${role} SET search_path = store; ALTER ROLE ${role} SET "app.tenant" = 'another';
      ALTER DATABASE ${onGreen} SET default_transaction_isolation = 'repeatable read'`);
    expect(await names()).toEqual([]);
  } finally {
    await green.query('RESET ROLE');
    await blue.query(`ALTER ROLE ${role} RESET ALL; ALTER DATABASE ${onBlue} RESET ALL`);
    await green.query(`ALTER ROLE ${role} RESET ALL; ALTER DATABASE ${onGreen} RESET ALL`);
  }
});

it('whoever is not connected is not asked about', async () => {
  await green.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  await application.end();
  expect(await missingRights(blue, green)).toEqual([]);
});
