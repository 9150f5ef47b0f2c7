import pg from 'pg';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { ident } from '../../src/postgres/identifier.js';
import { describeMissingRights, inTheWay, missingRights } from '../../src/postgres/missing-rights.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';

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
  expect(await missingRights(blue, green)).toEqual([{ role, absent: true, rights: [], owned: [] }]);
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
    expect(inTheWay(missing === undefined ? [] : [missing])).toEqual([
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
    expect(missing).toEqual([
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
    expect(await missingRights(blue, green)).toEqual([
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

it('whoever is not connected is not asked about', async () => {
  await green.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  await application.end();
  expect(await missingRights(blue, green)).toEqual([]);
});
