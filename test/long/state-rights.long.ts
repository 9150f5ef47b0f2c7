import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { MockActivityEnvironment } from '@temporalio/testing';
import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest';
import { rollbackActivities } from '../../activities/rollback.js';
import { planSchema, type Plan } from '../../src/plan/schema.js';
import { installDdlTriggers } from '../../src/postgres/ddl/event-trigger.js';
import { whoIsPrimary } from '../../src/postgres/doctor/who-is-primary.js';
import { expandTable } from '../../src/postgres/migrate/expand-table.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import { openSession, withSession, type Databases, type Session } from '../../src/postgres/session.js';
import { hasState, installState, readOwner } from '../../src/postgres/state.js';
import type { Side } from '../../src/side.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { workOf } from '../postgres/replicated-pair.js';

/*
 * Whose schema verdigris is, and who may do what in it, whatever the databases give others by default, and whoever may
 * create schemas.
 */

const TAG = randomBytes(4).toString('hex');
/** An ordinary role of the application; one that owns its tables; a worker that is no superuser. */
const [APP, MAKER, WORKER] = [`app_${TAG}`, `maker_${TAG}`, `worker_${TAG}`] as const;
const RUN = { runId: 'run of shop', migration: 'shop' };
const SIDES = ['blue', 'green'] as const;

let own: Record<Side, TestDatabase>;
let databases: Databases;

async function onServers(sql: string): Promise<void> {
  for (const server of ['pg15', 'pg18'] as const) {
    const { port, password } = inject(server);
    const maintenance = { host: '127.0.0.1', port, user: 'postgres', password, database: 'postgres' };
    await withClient(maintenance, (client) => client.query(sql));
  }
}

beforeEach(async () => {
  own = { blue: await testDatabase('pg15', 'rights blue'), green: await testDatabase('pg18', 'rights green') };
  databases = { blue: asDatabase(own.blue, 'blue'), green: asDatabase(own.green, 'green') };
  await onServers([APP, MAKER, WORKER].map((role) => `CREATE ROLE ${role} LOGIN PASSWORD 'x'`).join('; '));
});

afterEach(async () => {
  await Promise.all([own.blue.drop(), own.green.drop()]);
  await onServers(`DROP ROLE IF EXISTS ${APP}, ${MAKER}, ${WORKER}`);
});

async function onBoth(sql: string): Promise<void> {
  for (const side of SIDES) await withClient(own[side].config, (client) => client.query(sql));
}

function as<T>(role: string, side: Side, work: (client: pg.Client) => Promise<T>): Promise<T> {
  return withClient({ ...own[side].config, user: role, password: 'x' }, work);
}

function databasesOf(role: string): Databases {
  const of = (side: Side): Databases[Side] => ({
    ...databases[side],
    config: { ...own[side].config, user: role, password: 'x' },
  });
  return { blue: of('blue'), green: of('green') };
}

const claim = (as: Databases = databases): Promise<number> => claimDatabases(as, RUN, 'use-green-db');

function planOf(): Plan {
  return planSchema.parse({ name: 'shop', blue: { connection: 'b' }, green: { connection: 'g' } });
}

/** Has schema verdigris belong to another role by the statements of docs/connections.md. */
async function handOver(from: string, to: string): Promise<void> {
  const text = readFileSync(new URL('../../docs/connections.md', import.meta.url), 'utf8');
  const [, sql = ''] = /^## Another user\n[^]*?```sql\n([^]*?)```/m.exec(text) ?? [];
  const [schema = '', others = ''] = sql.replaceAll('new_user', to).replace('\\gexec', '').split(';\n');
  for (const side of SIDES) {
    await withClient(own[side].config, async (client) => {
      await client.query(schema);
      for (const row of (await client.query({ text: others, rowMode: 'array' })).rows as string[][]) {
        await client.query(row[0] ?? '');
      }
      const { rows } = await client.query(
        `SELECT 1 FROM pg_shdepend WHERE refobjid = '${from}'::regrole AND deptype = 'o'
            AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())`,
      );
      expect(rows).toEqual([]);
    });
  }
}

