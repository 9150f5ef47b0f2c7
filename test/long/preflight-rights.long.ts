import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { planSchema } from '../../src/plan/schema.js';
import type { PreflightFinding } from '../../src/postgres/preflight/finding.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import { readServerPosition } from '../../src/postgres/server-position.js';
import { withSession, type Database } from '../../src/postgres/session.js';
import { noteSubscribers } from '../../src/postgres/sync-slots.js';
import { momentOf } from '../../src/postgres/verify/last-pass.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

/** Green's user is no superuser in these tests, but where that is said. */
const [APP, USER, OTHER, SUPPORT] = ['app', 'user', 'other', 'support'].map((name) => `pr_${name}_${process.pid}`) as [
  string,
  string,
  string,
  string,
];
const ROLES = [APP, USER, OTHER, SUPPORT];

let blueDb: TestDatabase;
let greenDb: TestDatabase;
const onBlue = (sql: string): Promise<unknown> => withClient(blueDb.config, (client) => client.query(sql));
const onGreen = (sql: string): Promise<unknown> => withClient(greenDb.config, (client) => client.query(sql));

beforeAll(async () => {
  blueDb = await testDatabase('pg15', 'rights of blue');
  greenDb = await testDatabase('pg18', 'rights of green');
  for (const run of [onBlue, onGreen]) {
    for (const role of ROLES) await run(`CREATE ROLE ${role} ${role === USER ? `LOGIN PASSWORD 'x'` : ''}`);
  }
  await onBlue(`ALTER ROLE ${APP} LOGIN; GRANT CREATE ON SCHEMA public TO ${APP}; SET ROLE ${APP};
    CREATE TABLE public.orders (id int PRIMARY KEY); CREATE TABLE public.secrets (id int PRIMARY KEY); RESET ROLE`);
});

/** What takes back what a test has done, latest first. */
const undo: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

afterAll(async () => {
  await blueDb.drop();
  await greenDb.drop();
  for (const server of ['pg15', 'pg18'] as const) {
    const database = await testDatabase(server, 'rights of roles');
    await withClient(database.config, (client) => client.query(`DROP ROLE IF EXISTS ${ROLES.join(', ')}`));
    await database.drop();
  }
});

/** @param peers with whom the other server logs in; default: the superuser */
async function findings(
  check: string,
  user: string | null = USER,
  peers: { blue?: string; green?: string } = {},
): Promise<PreflightFinding[]> {
  const follows = (database: Database, peer = 'postgres'): Database => ({
    ...database,
    peerConninfo: database.peerConninfo.replace('user=postgres', `user=${peer}`),
  });
  const green = follows(asDatabase(greenDb, 'green'), peers.green);
  const asUser: Database = user === null ? green : { ...green, config: { ...greenDb.config, user, password: 'x' } };
  const plan = planSchema.parse({
    ...{ version: 1, name: 'rights' },
    ...{ blue: { connection: 'test_blue' }, green: { connection: 'test_green' } },
  });
  const report = await preflight({
    ...{
      blue: follows(asDatabase(blueDb, 'blue'), peers.blue),
      green: asUser,
      plan,
      runId: 'run-1',
      reachWithinMs: 1_000,
    },
  });
  expect(report.findings.filter(({ check: name }) => name === 'check-failed')).toEqual([]);
  return report.findings.filter(({ check: name }) => name === check);
}

it('a role that may not ask which cluster it is in is asked nothing else for that', async () => {
  await onGreen('REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC');
  undo.push(() => onGreen('GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC'));
  expect(await findings('same-database')).toEqual([]);
  const green = { ...asDatabase(greenDb, 'green'), config: { ...greenDb.config, user: USER, password: 'x' } };
  const plan = planSchema.parse({ name: 'rights', blue: { connection: 'a' }, green: { connection: 'b' } });
  const input = { blue: { ...green, side: 'blue' }, green, plan, runId: 'run-1', reachWithinMs: 1_000 } as const;
  const { findings: ofOne } = await preflight(input);
  expect(ofOne.filter(({ check }) => check === 'same-database')).toMatchObject([{ severity: 'error' }]);
  await withSession(green, { purpose: 'test' }, async (session) => {
    expect(await readServerPosition(session)).toMatchObject({ system: '', timeline: '00000001' });
    expect(await momentOf(session)).toMatchObject({ system: '', timeline: '00000001' });
    await noteSubscribers(session, session, ['none']);
  });
});

