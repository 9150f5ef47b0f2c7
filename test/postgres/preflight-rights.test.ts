import { describe, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { mayMakeEventTriggers } from '../../src/postgres/preflight/code.js';
import type { PreflightFinding } from '../../src/postgres/preflight/finding.js';
import { closeSession, openSession, type Database } from '../../src/postgres/session.js';
import { ofDatabase, statementsOfRole } from '../support/documented-role.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { errorsOf, only, preflightPair, TAG } from '../support/preflight-pair.js';

const pair = preflightPair('rights');
const { check, onBlue, onGreen, undo } = pair;

describe('green', () => {
  it('must let its user make the event triggers of blue, enabled or not', async () => {
    await onBlue(`
      CREATE FUNCTION public.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RETURN; END';
      CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION public.watch(); ALTER EVENT TRIGGER watch DISABLE`);
    undo.push(() => onBlue('DROP FUNCTION public.watch() CASCADE'));
    const user = `preflight_watch_${TAG}`;
    await onGreen(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'`);
    undo.push(() => onGreen(`DROP OWNED BY ${user}; DROP ROLE ${user}`));
    const as = { ...pair.green, config: { ...pair.green.config, user, password: 'secret-of-user' } };
    const found = async (): Promise<PreflightFinding[]> => only(await check({}, { green: as }), 'event-trigger-rights');
    expect(await found()).toMatchObject([{ severity: 'error', side: 'green', object: 'watch' }]);
    expect(only(await check(), 'event-trigger-rights')).toEqual([]);
    // Where one may who is no superuser by name, it is found out without making any.
    const session = await openSession(pair.green, { purpose: 'test' });
    undo.push(() => closeSession(session));
    expect(await mayMakeEventTriggers(session)).toBe(true);
    expect((await session.query('SELECT FROM pg_event_trigger')).rowCount).toBe(0);
  });

  it('has default privileges: what they give and take away is named before anything is copied', async () => {
    const role = `default_role_${TAG}`;
    const defaults = `ALTER DEFAULT PRIVILEGES`;
    await onGreen(`CREATE ROLE ${role};
      ${defaults} IN SCHEMA public GRANT SELECT ON TABLES TO ${role}; ${defaults} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC`);
    undo.push(() =>
      onGreen(`${defaults} GRANT EXECUTE ON FUNCTIONS TO PUBLIC; DROP OWNED BY ${role}; DROP ROLE ${role}`),
    );
    const found = async (): Promise<string[]> =>
      only(await check(), 'default-privileges').map(({ severity, object }) => `${severity} ${object}`);
    expect(await found()).toEqual([`warning tables: ${role}`]);
    await onBlue(`CREATE FUNCTION public.one() RETURNS int LANGUAGE sql AS 'SELECT 1'`);
    undo.push(() => onBlue('DROP FUNCTION public.one()'));
    expect(await found()).toEqual(['error public.one()', `warning tables: ${role}`]);
    await onBlue('REVOKE EXECUTE ON FUNCTION public.one() FROM PUBLIC');
    expect(await found()).toEqual([`warning tables: ${role}`]);
    // The multirange type of a range goes with it on 18.
    await onBlue('CREATE TYPE public.span AS RANGE (subtype = int4); REVOKE USAGE ON TYPE public.span FROM PUBLIC');
    undo.push(() => onBlue('DROP TYPE public.span'));
    await onGreen(`${defaults} REVOKE USAGE ON TYPES FROM PUBLIC`);
    undo.push(() => onGreen(`${defaults} GRANT USAGE ON TYPES TO PUBLIC`));
    expect(await found()).toEqual([`warning tables: ${role}`]);
  });

  it('must have the roles that the copy names: not those of tables that the plan leaves out, nor the owner of an extension', async () => {
    const role = `preflight_named_${TAG}`;
    await onBlue(`CREATE ROLE ${role}; CREATE SCHEMA audit; CREATE TABLE audit.log (id int PRIMARY KEY);
      GRANT SELECT ON audit.log TO ${role}; CREATE POLICY own ON audit.log TO ${role} USING (id > 0)`);
    undo.push(() => onBlue(`DROP SCHEMA audit CASCADE; DROP OWNED BY ${role}; DROP ROLE ${role}`));
    const found = async (plan: Partial<PlanInput> = {}): Promise<string[]> =>
      only(await check(plan), 'roles').map(({ severity, object }) => `${severity} ${object}`);
    const tables = { exclude: ['audit.*'] };
    expect(await found()).toEqual([`error ${role}`]);
    expect(await found({ tables })).toEqual([]);
    await onBlue(`GRANT CREATE ON DATABASE ${pair.blueDb.database} TO ${role}; GRANT CREATE ON SCHEMA audit TO ${role};
      SET ROLE ${role}; CREATE EXTENSION citext SCHEMA audit; RESET ROLE; REVOKE CREATE ON SCHEMA audit FROM ${role}`);
    expect(await found({ tables })).toEqual([]);
    await onBlue(`GRANT SELECT ON public.orders TO ${role}`);
    expect(await found({ tables })).toEqual([`error ${role}`]);
  });

  it('must have the roles of user mappings, which a dump names in any case; one that it has need not be given to its user', async () => {
    const [role, user] = [`preflight_mapped_${TAG}`, `preflight_mapper_${TAG}`];
    await onBlue(`CREATE ROLE ${role}; CREATE FOREIGN DATA WRAPPER elsewhere;
      CREATE SERVER erp FOREIGN DATA WRAPPER elsewhere; CREATE USER MAPPING FOR ${role} SERVER erp`);
    undo.push(() => onBlue(`DROP FOREIGN DATA WRAPPER elsewhere CASCADE; DROP ROLE ${role}`));
    await onGreen(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'; GRANT CREATE ON SCHEMA public TO ${user}`);
    undo.push(() => onGreen(`DROP OWNED BY ${user}; DROP ROLE ${user}`));
    const as = { ...pair.green, config: { ...pair.green.config, user, password: 'secret-of-user' } };
    const found = async (): Promise<string[]> =>
      only(await check({}, { green: as }), 'roles').map(({ severity, object }) => `${severity} ${object}`);
    expect(await found()).toEqual([`error ${role}`]);
    await onGreen(`CREATE ROLE ${role}`);
    undo.push(() => onGreen(`DROP ROLE ${role}`));
    expect(await found()).toEqual([]);
    expect(only(await check({}, { green: as }), 'owners-and-grants').map(({ message }) => message)).not.toContainEqual(
      expect.stringContaining(role),
    );
  });
});

describe('a connection', () => {
  it('of a user without the privileges says which are missing', async () => {
    const user = `preflight_user_${TAG}`;
    for (const run of [onBlue, onGreen]) await run(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'`);
    undo.push(
      () => onBlue(`DROP OWNED BY ${user}; DROP ROLE ${user}`),
      () => onGreen(`DROP OWNED BY ${user}; DROP ROLE ${user}`),
    );
    await onBlue('CREATE SEQUENCE public.counter');
    undo.push(() => onBlue('DROP SEQUENCE public.counter'));
    await onBlue('ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY');
    undo.push(() => onBlue('ALTER TABLE public.orders DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY'));
    const as = (database: Database): Database => ({
      ...database,
      config: { ...database.config, user, password: 'secret-of-user' },
    });
    const gates = [{ metric: 'longTransactions' as const, max: '1m' }];
    const findings = await check({ traffic: { gates } }, { blue: as(pair.blue), green: as(pair.green) });
    const errors = errorsOf(findings);
    expect(errors.filter((name) => name === 'privileges blue')).toHaveLength(3);
    expect(errors).toContain('table-ownership blue');
    expect(errors).toContain('sequence-privileges blue');
    expect(errors).toContain('row-level-security blue');
    expect(only(findings, 'forced-row-security')).toMatchObject([
      { severity: 'error', side: 'green', object: 'public.orders', remedy: expect.stringContaining(user) as string },
    ]);
    expect(only(await check(), 'forced-row-security')).toMatchObject([
      { severity: 'warning', side: 'green', object: 'public.orders' },
    ]);
    expect(only(findings, 'visibility')).toMatchObject(
      ['blue', 'green'].map((side) => ({
        ...{ severity: 'error', side, remedy: `GRANT pg_monitor TO ${user}` },
        message: expect.stringContaining("longTransactions can't decide") as string,
      })),
    );
    expect(errors.filter((name) => name.startsWith('peer-connection'))).toEqual([
      'peer-connection green',
      'peer-connection blue',
    ]);
    expect(errors.filter((name) => name.startsWith('check-failed'))).toEqual([]);
    expect(JSON.stringify(findings)).not.toContain('secret-of-user');
  });

  it('of the role of docs/connections.md has no error, and each of its statements is needed', async () => {
    const [role, owner] = [`preflight_role_${TAG}`, `preflight_app_${TAG}`] as const;
    // Before PostgreSQL 16 none but a superuser may subscribe.
    const newer = await testDatabase('pg18', 'preflight role');
    undo.push(() => newer.drop());
    const inNewer = (sql: string): Promise<unknown> => withClient(newer.config, (client) => client.query(sql));
    await inNewer(`CREATE ROLE ${owner}; GRANT CREATE ON SCHEMA public TO ${owner};
      SET ROLE ${owner}; CREATE TABLE public.orders (id serial PRIMARY KEY); RESET ROLE; CREATE SEQUENCE public.invoice_no`);
    const as = (database: TestDatabase, side: 'blue' | 'green'): Database => {
      const own = asDatabase(database, side);
      const peerConninfo = own.peerConninfo.replace(/user=\S+ password=\S+/, `user=${role} password=x`);
      return { ...own, config: { ...own.config, user: role, password: 'x' }, peerConninfo };
    };
    const databases = { blue: as(newer, 'blue'), green: as(pair.greenDb, 'green') };
    const gates = [{ metric: 'longTransactions' as const, max: '1m' }];
    const names = { role, owner, password: 'x' };
    const made = statementsOfRole('blue', { ...names, database: newer.database });
    const onGreens = ofDatabase(statementsOfRole('green', { ...names, database: pair.greenDb.database }));
    undo.push(() =>
      onGreen(
        `ALTER SCHEMA public OWNER TO pg_database_owner; DROP OWNED BY ${role}; DROP ROLE ${role}; DROP ROLE ${owner}`,
      ),
    );
    undo.push(() => inNewer(`DROP OWNED BY ${role}; DROP OWNED BY ${owner}`));
    await inNewer(made.join('; '));
    await onGreen(onGreens.join('; '));
    const found = async (): Promise<{ errors: string[]; ownership: PreflightFinding[] }> => {
      const findings = await check({ traffic: { gates } }, databases);
      return { errors: errorsOf(findings), ownership: only(findings, 'owners-and-grants') };
    };
    const all = await found();
    // A sequence of a superuser keeps owners and grants from being copied, and nothing else does.
    expect(all).toMatchObject({ errors: [], ownership: [{ severity: 'warning' }] });
    expect(all.ownership[0]?.message).toMatch(/not copied: "postgres" owns sequence public\.invoice_no on blue[^;]*$/);

    const taken = [
      ...made.map((statement) => ({ statement, run: inNewer })),
      ...onGreens.map((statement) => ({ statement, run: onGreen })),
    ].filter(({ statement }) => statement.startsWith('GRANT '));
    expect(taken.length).toBeGreaterThan(8);
    for (const { statement, run } of taken) {
      await run(statement.replace(/^GRANT (.*) TO (\S+)$/, 'REVOKE $1 FROM $2'));
      expect([statement, await found()]).not.toEqual([statement, all]);
      await run(statement);
    }
  });

  it('of a user that is no superuser can not make what only one may: all of it is named at once', async () => {
    const user = `preflight_plain_${TAG}`;
    await onGreen(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'`);
    undo.push(() => onGreen(`DROP ROLE ${user}`));
    await onBlue(`
      CREATE SCHEMA odd;
      CREATE OPERATOR CLASS odd.by_abs FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 3 =, FUNCTION 1 btint4cmp(int, int);
      CREATE FUNCTION odd.quick(int) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'int4abs';
      CREATE FUNCTION odd.silent() RETURNS int LANGUAGE sql LEAKPROOF RETURN 1;
      CREATE FUNCTION odd.usual() RETURNS int LANGUAGE sql RETURN 1;
      CREATE AGGREGATE odd.total (int) (SFUNC = int4pl, STYPE = int);
      CREATE TYPE odd.mood AS ENUM ('a');
      CREATE TYPE odd.span AS RANGE (subtype = int4);
      CREATE DOMAIN odd.short AS text CHECK (length(VALUE) < 9);
      CREATE FOREIGN DATA WRAPPER odd_wrapper;
      COMMENT ON SCHEMA public IS 'ours'; COMMENT ON SCHEMA odd IS 'ours, too'; CREATE SCHEMA plain`);
    await onGreen('CREATE SCHEMA odd; CREATE SCHEMA plain');
    undo.push(() => onGreen('DROP SCHEMA odd, plain'));
    undo.push(() =>
      onBlue(
        `DROP FOREIGN DATA WRAPPER odd_wrapper; DROP SCHEMA odd, plain CASCADE; COMMENT ON SCHEMA public IS 'standard public schema'`,
      ),
    );
    const as = { ...pair.green, config: { ...pair.green.config, user, password: 'secret-of-user' } };
    const found = only(await check({}, { green: as }), 'superuser-objects');
    expect(found.map(({ severity, object }) => `${severity} ${object}`)).toEqual([
      'error odd.quick(integer), odd.silent()',
      'error odd.by_abs',
      'error odd.by_abs',
      'error odd, public',
      'warning odd_wrapper',
    ]);
    // What it says is what PostgreSQL says.
    const refused = (sql: string): Promise<unknown> =>
      expect(withClient(as.config, (client) => client.query(sql))).rejects.toMatchObject({ code: '42501' });
    await refused(`CREATE FUNCTION pg_temp.quick(int) RETURNS int LANGUAGE internal AS 'int4abs'`);
    await refused(`CREATE FUNCTION pg_temp.silent() RETURNS int LANGUAGE sql LEAKPROOF RETURN 1`);
    await refused(`COMMENT ON SCHEMA public IS 'ours'`);
    expect(only(await check(), 'superuser-objects')).toEqual([]);
  });

  it('of a user that may read a sequence and not set it is refused: a rollback would; one that the plan leaves out is not asked about', async () => {
    const user = `preflight_counts_${TAG}`;
    await onBlue(`CREATE ROLE ${user} LOGIN PASSWORD 'x'; CREATE SEQUENCE public."Counter"; CREATE SCHEMA audit;
      CREATE TABLE audit.log (id serial PRIMARY KEY); CREATE SEQUENCE audit.own;
      GRANT SELECT ON SEQUENCE public."Counter" TO ${user}`);
    undo.push(() =>
      onBlue(`DROP SEQUENCE public."Counter"; DROP SCHEMA audit CASCADE; DROP OWNED BY ${user}; DROP ROLE ${user}`),
    );
    const as = { ...pair.blue, config: { ...pair.blue.config, user, password: 'x' } };
    const found = async (plan: Partial<PlanInput>): Promise<PreflightFinding[]> =>
      only(await check(plan, { blue: as }), 'sequence-privileges');
    const [counter, ...more] = await found({ tables: { exclude: ['audit.*'] } });
    expect(more).toEqual([]);
    expect(counter).toMatchObject({
      severity: 'error',
      object: '"public"."Counter"',
      remedy: `GRANT SELECT, UPDATE ON SEQUENCE "public"."Counter" TO "${user}"`,
    });
    await onBlue(counter?.remedy ?? '');
    expect(await found({ tables: { exclude: ['audit.*'] } })).toEqual([]);
    const [all] = await found({});
    expect(all?.object).toBe('"audit"."log_id_seq", "audit"."own"');
    await onBlue(all?.remedy ?? '');
    expect(await found({})).toEqual([]);
  });

  it('of a user that may make nothing in a schema which green has is refused; schemas that the copy makes or leaves out are not asked about', async () => {
    const user = `preflight_maker_${TAG}`;
    await onGreen(`CREATE ROLE ${user} LOGIN PASSWORD 'x'; GRANT CREATE ON DATABASE ${pair.greenDb.database} TO ${user};
      CREATE SCHEMA "Shop"; CREATE SCHEMA audit; CREATE SCHEMA theirs`);
    undo.push(() =>
      onGreen(`DROP SCHEMA "Shop"; DROP SCHEMA audit; DROP SCHEMA theirs; DROP OWNED BY ${user}; DROP ROLE ${user}`),
    );
    await onBlue(`CREATE SCHEMA "Shop"; CREATE FUNCTION "Shop".one() RETURNS int LANGUAGE sql RETURN 1;
      CREATE SCHEMA audit; CREATE TABLE audit.log (id serial PRIMARY KEY); CREATE SCHEMA theirs;
      CREATE SCHEMA made; CREATE TABLE made.item (id int PRIMARY KEY)`);
    undo.push(() => onBlue('DROP SCHEMA "Shop", audit, theirs, made CASCADE'));
    const as = { ...pair.green, config: { ...pair.green.config, user, password: 'x' } };
    const found = async (plan: Partial<PlanInput>): Promise<PreflightFinding[]> =>
      only(await check(plan, { green: as }), 'schema-privileges');
    const tables = { exclude: ['audit.*'] };
    expect(await found({ tables, bootstrap: { method: 'standby' } })).toEqual([]);
    const [all, ...more] = await found({ tables });
    expect(more).toEqual([]);
    expect(all).toMatchObject({ severity: 'error', side: 'green', object: '"Shop", "public"' });
    expect(await found({})).toMatchObject([{ object: '"Shop", "audit", "public"' }]);
    await onGreen((all?.remedy ?? '').slice('On green: '.length));
    expect(await found({ tables })).toEqual([]);
    // By ownership of the database, or of a role that it is a member of, as well.
    await onGreen(
      `REVOKE ALL ON SCHEMA public, "Shop" FROM ${user}; ALTER DATABASE ${pair.greenDb.database} OWNER TO ${user}`,
    );
    undo.push(() => onGreen(`ALTER DATABASE ${pair.greenDb.database} OWNER TO postgres`));
    expect(await found({ tables })).toMatchObject([{ object: '"Shop"' }]);
    await onGreen(`CREATE ROLE ${user}_of; GRANT ${user}_of TO ${user}; ALTER SCHEMA "Shop" OWNER TO ${user}_of`);
    undo.push(() => onGreen(`ALTER SCHEMA "Shop" OWNER TO postgres; DROP ROLE ${user}_of`));
    expect(await found({ tables })).toEqual([]);
  });
});