/** What the preflight says of schema verdigris that is not ours. */
async function foreign(as: Databases = databases): Promise<string[]> {
  const { findings } = await preflight({ ...as, plan: planOf(), runId: RUN.runId, reachWithinMs: 1_000 });
  return findings.filter(({ check }) => check === 'state-not-ours').map(({ side, message }) => `${side}: ${message}`);
}

describe('default privileges', () => {
  it('give nobody a right to change the route, the fence, or anything else of schema verdigris', async () => {
    await onBoth(
      ['TABLES', 'SEQUENCES', 'FUNCTIONS', 'SCHEMAS']
        .map((kind) => `ALTER DEFAULT PRIVILEGES GRANT ALL ON ${kind} TO ${APP} WITH GRANT OPTION`)
        .join('; '),
    );
    // Several at once wait for each other.
    const installed = SIDES.flatMap((side) => [1, 2, 3].map(() => side)).map((side) =>
      withSession(databases[side], { purpose: 'test', lockTimeoutMs: 20_000 }, (session) =>
        installState(session, side),
      ),
    );
    await Promise.all(installed);
    await claim();
    for (const side of SIDES) {
      await withSession(databases[side], { purpose: 'test' }, installDdlTriggers);
      await as(APP, side, async (app) => {
        const { rows } = await app.query<{ may: string }>(
          `SELECT format('%s %s', privilege, c.relname) AS may
             FROM pg_class c
             CROSS JOIN unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege
            WHERE c.relnamespace = 'verdigris'::regnamespace AND c.relkind = 'r' AND has_table_privilege(c.oid, privilege)
           UNION ALL
           SELECT format('%s %s', privilege, c.relname) FROM pg_class c CROSS JOIN unnest(ARRAY['USAGE', 'UPDATE']) AS privilege
            WHERE c.relnamespace = 'verdigris'::regnamespace AND c.relkind = 'S' AND has_sequence_privilege(c.oid, privilege)
           UNION ALL
           SELECT format('EXECUTE %s', p.proname) FROM pg_proc p
            WHERE p.pronamespace = 'verdigris'::regnamespace AND p.proname ~ 'decide|open_fence|close_fence|set_green'
              AND has_function_privilege(p.oid, 'EXECUTE')
           UNION ALL
           SELECT 'CREATE' WHERE has_schema_privilege('verdigris', 'CREATE')`,
        );
        expect(rows).toEqual([]);
        // What they let a role read it may read: the doctor may ask as such a one.
        expect((await app.query('SELECT FROM verdigris.owner')).rowCount).toBe(1);
      });
    }
    // The route is read by everybody, and a session of ours writes as before.
    expect(await claim()).toBeGreaterThan(0);
  });

  it('that take EXECUTE from PUBLIC take nothing from the application of what it calls', async () => {
    await onBoth('ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC');
    await onBoth(
      `CREATE TABLE public.item (id int, at date, payload text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
       CREATE TABLE public.item_1 PARTITION OF public.item FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
       ALTER TABLE public.item OWNER TO ${MAKER}; ALTER TABLE public.item_1 OWNER TO ${MAKER};
       GRANT INSERT, SELECT ON public.item TO ${APP}; GRANT CREATE ON SCHEMA public TO ${MAKER}`,
    );
    await claim();
    const column = { table: 'item', column: 'data', type: 'jsonb', up: 'verdigris.try_jsonb(payload)' };
    const { tables } = await workOf([{ addColumn: column }]);
    await withSession(databases.green, { purpose: 'test' }, async (session) => {
      const connect = (purpose: string): Promise<Session> => openSession(databases.green, { purpose });
      const { signal } = new AbortController();
      for (const table of tables) {
        await expandTable({ runId: RUN.runId, session, connect, signal, onProgress: () => undefined }, table);
      }
    });
    for (const side of SIDES) {
      await as(APP, side, async (app) => {
        await app.query(`SELECT verdigris.router_heartbeat('shop', 'web-1', 1, 1, '{}')`);
        await app.query(`SELECT verdigris.router_heartbeat('shop', 'web-2', 1, 1, '{}', '2.0')`);
        await app.query(`SELECT verdigris.get_ready(), verdigris.caught_up(1, '0/0'), verdigris.try_jsonb('1')`);
      });
    }
    await as(APP, 'green', async (app) => {
      await app.query(`INSERT INTO public.item (id, at, payload) VALUES (1, '2026-02-01', '{"a": 1}')`);
      expect((await app.query('SELECT data FROM public.item')).rows).toEqual([{ data: { a: 1 } }]);
    });
    // Making a partition clones the trigger, as whoever makes it.
    await as(MAKER, 'green', (maker) =>
      maker.query(
        `CREATE TABLE public.item_2 PARTITION OF public.item FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')`,
      ),
    );
  });
});