/** What a remedy says to run on green. */
function statementsIn(remedy: string | undefined): string {
  return /: (.*?)(?:\. Or | \(roles |$)/.exec(remedy ?? '')?.[1] ?? '';
}

it('why owners and grants are not copied is told with the statements that mend it', async () => {
  await onBlue(`CREATE SCHEMA gis AUTHORIZATION ${APP}`);
  await onGreen(`CREATE SCHEMA gis; GRANT USAGE, CREATE ON SCHEMA gis TO ${APP}, ${USER}`);
  undo.push(() => onBlue('DROP SCHEMA gis'));
  undo.push(() => onGreen('DROP SCHEMA gis'));
  const [first, ...more] = await findings('owners-and-grants');
  expect(more).toEqual([]);
  expect(first).toMatchObject({ severity: 'warning', side: 'green' });
  expect(first?.message).toContain(`"${APP}" owns table public.orders`);
  expect(first?.message).toContain(`"${APP}" owns something in the schema "public" on blue`);
  expect(first?.message).toContain(`schema public belongs neither to "${USER}"`);
  expect(statementsIn(first?.remedy).split('; ')).toEqual([
    `GRANT "${APP}" TO "${USER}"`,
    `GRANT CREATE ON SCHEMA "public" TO "${APP}"`,
    `ALTER SCHEMA public OWNER TO "${USER}"`,
    `ALTER SCHEMA "gis" OWNER TO "${APP}"`,
  ]);
  undo.push(() =>
    onGreen(
      `ALTER SCHEMA public OWNER TO pg_database_owner; REVOKE CREATE ON SCHEMA public FROM ${APP}; REVOKE ${APP} FROM ${USER}`,
    ),
  );
  await onGreen(statementsIn(first?.remedy));
  expect(await findings('owners-and-grants')).toEqual([]);
});

it('what else stands in the way is a superuser that owns something, a role that is a member in name only, a grant by another than the owner', async () => {
  await onGreen(`GRANT ${APP} TO ${USER} WITH INHERIT FALSE; GRANT CREATE ON SCHEMA public TO ${APP}`);
  undo.push(() => onGreen(`REVOKE CREATE ON SCHEMA public FROM ${APP}; REVOKE ${APP} FROM ${USER}`));
  await onBlue(`ALTER DATABASE ${blueDb.database} OWNER TO ${APP}; CREATE SEQUENCE public.invoice_no;
    GRANT SELECT ON public.orders TO ${OTHER} WITH GRANT OPTION; SET ROLE ${OTHER}; GRANT SELECT ON public.orders TO ${SUPPORT}; RESET ROLE`);
  undo.push(() =>
    onBlue(`ALTER DATABASE ${blueDb.database} OWNER TO postgres; DROP SEQUENCE IF EXISTS public.invoice_no;
      REVOKE ALL ON public.orders FROM ${OTHER} CASCADE; REVOKE ALL ON public.orders FROM ${SUPPORT}`),
  );
  const [first] = await findings('owners-and-grants');
  expect(first?.message).toContain('"postgres" owns sequence public.invoice_no on blue, where it is a superuser');
  expect(first?.message).toContain(`SELECT on TABLE public.orders was granted by "${OTHER}"`);
  const [superuser, become, ofPublic, ...ofOther] = statementsIn(first?.remedy).split('; ');
  expect(become).toBe(`GRANT "${APP}" TO "${USER}" WITH INHERIT TRUE, SET TRUE`);
  expect(superuser).toBe('on blue ALTER ... OWNER TO another role for what "postgres" owns');
  // As on blue: pg_database_owner is whoever owns the database.
  expect(ofPublic).toBe(`ALTER DATABASE "${greenDb.database}" OWNER TO "${APP}"`);
  undo.push(() => onGreen(`ALTER DATABASE ${greenDb.database} OWNER TO postgres`));
  await onGreen(`${become ?? ''}; ${ofPublic ?? ''}`);
  await onBlue(`ALTER SEQUENCE public.invoice_no OWNER TO ${APP}`);
  const [left] = await findings('owners-and-grants');
  expect(left?.message).toMatch(/grants are not copied: on blue, SELECT on TABLE public\.orders was granted by/);
  await onBlue(ofOther.join('; ').replace(/^on blue /, ''));
  expect(await findings('owners-and-grants')).toEqual([]);
});

it.each(['postgres', `${OTHER}_service`])(
  "a schema public that a superuser of blue owns is in nobody's way: %s",
  async (superuser) => {
    await onGreen(`GRANT ${APP} TO ${USER}; ALTER SCHEMA public OWNER TO ${APP}`);
    undo.push(() => onGreen(`ALTER SCHEMA public OWNER TO pg_database_owner; REVOKE ${APP} FROM ${USER}`));
    if (superuser !== 'postgres') {
      await onBlue(`CREATE ROLE ${superuser} SUPERUSER`);
      undo.push(() => onBlue(`DROP ROLE ${superuser}`));
    }
    await onBlue(`ALTER SCHEMA public OWNER TO ${superuser}; GRANT USAGE ON SCHEMA public TO ${SUPPORT}`);
    undo.push(() =>
      onBlue(`ALTER SCHEMA public OWNER TO pg_database_owner; REVOKE ALL ON SCHEMA public FROM ${SUPPORT}`),
    );
    expect(await findings('owners-and-grants')).toEqual([]);
    // Not even where the role is on blue only.
    expect([...(await findings('roles')), ...(await findings('roles', null))]).toEqual([]);
    // What else it owns is another matter.
    await onBlue(`CREATE SCHEMA theirs AUTHORIZATION ${superuser}`);
    undo.push(() => onBlue('DROP SCHEMA theirs'));
    const [first] = await findings('owners-and-grants');
    expect(first?.message).toContain(`"${superuser}" owns schema theirs on blue, where it is a superuser`);
  },
);

it('an owner that passes by policies on blue, and would not on green, is refused', async () => {
  await onBlue(
    `ALTER TABLE public.secrets ENABLE ROW LEVEL SECURITY; CREATE POLICY support ON public.secrets TO ${SUPPORT} USING (id > 0)`,
  );
  undo.push(() =>
    onBlue('DROP POLICY support ON public.secrets; ALTER TABLE public.secrets DISABLE ROW LEVEL SECURITY'),
  );
  const errors = async (user?: string | null): Promise<PreflightFinding[]> =>
    (await findings('owners-and-grants', user)).filter(({ severity }) => severity === 'error');
  expect(await errors()).toMatchObject([
    {
      side: 'green',
      object: 'public.secrets',
      remedy: expect.stringContaining(`GRANT "${USER}" TO "${APP}"`) as string,
    },
  ]);
  // What green's user gives to its owner needs no such thing.
  expect(await errors(null)).toEqual([]);
  await onGreen(`GRANT ${USER} TO ${APP}`);
  expect(await errors()).toEqual([]);
  await onGreen(`REVOKE ${USER} FROM ${APP}; ALTER ROLE ${APP} BYPASSRLS`);
  expect(await errors()).toEqual([]);
  await onGreen(`ALTER ROLE ${APP} NOBYPASSRLS`);
  // Nobody logs in with the rights of the owner.
  await onBlue(`ALTER ROLE ${APP} NOLOGIN`);
  expect(await errors()).toEqual([]);
  await onBlue(`ALTER ROLE ${APP} LOGIN; CREATE POLICY everything ON public.secrets TO ${APP} USING (true)`);
  undo.push(() => onBlue('DROP POLICY everything ON public.secrets'));
  expect(await errors()).toEqual([]);
});

it('views to which policies apply, and functions with the rights of their owner that not everybody may call, are named', async () => {
  await onBlue(`ALTER TABLE public.secrets ENABLE ROW LEVEL SECURITY; CREATE POLICY everything ON public.secrets USING (true);
    GRANT SELECT ON public.secrets TO ${OTHER}; CREATE VIEW public.seen AS SELECT * FROM public.secrets; ALTER VIEW public.seen OWNER TO ${OTHER};
    CREATE VIEW public.of_owner AS SELECT * FROM public.secrets; ALTER VIEW public.of_owner OWNER TO ${APP};
    CREATE VIEW public.of_reader WITH (security_invoker = true) AS SELECT * FROM public.secrets; ALTER VIEW public.of_reader OWNER TO ${OTHER};
    CREATE FUNCTION public.purge(int) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
    CREATE FUNCTION public.open() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
    REVOKE EXECUTE ON FUNCTION public.purge FROM PUBLIC`);
  undo.push(() =>
    onBlue(`DROP VIEW public.seen, public.of_owner, public.of_reader; DROP FUNCTION public.purge, public.open; DROP POLICY everything ON public.secrets;
      REVOKE SELECT ON public.secrets FROM ${OTHER}; ALTER TABLE public.secrets DISABLE ROW LEVEL SECURITY`),
  );
  const [, views, functions, ...more] = await findings('owners-and-grants');
  expect(more).toEqual([]);
  expect(views).toMatchObject({ severity: 'warning', object: 'public.seen' });
  expect(functions).toMatchObject({ severity: 'warning', object: 'public.purge(integer)' });
  expect(functions?.remedy).toContain('REVOKE EXECUTE ON ROUTINE public.purge(integer) FROM PUBLIC');
});

it('rights on the database, its owner and its limit are compared in both directions, also for a superuser', async () => {
  expect(await findings('database-rights', null)).toEqual([]);
  await onBlue(`GRANT CREATE ON DATABASE ${blueDb.database} TO ${OTHER}; REVOKE CONNECT ON DATABASE ${blueDb.database} FROM PUBLIC;
    ALTER DATABASE ${blueDb.database} OWNER TO ${APP}; ALTER DATABASE ${blueDb.database} CONNECTION LIMIT 50`);
  await onGreen(`GRANT CREATE ON DATABASE ${greenDb.database} TO ${SUPPORT}`);
  undo.push(
    () =>
      onBlue(`REVOKE ALL ON DATABASE ${blueDb.database} FROM ${OTHER}; GRANT CONNECT ON DATABASE ${blueDb.database} TO PUBLIC;
        ALTER DATABASE ${blueDb.database} OWNER TO postgres; ALTER DATABASE ${blueDb.database} CONNECTION LIMIT -1`),
    () =>
      onGreen(`REVOKE ALL ON DATABASE ${greenDb.database} FROM ${OTHER}, ${SUPPORT}; GRANT CONNECT ON DATABASE ${greenDb.database} TO PUBLIC;
        ALTER DATABASE ${greenDb.database} OWNER TO postgres; ALTER DATABASE ${greenDb.database} CONNECTION LIMIT -1`),
  );
  const [first, ...more] = await findings('database-rights', null);
  expect(more).toEqual([]);
  expect(first).toMatchObject({ severity: 'warning', side: 'green', object: greenDb.database });
  const database = `"${greenDb.database}"`;
  expect(statementsIn(first?.remedy).split('; ')).toEqual([
    `ALTER DATABASE ${database} OWNER TO "${APP}"`,
    `GRANT CREATE ON DATABASE ${database} TO "${OTHER}"`,
    `REVOKE CONNECT ON DATABASE ${database} FROM PUBLIC`,
    `REVOKE CREATE ON DATABASE ${database} FROM "${SUPPORT}"`,
    `ALTER DATABASE ${database} CONNECTION LIMIT 50`,
  ]);
  await onGreen(statementsIn(first?.remedy));
  expect(await findings('database-rights', null)).toEqual([]);
});

it('of roles that green lacks only those are named that the statements for the database name', async () => {
  const [owner, reader] = [`${OTHER}_admin`, `${OTHER}_reader`];
  // What a superuser owns need not belong to one on green, and what everybody may do need not be given.
  await onBlue(`CREATE ROLE ${owner} SUPERUSER; CREATE ROLE ${reader}; ALTER DATABASE ${blueDb.database} OWNER TO ${owner};
    GRANT CONNECT ON DATABASE ${blueDb.database} TO ${reader}; ALTER DATABASE ${blueDb.database} CONNECTION LIMIT 40`);
  undo.push(() =>
    onBlue(`ALTER DATABASE ${blueDb.database} CONNECTION LIMIT -1; ALTER DATABASE ${blueDb.database} OWNER TO postgres;
      REVOKE ALL ON DATABASE ${blueDb.database} FROM ${reader}; DROP ROLE ${owner}, ${reader}`),
  );
  const remedy = async (): Promise<string | undefined> => (await findings('database-rights', null))[0]?.remedy;
  expect(await remedy()).toMatch(/: ALTER DATABASE "\w+" CONNECTION LIMIT 40$/);
  await onBlue(`GRANT CREATE ON DATABASE ${blueDb.database} TO ${reader}`);
  expect(await remedy()).toContain(`(roles that green has not yet: "${reader}")`);
});

it('that everybody may make something in public on blue is a warning where grants are not copied', async () => {
  await onBlue('GRANT CREATE ON SCHEMA public TO PUBLIC');
  undo.push(() => onBlue('REVOKE CREATE ON SCHEMA public FROM PUBLIC'));
  expect(await findings('database-rights', null)).toEqual([]);
  expect(await findings('database-rights')).toMatchObject([{ severity: 'warning', object: 'schema public' }]);
});

it('grants on built-in objects and members of extensions that the copy will not repeat are named', async () => {
  expect(await findings('system-grants')).toEqual([]);
  await onBlue(`CREATE EXTENSION citext; GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean) TO ${OTHER};
    REVOKE EXECUTE ON FUNCTION public.citext_eq(public.citext, public.citext) FROM PUBLIC`);
  undo.push(() =>
    onBlue(`DROP EXTENSION citext; REVOKE EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean) FROM ${OTHER}`),
  );
  expect(await findings('system-grants', null)).toEqual([]);
  const [first, ...more] = await findings('system-grants');
  expect(more).toEqual([]);
  const statements = [
    `GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(pg_catalog.text,boolean) TO "${OTHER}"`,
    `REVOKE EXECUTE ON FUNCTION public.citext_eq(public.citext,public.citext) FROM PUBLIC`,
  ];
  expect(statementsIn(first?.message).split('; ').toSorted()).toEqual(statements);
  await onGreen(`CREATE EXTENSION citext; ${statements.join('; ')}`);
  undo.push(() =>
    onGreen(
      `DROP EXTENSION citext; REVOKE EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean) FROM ${OTHER}`,
    ),
  );
  expect(await findings('system-grants')).toEqual([]);
});

it('a role that green lacks is refused where grants are copied, by whomever', async () => {
  const role = `${OTHER}_lacking`;
  await onBlue(`CREATE ROLE ${role}; GRANT SELECT ON public.orders TO ${role}`);
  undo.push(() => onBlue(`DROP OWNED BY ${role}; DROP ROLE ${role}`));
  const severity = async (): Promise<string | undefined> => (await findings('roles'))[0]?.severity;
  expect(await severity()).toBe('warning');
  await onGreen(`GRANT ${APP} TO ${USER}; ALTER SCHEMA public OWNER TO ${APP}`);
  undo.push(() => onGreen(`ALTER SCHEMA public OWNER TO pg_database_owner; REVOKE ${APP} FROM ${USER}`));
  expect(await severity()).toBe('error');
});

it('REPLICATION is an attribute: what administrators of a managed service are members of does not give it, but on Amazon RDS', async () => {
  const [admins, rds] = ['azure_pg_admin', 'rds_replication'];
  await onGreen(`CREATE ROLE ${admins} REPLICATION; CREATE ROLE ${rds}; GRANT ${admins} TO ${USER}`);
  undo.push(() => onGreen(`DROP ROLE ${admins}, ${rds}`));
  const remedies = async (): Promise<string[]> => (await findings('privileges')).map(({ remedy }) => remedy);
  const lacking = expect.stringContaining(`ALTER ROLE "${USER}" REPLICATION`) as string;
  expect(await remedies()).toContainEqual(lacking);
  await onGreen(`GRANT ${rds} TO ${USER}`);
  expect(await remedies()).not.toContainEqual(lacking);
});

it('that sessions of the user by whom the other server follows could not be ended is a warning', async () => {
  const warnings = async (user: string | null, peer: string): Promise<PreflightFinding[]> =>
    (await findings('privileges', user, { green: peer })).filter(({ severity }) => severity === 'warning');
  expect(await warnings(USER, USER)).toEqual([]);
  expect(await warnings(null, OTHER)).toEqual([]);
  expect(await warnings(USER, OTHER)).toMatchObject([
    { side: 'green', object: OTHER, remedy: `GRANT pg_signal_backend TO "${USER}"` },
  ]);
  undo.push(() => onGreen(`REVOKE pg_signal_backend FROM ${USER}; REVOKE ${OTHER} FROM ${USER}`));
  await onGreen(`GRANT pg_signal_backend TO ${USER}`);
  expect(await warnings(USER, OTHER)).toEqual([]);
  expect(await warnings(USER, 'postgres')).toMatchObject([
    { object: 'postgres', remedy: 'Set VERDIGRIS_CONNECTION_TEST_GREEN_PEER with a user that is no superuser' },
  ]);
  await onGreen(`REVOKE pg_signal_backend FROM ${USER}; GRANT ${OTHER} TO ${USER}`);
  expect(await warnings(USER, OTHER)).toEqual([]);
});

it('a server that would write the password of the worker into its log is told of, with what mends it', async () => {
  expect(await findings('logged-password')).toEqual([]);
  await onGreen(`ALTER ROLE ${USER} SET log_statement = 'all'; ALTER ROLE ${USER} SET log_min_duration_statement = 0`);
  undo.push(() =>
    onGreen(`ALTER ROLE ${USER} RESET ALL; REVOKE SET ON PARAMETER log_parameter_max_length FROM ${USER}`),
  );
  const [first, ...more] = await findings('logged-password');
  expect(more).toEqual([]);
  expect(first).toMatchObject({
    ...{ severity: 'warning', side: 'green', object: 'log_min_duration_statement, log_statement' },
    message: expect.stringContaining('(log_min_duration_statement = 0, log_statement = all)') as string,
  });
  expect(first?.remedy).toContain('VERDIGRIS_CONNECTION_TEST_BLUE_PEER');
  // One that is there for nothing else, and can be changed when the run has ended.
  expect(await findings('logged-password', USER, { blue: OTHER })).toEqual([]);
  const grant = /GRANT .*/.exec(first?.remedy ?? '')?.[0] ?? '';
  await onGreen(grant);
  expect(await findings('logged-password')).toEqual([]);
  await onGreen(
    `${grant.replace('GRANT', 'REVOKE').replace(' TO ', ' FROM ')}; ALTER ROLE ${USER} SET log_parameter_max_length = 0`,
  );
  expect(await findings('logged-password')).toEqual([]);
});