/** Notes by whom it is called. */
const NOTES = `
  CREATE SCHEMA own; GRANT USAGE ON SCHEMA own TO PUBLIC; CREATE TABLE own.noted (who text); GRANT ALL ON own.noted TO PUBLIC;
  CREATE FUNCTION own.note() RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO own.noted VALUES (current_user); RETURN 'x'; END $$;
  CREATE FUNCTION own.noting() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM own.note(); RETURN NULL; END $$;`;

describe('a schema verdigris that somebody has made beforehand', () => {
  beforeEach(async () => {
    for (const side of SIDES) {
      await withClient(own[side].config, (client) =>
        client.query(`GRANT CREATE ON DATABASE ${own[side].database} TO ${MAKER}, ${WORKER}`),
      );
    }
  });

  async function noted(side: Side): Promise<unknown[]> {
    return withClient(own[side].config, async (client) => (await client.query('SELECT who FROM own.noted')).rows);
  }

  /** The last undoing of a run whose claim was refused. */
  async function release(): Promise<void> {
    const environment = { VERDIGRIS_CONNECTION_B: own.blue.uri, VERDIGRIS_CONNECTION_G: own.green.uri };
    const { releaseDatabases } = rollbackActivities({ environment, redact: String });
    await new MockActivityEnvironment().run(() =>
      releaseDatabases({ plan: planOf(), runId: RUN.runId }, { keepGreen: false }),
    );
  }

  it.each(SIDES)(
    'whose tables are views that call its functions is refused before they are read, on %s',
    async (side) => {
      await as(MAKER, side, (maker) =>
        maker.query(`${NOTES} CREATE SCHEMA verdigris;
        CREATE VIEW verdigris.owner AS SELECT own.note() AS run_id, 'shop'::text AS migration, 'blue'::text AS side, 'over'::text AS outcome;
        CREATE VIEW verdigris.route AS SELECT own.note() AS migration, 1 AS epoch, 1 AS generation, 'blue'::text AS writes_on;
        GRANT USAGE ON SCHEMA verdigris TO PUBLIC; GRANT SELECT ON ALL TABLES IN SCHEMA verdigris TO PUBLIC`),
      );
      expect(await foreign()).toEqual([
        expect.stringContaining(`${side}: ${side} has a schema verdigris that is not of`),
      ]);
      await expect(claim()).rejects.toMatchObject({ type: 'StateNotOurs', retryable: false });
      await release();
      expect((await whoIsPrimary(databases)).verdict.kind).toBe('unknown');
      expect(await noted(side)).toEqual([]);
    },
  );

  it('with triggers on what a run writes is refused before anything is written, and left alone by the rollback', async () => {
    // As the run itself makes it, then given away.
    await claim();
    await withClient(own.blue.config, async (client) => {
      await client.query(`DELETE FROM verdigris.owner; DELETE FROM verdigris.route; DELETE FROM verdigris.event;
        ALTER SCHEMA verdigris OWNER TO ${MAKER}; ALTER TABLE verdigris.event OWNER TO ${MAKER}; ALTER TABLE verdigris.owner OWNER TO ${MAKER}`);
    });
    await as(MAKER, 'blue', (maker) =>
      maker.query(`${NOTES}
        CREATE TRIGGER t AFTER INSERT ON verdigris.event FOR EACH STATEMENT EXECUTE FUNCTION own.noting();
        CREATE TRIGGER t AFTER UPDATE ON verdigris.owner FOR EACH STATEMENT EXECUTE FUNCTION own.noting()`),
    );
    const told = `the schema belongs to ${MAKER}, sequence event_id_seq belongs to ${MAKER}, table event belongs to ${MAKER}`;
    expect(await foreign()).toEqual([expect.stringContaining(told)]);
    await expect(claim()).rejects.toThrow(told);
    await release();
    expect(await noted('blue')).toEqual([]);
    expect(await withSession(databases.blue, { purpose: 'test' }, hasState)).toBe(true);

    // Tables alone that were made the worker's still have the triggers of others.
    await withClient(own.blue.config, (client) =>
      client.query(
        `ALTER SCHEMA verdigris OWNER TO postgres; ALTER TABLE verdigris.event OWNER TO postgres; ALTER TABLE verdigris.owner OWNER TO postgres`,
      ),
    );
    await expect(claim()).rejects.toThrow(`trigger t of event calls a function of ${MAKER}`);
    await withClient(own.blue.config, (client) =>
      client.query('DROP TRIGGER t ON verdigris.event; DROP TRIGGER t ON verdigris.owner'),
    );
    await claim();
    expect(await noted('blue')).toEqual([]);
  });

  it.each([
    { what: 'a superuser', worker: 'postgres' },
    { what: 'a role that is a member of its owner', worker: WORKER },
  ])('with nothing but a function, which its owner could change later, is refused for $what', async ({ worker }) => {
    await onServers(`GRANT ${MAKER} TO ${WORKER}`);
    await as(MAKER, 'green', (maker) =>
      maker.query(`CREATE SCHEMA verdigris;
        CREATE FUNCTION verdigris.fence_check() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`),
    );
    const own = worker === WORKER ? databasesOf(WORKER) : databases;
    const told = `the schema belongs to ${MAKER}, function fence_check() belongs to ${MAKER}`;
    await expect(claim(own)).rejects.toThrow(told);
    expect(await foreign(own)).toEqual([expect.stringContaining(told)]);
  });

  it('that an earlier run has made as another user is refused with the way on, and goes on as that user', async () => {
    const first = await claim(databasesOf(WORKER));
    expect(await foreign(databasesOf(WORKER))).toEqual([]);
    await expect(claim()).rejects.toThrow(/the schema belongs to worker_[\s\S]*give the connection of blue that user/);
    expect(await claim(databasesOf(WORKER))).toBe(first);
    // Whoever only looks sees it as ever, whose ever it is.
    expect((await whoIsPrimary(databases)).verdict).toMatchObject({ kind: 'certain', primary: 'blue' });
    // A physical standby has what was looked at on blue, with blue's user as its owner.
    await withSession(databases.green, { purpose: 'test' }, (green) => installState(green, 'green', { isCopy: true }));
    await handOver(WORKER, 'postgres');
    expect(await claim()).toBe(first);
    // The other way round: a superuser's is not for a role that can't change it.
    await onBoth('DROP SCHEMA verdigris CASCADE');
    await claim();
    await expect(claim(databasesOf(WORKER))).rejects.toThrow('the schema belongs to postgres');
  });

  it('is no obstacle to a role that only reads', async () => {
    await onBoth(`ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO ${APP};
      ALTER DEFAULT PRIVILEGES GRANT SELECT ON SEQUENCES TO ${APP};
      GRANT EXECUTE ON FUNCTION pg_catalog.pg_replication_origin_progress(text, boolean) TO ${APP}`);
    await claim();
    const { verdict, found } = await whoIsPrimary(databasesOf(APP));
    expect([found.blue, found.green].map((one) => (one.reached ? '' : one.why))).toEqual(['', '']);
    expect(verdict).toMatchObject({ kind: 'certain', primary: 'blue' });
    const owner = await withSession(databasesOf(APP).blue, { purpose: 'test' }, readOwner);
    expect(owner).toMatchObject(RUN);
  });
});
