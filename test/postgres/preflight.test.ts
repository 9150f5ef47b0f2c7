import { MockActivityEnvironment } from '@temporalio/testing';
import { createServer, type Socket } from 'node:net';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { preflightActivities } from '../../activities/preflight.js';
import { run as verdigris } from '../../src/cli/run.js';
import { FLAG_CHECKS } from '../../src/flags/preflight.js';
import { GATE_CHECKS } from '../../src/gates/preflight.js';
import { WINDOW_CHECKS } from '../../src/plan/window-preflight.js';
import { HAPROXY_CHECKS } from '../../src/haproxy/preflight.js';
import { NOTIFY_CHECKS } from '../../src/notify/preflight.js';
import { WEBHOOK_CHECKS } from '../../src/webhooks/preflight.js';
import { PGBOUNCER_CHECKS } from '../../src/pgbouncer/preflight.js';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';
import { readTables } from '../../src/postgres/catalog.js';
import { isNameInFunction, mendFunction } from '../../src/postgres/name-in-function.js';
import { OTHER_FINDINGS, PAIR_CHECKS, SIDE_CHECKS } from '../../src/postgres/preflight/checks.js';
import { mayMakeEventTriggers } from '../../src/postgres/preflight/code.js';
import { isReady, type PreflightFinding } from '../../src/postgres/preflight/finding.js';
import { notValidChecks } from '../../src/postgres/preflight/not-valid-checks.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import { schemaCopyFailed } from '../../src/postgres/schema-copy/schema-copy-failed.js';
import { withoutSecrets } from '../../src/postgres/scrub.js';
import { closeSession, openSession, type Database } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { databasesOf } from '../../src/worker/connections.js';
import { ofDatabase, statementsOfRole } from '../support/documented-role.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

const TAG = randomBytes(4).toString('hex');
const RUN = 'run-1';

let blueDb: TestDatabase;
let greenDb: TestDatabase;
let blue: Database;
let green: Database;

beforeAll(async () => {
  blueDb = await testDatabase('pg15', 'preflight blue');
  greenDb = await testDatabase('pg18', 'preflight green');
  blue = asDatabase(blueDb, 'blue');
  green = asDatabase(greenDb, 'green');
  await onBlue('CREATE TABLE public.orders (id bigint PRIMARY KEY, total numeric)');
});
afterAll(async () => {
  await blueDb.drop();
  await greenDb.drop();
});

/** What takes back what a test has done, latest first. */
const undo: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

const onBlue = (sql: string): Promise<unknown> => withClient(blueDb.config, (client) => client.query(sql));
const onGreen = (sql: string): Promise<unknown> => withClient(greenDb.config, (client) => client.query(sql));

async function check(
  plan: Partial<PlanInput> = {},
  databases: { blue?: Database; green?: Database } = {},
): Promise<readonly PreflightFinding[]> {
  const parsed = planSchema.parse({
    version: 1,
    name: 'preflight',
    blue: { connection: 'test_blue' },
    green: { connection: 'test_green' },
    ...plan,
  });
  const report = await preflight({ blue, green, ...databases, plan: parsed, runId: RUN, reachWithinMs: 1_000 });
  return report.findings;
}

function only(findings: readonly PreflightFinding[], name: string): PreflightFinding[] {
  return findings.filter((finding) => finding.check === name);
}

function errorsOf(findings: readonly PreflightFinding[]): string[] {
  return findings.filter(({ severity }) => severity === 'error').map(({ check: name, side }) => `${name} ${side}`);
}

/** Everything of a database that a check could leave behind. */
async function contents(db: TestDatabase): Promise<unknown> {
  return withClient(db.config, async (client) => {
    const { rows } = await client.query(
      `SELECT (SELECT array_agg(oid::bigint ORDER BY oid) FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace) AS classes,
              (SELECT array_agg(nspname::text ORDER BY oid) FROM pg_namespace) AS schemas,
              (SELECT count(*)::int FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()) AS subscriptions,
              (SELECT count(*)::int FROM pg_replication_slots WHERE database = current_database()) AS slots,
              (SELECT count(*)::int FROM pg_publication) AS publications`,
    );
    return rows[0];
  });
}

describe('preflight', () => {
  it('finds no error in two databases that are ready, and leaves nothing behind in them', async () => {
    const before = [await contents(blueDb), await contents(greenDb)];
    const findings = await check();
    expect(errorsOf(findings)).toEqual([]);
    expect(isReady({ findings })).toBe(true);
    expect([await contents(blueDb), await contents(greenDb)]).toEqual(before);
  });

  it('tries the plan on blue, tells all that is refused at once, and leaves nothing behind', async () => {
    await onBlue('CREATE TABLE public.notes (id int PRIMARY KEY, body text)');
    undo.push(() => onBlue('DROP TABLE public.notes'));
    const like = await testDatabase('pg15', 'preflight like blue');
    undo.push(() => like.drop());
    const before = await contents(blueDb);
    const on = { table: 'public.orders' };
    const plan: Partial<PlanInput> = {
      migrations: [
        { addColumn: { table: 'public.notes', column: 'size', type: 'integr' } },
        { addColumn: { ...on, column: 'ids', type: 'int', up: 'ARRAY[id]' } },
        { addColumn: { ...on, column: 'name', type: 'text', up: 'nosuchfunc(total)' } },
        { addConstraint: { ...on, name: 'positive', check: `total > 'x'` } },
      ],
    };
    const told = async (of: Database): Promise<string[]> =>
      only(await check(plan, { green: of }), 'plan-trial').map(
        ({ severity, side, object, message }) =>
          `${severity} ${side} ${object} ${/\((\w{5})\)/.exec(message)?.[1] ?? ''}`,
      );
    const mistakes = [
      'blue the new columns of table public.notes 42704',
      'blue new column "ids" of table public.orders 42804',
      'blue new column "name" of table public.orders 42883',
      'blue constraint "positive" on table public.orders 22P02',
    ];
    expect((await told(asDatabase(like, 'green'))).sort()).toEqual(mistakes.map((one) => `error ${one}`).sort());
    // A newer green may know types and functions that blue does not; what is of the wrong type stays so.
    const [type = '', , func = ''] = mistakes;
    expect((await told(green)).sort()).toEqual(
      mistakes.map((one) => `${[type, func].includes(one) ? 'warning' : 'error'} ${one}`).sort(),
    );
    expect(await contents(blueDb)).toEqual(before);
  });

  it('says which of the plan it has not tried', async () => {
    const index = { createIndex: { table: 'public.orders', name: 'i', columns: ['total'] } };
    const sql = { sql: { name: 'more', up: 'SELECT 1', down: 'SELECT 1' } };
    expect(only(await check({ migrations: [index, sql, index] }), 'plan-trial')).toMatchObject([
      { severity: 'info', message: expect.stringMatching(/"more" is not tried, nor are the 1 indexes/) as string },
    ]);
    await withClient(blueDb.config, async (client) => {
      await client.query('BEGIN; LOCK TABLE public.orders IN ACCESS EXCLUSIVE MODE');
      const plan = { migrations: [{ addColumn: { table: 'public.orders', column: 'a', type: 'int' } }] };
      expect(only(await check(plan), 'plan-trial')).toMatchObject([
        { severity: 'warning', message: expect.stringContaining('not all of the plan could be tried') as string },
      ]);
    });
  });

  it('warns of parameters that the worker makes nothing of; the other server gets by with those that are there', async () => {
    const environment = {
      VERDIGRIS_CONNECTION_TEST_BLUE: `${blueDb.uri}?uselibpqcompat=true&sslmode=disable&schema=public&connect_timeout=5`,
      VERDIGRIS_CONNECTION_TEST_GREEN: `${greenDb.uri}?ssl=0`,
    };
    const plan = { blue: { connection: 'test_blue' }, green: { connection: 'test_green' } };
    const found = await check({}, databasesOf(plan, environment));
    expect(errorsOf(found)).toEqual([]);
    const [warned, ...more] = only(found, 'connection-parameters');
    expect(more).toEqual([]);
    expect(warned).toMatchObject({ severity: 'warning', side: 'blue', object: 'test_blue' });
    expect(warned?.message).toMatch(/: schema, connect_timeout$/);
  });

  it('warns of limits of time that hold for what PostgreSQL itself runs for a feed, until they are gone for its user', async () => {
    expect(only(await check(), 'feed-timeouts')).toEqual([]);
    await onBlue(`ALTER DATABASE ${blueDb.database} SET statement_timeout = '30s'`);
    undo.push(() => onBlue(`ALTER DATABASE ${blueDb.database} RESET statement_timeout`));
    await onGreen(`ALTER DATABASE ${greenDb.database} SET transaction_timeout = '1min'`);
    undo.push(() => onGreen(`ALTER DATABASE ${greenDb.database} RESET transaction_timeout`));
    const found = only(await check(), 'feed-timeouts');
    expect(
      found.map(({ severity, side, object, message }) => [severity, side, object, message.split(' also ')[0]]),
    ).toEqual([
      ['warning', 'blue', 'statement_timeout', 'the statement_timeout of 30 s that user "postgres" has on blue'],
      ['warning', 'green', 'transaction_timeout', 'the transaction_timeout of 60 s that user "postgres" has on green'],
    ]);
    for (const { side, remedy } of found) {
      const statement = remedy.split(', until')[0] ?? '';
      await (side === 'blue' ? onBlue(statement) : onGreen(statement));
      undo.push(() =>
        side === 'blue'
          ? onBlue(statement.replace(/ SET (\w+) = 0/, ' RESET $1'))
          : onGreen(statement.replace(/ SET (\w+) = 0/, ' RESET $1')),
      );
    }
    expect(only(await check(), 'feed-timeouts')).toEqual([]);
  });

  it('refuses a name whose slots another database of the server has, on both sides', async () => {
    const name = `orders-${TAG}`;
    const slots = { blue: `verdigris_orders_${TAG}_to_green_2`, green: `verdigris_orders_${TAG}_to_blue` };
    const others = [await testDatabase('pg15', 'preflight other'), await testDatabase('pg18', 'preflight other')];
    for (const [i, slot] of [slots.blue, slots.green].entries()) {
      const other = others[i];
      if (other === undefined) throw new Error('there are two');
      undo.push(() => other.drop());
      await withClient(other.config, (client) =>
        client.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [slot]),
      );
    }
    const found = only(await check({ name, replicate: { streams: 2 } }), 'slot-names');
    expect(found.map(({ side, severity, object }) => [side, severity, object])).toEqual([
      ['blue', 'error', slots.blue],
      ['green', 'error', slots.green],
    ]);
    expect(found[0]?.message).toContain(`"${others[0]?.database}"`);
    // One of its own database is that of an earlier try.
    await onBlue(`SELECT pg_create_logical_replication_slot('verdigris_own_${TAG}_to_green', 'pgoutput')`);
    undo.push(() => onBlue(`SELECT pg_drop_replication_slot('verdigris_own_${TAG}_to_green')`));
    expect(only(await check({ name: `own-${TAG}` }), 'slot-names')).toEqual([]);
    expect(only(await check({ name, replicate: { streams: 1 } }), 'slot-names').map(({ side }) => side)).toEqual([
      'green',
    ]);
  });

  it('refuses to change columns of a table from which others inherit, partitions aside', async () => {
    await onBlue(`
      CREATE SCHEMA old;
      CREATE TABLE old.parent (id int PRIMARY KEY, body text);
      CREATE TABLE old.child (PRIMARY KEY (id)) INHERITS (old.parent);
      CREATE TABLE old.parted (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
      CREATE TABLE old.part PARTITION OF old.parted DEFAULT`);
    undo.push(() => onBlue('DROP SCHEMA old CASCADE'));
    const add = (table: string): PlanInput['migrations'] => [
      { addColumn: { table, column: 'loud', type: 'text', up: 'upper(body)' } },
    ];
    const findings = await check({ migrations: add('old.parent') });
    expect(only(findings, 'inherited-columns')).toMatchObject([
      { severity: 'error', object: 'old.parent', message: expect.stringContaining('old.child') as string },
    ]);
    const others = await check({ migrations: add('old.parted') });
    expect(only(others, 'inherited-columns')).toEqual([]);
    expect(only(others, 'partitions')).toMatchObject([
      { severity: 'info', object: expect.stringMatching(/\bold\.parted\b/) as string },
    ]);
  });

  it('refuses to give columns to a table of which others hold rows as values, in whatever type; where there are none yet it warns', async () => {
    await onBlue(`
      CREATE SCHEMA rt;
      CREATE TABLE rt."Order" (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
      CREATE TABLE rt.part PARTITION OF rt."Order" DEFAULT;
      CREATE TYPE rt.kept AS (at date, row rt."Order");
      CREATE DOMAIN rt.one AS rt.kept;
      CREATE TABLE rt.archive (id int PRIMARY KEY, rows rt.one[], n int);
      CREATE TABLE rt.parts (id int PRIMARY KEY, was rt.part) PARTITION BY RANGE (id);
      CREATE TABLE rt.parts_1 PARTITION OF rt.parts DEFAULT;
      CREATE TABLE rt.queue (id int PRIMARY KEY, item rt."Order");
      CREATE TABLE rt.left_out (id int PRIMARY KEY, item rt."Order");
      CREATE TABLE rt.unused (id int PRIMARY KEY, item rt."Order", items rt."Order"[]);
      INSERT INTO rt.archive VALUES (1, ARRAY[(NULL, NULL)::rt.kept]::rt.one[]); INSERT INTO rt.parts VALUES (1, (1, NULL)::rt.part);
      INSERT INTO rt.unused VALUES (1, NULL, '{}'); INSERT INTO rt.left_out VALUES (1, (1, NULL)::rt."Order")`);
    undo.push(() => onBlue('DROP SCHEMA rt CASCADE'));
    const tables = { exclude: ['rt.left_out'] };
    const add = { addColumn: { table: 'rt.Order', column: 'loud', type: 'text', up: 'upper(body)' } };
    const found = only(await check({ tables, migrations: [add] }), 'row-types');
    expect(found.map(({ severity, object }) => [severity, object])).toEqual([
      ['error', 'rt."Order"'],
      ['warning', 'rt."Order"'],
    ]);
    expect(found[0]?.message).toContain('rt.archive.rows, rt.parts.was hold rows of it');
    expect(found[1]?.message).toContain(
      'rt.queue.item, rt.unused.item, rt.unused.items hold rows of it as values, of which there are none now',
    );
    // It has as many as before.
    const fill = { setNotNull: { table: 'rt.Order', column: 'body', up: `''` } };
    expect(only(await check({ tables, migrations: [fill] }), 'row-types')).toEqual([]);
  });

  it.each(['tablesync', 'standby'] as const)(
    'refuses rows that break a constraint which is NOT VALID where the backfill would write them: %s',
    async (method) => {
      await onBlue(`
        CREATE SCHEMA nv;
        CREATE FUNCTION nv.is_even(int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN $1 % 2 = 0; END';
        CREATE TABLE nv.mails (id int PRIMARY KEY, mail text, n int) PARTITION BY RANGE (id);
        CREATE TABLE nv.part PARTITION OF nv.mails DEFAULT;
        CREATE TABLE nv.other (id int PRIMARY KEY, n int);
        INSERT INTO nv.mails VALUES (1, 'a@b', 2), (2, 'none', NULL); INSERT INTO nv.other VALUES (1, -1);
        ALTER TABLE nv.part ADD CONSTRAINT mail_ok CHECK (mail LIKE '%@%') NOT VALID;
        ALTER TABLE nv.part ADD CONSTRAINT positive CHECK (n > 0) NOT VALID;
        ALTER TABLE nv.part ADD CONSTRAINT even CHECK (nv.is_even(n)) NOT VALID;
        ALTER TABLE nv.other ADD CONSTRAINT positive CHECK (n > 0) NOT VALID`);
      undo.push(() => onBlue('DROP SCHEMA nv CASCADE'));
      const add = { addColumn: { table: 'nv.mails', column: 'loud', type: 'text', up: 'upper(mail)' } };
      const found = async (plan: Partial<PlanInput>): Promise<string[]> =>
        only(await check({ migrations: [add], ...plan }), 'not-valid-checks').map(
          ({ severity, object }) => `${severity} ${object}`,
        );
      expect(await found({ bootstrap: { method } })).toEqual(['error nv.part.mail_ok', 'warning nv.part.even']);
      expect(await found({ bootstrap: { method }, migrations: [] })).toEqual([]);
      // Only rows with a NULL in the column are written: there is none, and the one that breaks a constraint.
      const fill = (column: string): NonNullable<PlanInput['migrations']>[number] => ({
        setNotNull: { table: 'nv.mails', column, up: `'0'` },
      });
      expect(await found({ bootstrap: { method }, migrations: [fill('mail')] })).toEqual(['warning nv.part.even']);
      expect(await found({ bootstrap: { method }, migrations: [fill('n')] })).toContain('error nv.part.mail_ok');
      expect(await found({})).toEqual([]);
      await onBlue(`UPDATE nv.mails SET mail = 'c@d' WHERE id = 2; ALTER TABLE nv.part VALIDATE CONSTRAINT mail_ok`);
      expect(await found({ bootstrap: { method } })).toEqual(['warning nv.part.even']);
    },
  );

  it('refuses none that only rows break which the backfill leaves as they are; of those that it may write it warns', async () => {
    await onBlue(`
      CREATE SCHEMA kept;
      CREATE FUNCTION kept.loud(text) RETURNS text LANGUAGE sql AS 'SELECT upper($1)';
      CREATE TABLE kept.mails (id int PRIMARY KEY, mail text, n int);
      CREATE TABLE kept.parted (id int, mail text) PARTITION BY LIST (id);
      CREATE TABLE kept.part PARTITION OF kept.parted DEFAULT;
      INSERT INTO kept.mails VALUES (1, 'a@b', 1), (2, NULL, 2); INSERT INTO kept.parted VALUES (1, NULL);
      ALTER TABLE kept.mails ADD CONSTRAINT has_mail CHECK (mail IS NOT NULL) NOT VALID;
      ALTER TABLE kept.part ADD CONSTRAINT has_mail CHECK (mail IS NOT NULL) NOT VALID`);
    undo.push(() => onBlue('DROP SCHEMA kept CASCADE'));
    const session = await openSession(blue, { purpose: 'test' });
    undo.push(() => closeSession(session));
    const found = async (...migrations: NonNullable<PlanInput['migrations']>): Promise<string[]> => {
      const sides = { blue: { connection: 'test_blue' }, green: { connection: 'test_green' } };
      const plan = planSchema.parse({ version: 1, name: 'kept', ...sides, migrations });
      const of = { side: 'blue', database: blue, session, plan, runId: RUN, version: 15, isSuperuser: true } as const;
      const told = await notValidChecks.run({
        ...of,
        tables: () => readTables(session, plan.tables),
        excluded: () => Promise.resolve([]),
      });
      return told.map(
        ({ severity, object, message }) =>
          `${severity} ${object}${message.includes('does not mend') ? ' of rows that may be written' : ''}`,
      );
    };
    const add = (up: string, more = {}): NonNullable<PlanInput['migrations']>[number] => ({
      addColumn: { table: 'kept.mails', column: 'loud', type: 'text', up, ...more },
    });
    const mayBe = ['warning kept.mails.has_mail of rows that may be written'];
    expect(await found(add('upper(mails.mail)'))).toEqual([]);
    expect(
      await found({ addColumn: { table: 'kept.parted', column: 'loud', type: 'text', up: 'upper(parted.mail)' } }),
    ).toEqual([]);
    expect(await found(add(`coalesce(mail, '')`))).toEqual(['error kept.mails.has_mail']);
    expect(await found(add('upper(mail)', { default: `''` }))).toEqual(mayBe);
    // Functions of users are not run.
    expect(await found(add('kept.loud(mail)'))).toEqual(mayBe);
    expect(await found(add(`(SELECT max(p.mail) FROM kept.parted p) || mail`))).toEqual(mayBe);
    expect(
      await found(add('upper(mail)'), { addColumn: { table: 'kept.mails', column: 'm', type: 'text', up: 'loud' } }),
    ).toEqual(mayBe);
    // It mends the rows itself; others that break the constraint it does not.
    const fill = { setNotNull: { table: 'kept.mails', column: 'mail', up: `''` } };
    expect(await found(fill)).toEqual(mayBe);
    expect(await found(fill, add('n'))).toEqual(mayBe);
    await onBlue(
      `ALTER TABLE kept.mails DROP CONSTRAINT has_mail, ADD CONSTRAINT has_mail CHECK (mail IS NOT NULL AND n > 1) NOT VALID`,
    );
    expect(await found(fill, add('n'))).toEqual(['error kept.mails.has_mail']);
  });

  it('takes a NOT NULL that is NOT VALID for such a constraint, and one that is NOT ENFORCED for none', async () => {
    const later = await testDatabase('pg18', 'preflight not valid');
    undo.push(() => later.drop());
    await withClient(later.config, (client) =>
      client.query(`
        CREATE TABLE notes (id int PRIMARY KEY, body text, CONSTRAINT never CHECK (id < 0) NOT ENFORCED);
        INSERT INTO notes VALUES (1); ALTER TABLE notes ADD CONSTRAINT has_body NOT NULL body NOT VALID`),
    );
    const plan: Partial<PlanInput> = {
      migrations: [{ addColumn: { table: 'notes', column: 'n', type: 'int', up: 'id' } }],
      bootstrap: { method: 'tablesync' },
    };
    expect(only(await check(plan, { blue: asDatabase(later, 'blue') }), 'not-valid-checks')).toMatchObject([
      { severity: 'error', object: 'public.notes.has_body' },
    ]);
  });

  it('refuses rules that fire in every session where the backfill would set them off; others are for the record', async () => {
    await onBlue(`
      CREATE SCHEMA ruled;
      CREATE TABLE ruled.notes (id int PRIMARY KEY, body text);
      CREATE TABLE ruled.log (n int PRIMARY KEY);
      CREATE RULE always AS ON UPDATE TO ruled.notes DO ALSO INSERT INTO ruled.log VALUES (1);
      CREATE RULE ordinary AS ON UPDATE TO ruled.notes DO ALSO INSERT INTO ruled.log VALUES (1);
      CREATE RULE inserted AS ON INSERT TO ruled.notes DO ALSO INSERT INTO ruled.log VALUES (1);
      ALTER TABLE ruled.notes ENABLE ALWAYS RULE always, ENABLE REPLICA RULE inserted`);
    undo.push(() => onBlue('DROP SCHEMA ruled CASCADE'));
    const migrations = [{ addColumn: { table: 'ruled.notes', column: 'loud', type: 'text', up: 'upper(body)' } }];
    const found = async (plan: Partial<PlanInput>): Promise<string[]> =>
      only(await check(plan), 'rules').map(({ severity, object }) => `${severity} ${object}`);
    const all = 'info ruled.notes.always, ruled.notes.inserted, ruled.notes.ordinary';
    for (const method of ['tablesync', 'standby'] as const) {
      const bootstrap = { method };
      expect(await found({ migrations, bootstrap })).toEqual([
        'error ruled.notes.always',
        'info ruled.notes.inserted, ruled.notes.ordinary',
      ]);
      expect(await found({ bootstrap })).toEqual([all]);
    }
    expect(await found({ migrations })).toEqual([all]);
  });

  it('names what is computed by functions that read tables: a CHECK may refuse right rows, a stored column would hold other values', async () => {
    await onBlue(`
      CREATE SCHEMA lk;
      CREATE TABLE lk.currencies (code text PRIMARY KEY, rate numeric);
      CREATE FUNCTION lk.is_currency(text) RETURNS boolean LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM lk.currencies WHERE code = $1)';
      CREATE FUNCTION lk.rate_of(c text) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT rate FROM lk.currencies WHERE code = c); END';
      CREATE FUNCTION lk.parsed(c text) RETURNS boolean LANGUAGE sql BEGIN ATOMIC SELECT count(*) > 0 FROM lk.currencies WHERE code = c; END;
      CREATE FUNCTION lk.of_the_row(c text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT count(*) > 0 FROM unnest(ARRAY[c]) WHERE extract(year FROM date ''2000-01-01'') IS DISTINCT FROM 1';
      CREATE DOMAIN lk.currency AS text CHECK (lk.is_currency(VALUE));
      INSERT INTO lk.currencies VALUES ('EUR', 1);
      CREATE TABLE lk.orders (
        id int PRIMARY KEY, c text, d lk.currency, rate numeric GENERATED ALWAYS AS (lk.rate_of(c)) STORED,
        CONSTRAINT known CHECK (lk.is_currency(c)), CONSTRAINT parsed CHECK (lk.parsed(c)), CONSTRAINT of_row CHECK (lk.of_the_row(c)));
      CREATE INDEX by_rate ON lk.orders (lk.rate_of(c))`);
    undo.push(() => onBlue('DROP SCHEMA lk CASCADE'));
    const found = async (plan: Partial<PlanInput>): Promise<string[]> =>
      only(await check(plan), 'computed-from-tables').map(({ severity, object }) => `${severity} ${object}`);
    const all = [
      'error generated column lk.orders.rate',
      'warning constraint known of lk.orders',
      'warning constraint parsed of lk.orders',
      'warning domain lk.currency of lk.orders.d',
    ];
    for (const method of ['copy', 'tablesync'] as const) expect(await found({ bootstrap: { method } })).toEqual(all);
    expect(await found({ bootstrap: { method: 'standby' } })).toEqual([]);
    await onBlue(`
      ALTER TABLE lk.orders DROP CONSTRAINT known, ADD CONSTRAINT known CHECK (lk.is_currency(c)) NOT VALID, ALTER rate DROP EXPRESSION;
      ALTER DOMAIN lk.currency DROP CONSTRAINT currency_check; ALTER DOMAIN lk.currency ADD CHECK (lk.is_currency(VALUE)) NOT VALID`);
    expect(await found({})).toEqual(['warning constraint parsed of lk.orders']);
  });

  it('computes a view whose source on another server is away, and takes that for no lost connection', async () => {
    await onBlue(`
      CREATE SCHEMA away;
      CREATE FUNCTION away.customers() RETURNS int LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'could not connect to server "erp"' USING ERRCODE = '08001'; END $$;
      CREATE MATERIALIZED VIEW away.seen AS SELECT away.customers() AS n WITH NO DATA`);
    undo.push(() => onBlue('DROP SCHEMA away CASCADE'));
    const findings = await check();
    expect([...only(findings, 'check-failed'), ...only(findings, 'function-search-path')]).toEqual([]);
  });

  it('warns of a foreign key of the plan that lets green refuse a TRUNCATE which blue allows', async () => {
    await onBlue(`
      CREATE SCHEMA keyed;
      CREATE TABLE keyed.states (id int PRIMARY KEY);
      CREATE TABLE keyed.kinds (id int PRIMARY KEY);
      CREATE TABLE keyed.things (id int PRIMARY KEY, state int, kind int REFERENCES keyed.kinds, part_of int);
      CREATE TABLE keyed.others (id int REFERENCES keyed.states)`);
    undo.push(() => onBlue('DROP SCHEMA keyed CASCADE'));
    const key = (column: string, table: string): NonNullable<PlanInput['migrations']>[number] => ({
      addConstraint: {
        ...{ table: 'keyed.things', name: `things_${column}` },
        foreignKey: { columns: [column], references: { table, columns: ['id'] } },
      },
    });
    // A key of another table on blue does not help: TRUNCATE of both leaves the plan's child out.
    const migrations = [key('state', 'keyed.states'), key('kind', 'keyed.kinds'), key('part_of', 'keyed.things')];
    expect(only(await check({ migrations }), 'refused-truncates')).toMatchObject([
      { severity: 'warning', object: 'keyed.states', remedy: expect.stringContaining('DELETE') as string },
    ]);
  });

  it('refuses triggers that fire in every session where the backfill would fire them', async () => {
    await onBlue(`
      CREATE SCHEMA audited;
      CREATE TABLE audited.parts (id int PRIMARY KEY, body text, note text) PARTITION BY RANGE (id);
      CREATE TABLE audited.part PARTITION OF audited.parts DEFAULT;
      CREATE TABLE audited.other (id int PRIMARY KEY, body text);
      CREATE FUNCTION audited.audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
      CREATE TRIGGER any_column AFTER UPDATE ON audited.parts FOR EACH ROW EXECUTE FUNCTION audited.audit();
      CREATE TRIGGER of_body AFTER UPDATE OF body ON audited.parts FOR EACH ROW EXECUTE FUNCTION audited.audit();
      CREATE TRIGGER of_note AFTER UPDATE OF note ON audited.part FOR EACH ROW EXECUTE FUNCTION audited.audit();
      CREATE TRIGGER inserted AFTER INSERT OR DELETE ON audited.parts FOR EACH ROW EXECUTE FUNCTION audited.audit();
      CREATE TRIGGER ordinary AFTER UPDATE ON audited.parts FOR EACH ROW EXECUTE FUNCTION audited.audit();
      CREATE TRIGGER elsewhere AFTER UPDATE ON audited.other FOR EACH ROW EXECUTE FUNCTION audited.audit();
      ALTER TABLE audited.parts ENABLE ALWAYS TRIGGER any_column, ENABLE REPLICA TRIGGER of_body, ENABLE ALWAYS TRIGGER inserted;
      ALTER TABLE audited.part ENABLE REPLICA TRIGGER of_note;
      ALTER TABLE audited.other ENABLE ALWAYS TRIGGER elsewhere`);
    undo.push(() => onBlue('DROP SCHEMA audited CASCADE'));
    const migrations = [
      { addColumn: { table: 'audited.parts', column: 'loud', type: 'text', up: 'upper(body)' } },
      { setNotNull: { table: 'audited.parts', column: 'note', up: `'none'` } },
    ];
    const found = async (plan: Partial<PlanInput>): Promise<string[]> =>
      only(await check(plan), 'replica-triggers').map(({ severity, object }) => `${severity} ${object}`);
    const all = ['audited.other.elsewhere', 'audited.part.of_note', 'audited.parts.any_column'];
    const fires = [all[1], all[2]];
    const named = [...all, 'audited.parts.inserted', 'audited.parts.of_body'];
    for (const method of ['tablesync', 'standby'] as const) {
      expect((await found({ migrations, bootstrap: { method } })).sort()).toEqual(
        named.map((object) => `${fires.includes(object) ? 'error' : 'warning'} ${object}`).sort(),
      );
    }
    const warnings = named.map((object) => `warning ${object}`);
    expect(await found({ migrations })).toEqual(warnings);
    expect(await found({ bootstrap: { method: 'tablesync' } })).toEqual(warnings);
  });

  it('refuses triggers that fire for applied rows where they would write, or make them other rows', async () => {
    const bodies: Readonly<Record<string, string>> = {
      audits: 'INSERT INTO applied.log (what) VALUES (NEW.body); RETURN NULL',
      stamps: 'NEW.at := now(); RETURN NEW',
      stamps_otherwise: 'IF TG_OP <> $$DELETE$$ THEN NEW.at = clock_timestamp(); END IF; RETURN NEW',
      counts: 'NEW.n := NEW.n + 1; RETURN NEW',
      selects: 'SELECT now() INTO NEW.at; RETURN NEW',
      tells: 'PERFORM pg_notify($$a$$, now()::text); RETURN NEW',
      compares: 'IF NEW.n = OLD.n THEN PERFORM pg_notify($$a$$, now()::text); END IF; RETURN NEW',
      normalizes: 'NEW.body := lower(NEW.body); RETURN NEW',
      knows:
        'IF current_setting($$session_replication_role$$) <> $$replica$$ THEN DELETE FROM applied.log; END IF; RETURN NEW',
      of_statements: 'INSERT INTO applied.log (what) VALUES ($$all$$); RETURN NULL',
    };
    const made = Object.entries(bodies).map(([name, body]) => {
      const each = name === 'of_statements' ? 'STATEMENT' : 'ROW';
      return `CREATE FUNCTION applied.${name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN ${body}; END';
        CREATE TRIGGER ${name} ${name === 'audits' ? 'AFTER' : 'BEFORE'} INSERT OR UPDATE ON applied.notes FOR EACH ${each} EXECUTE FUNCTION applied.${name}();
        ALTER TABLE applied.notes ENABLE ${name === 'stamps' ? 'REPLICA' : 'ALWAYS'} TRIGGER ${name};`;
    });
    await onBlue(`CREATE SCHEMA applied; CREATE TABLE applied.log (id serial PRIMARY KEY, what text);
      CREATE TABLE applied.notes (id int PRIMARY KEY, body text, at timestamptz, n int); ${made.join('\n')}`);
    undo.push(() => onBlue('DROP SCHEMA applied CASCADE'));
    for (const method of ['copy', 'tablesync'] as const) {
      const found = only(await check({ bootstrap: { method } }), 'replica-triggers').filter(({ object }) =>
        object?.startsWith('applied.'),
      );
      expect(found.map(({ severity, object }) => `${severity} ${object ?? ''}`).sort()).toEqual([
        ...['audits', 'counts', 'selects', 'stamps', 'stamps_otherwise'].map((name) => `error applied.notes.${name}`),
        ...['compares', 'knows', 'normalizes', 'of_statements', 'tells'].map((name) => `warning applied.notes.${name}`),
      ]);
    }
  });

  it('only warns of triggers that write nothing but tables which the plan leaves out and green has', async () => {
    const bodies: Readonly<Record<string, string>> = {
      audits:
        'INSERT INTO kept.audit (what) VALUES (NEW.body) ON CONFLICT (id) DO UPDATE SET what = NEW.body; RETURN NULL',
      of_any_schema: 'UPDATE ONLY Audit SET what = NEW.body; RETURN NULL',
      comments: '/* TRUNCATE kept.notes */ RETURN NULL -- DELETE FROM kept.notes\n',
      caches: 'DELETE FROM kept.cache; RETURN NULL',
      guards: "IF NEW.id < 0 THEN RAISE EXCEPTION 'cannot delete from %: posted', TG_TABLE_NAME; END IF; RETURN NULL",
      says: "RAISE NOTICE E'it''s so: \\'truncate is not allowed'; RAISE NOTICE $m$delete from x$m$; RETURN NULL",
      remote: "PERFORM dblink_exec('log', 'INSERT INTO log VALUES (1)'); RETURN NULL",
      stamps: 'DELETE FROM kept.cache; NEW.at := now(); RETURN NEW',
      and_moved: 'INSERT INTO kept.audit (what) VALUES (NEW.body); DELETE FROM kept."Moved" m; RETURN NULL',
      dynamic: 'EXECUTE format($$INSERT INTO kept.%I VALUES (1)$$, TG_ARGV[0]); RETURN NULL',
      pieces:
        'INSERT INTO kept.audit (what) VALUES (NEW.body); EXECUTE $$DELETE $$ || $$FROM kept.notes$$; RETURN NULL',
      through_view: 'INSERT INTO kept.seen VALUES (NEW.id); RETURN NULL',
      several: 'TRUNCATE kept.audit, kept."Moved"; RETURN NULL',
      not_there: 'INSERT INTO kept.later VALUES (1); RETURN NULL',
    };
    const made = Object.entries(bodies).map(
      ([name, body]) => `CREATE FUNCTION kept.${name}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN ${body}; END $f$;
        CREATE TRIGGER ${name} ${name === 'stamps' ? 'BEFORE' : 'AFTER'} INSERT ON kept.notes FOR EACH ROW EXECUTE FUNCTION kept.${name}();
        ALTER TABLE kept.notes ENABLE ALWAYS TRIGGER ${name};`,
    );
    await onBlue(`CREATE SCHEMA kept; CREATE TABLE kept.audit (id serial PRIMARY KEY, what text);
      CREATE TABLE kept."Moved" (id int PRIMARY KEY); CREATE UNLOGGED TABLE kept.cache (id int PRIMARY KEY);
      CREATE VIEW kept.seen AS SELECT id FROM kept."Moved";
      CREATE TABLE kept.notes (id int PRIMARY KEY, body text, at timestamptz); ${made.join('\n')}`);
    undo.push(() => onBlue('DROP SCHEMA kept CASCADE'));
    const severities = async (method: 'standby' | 'copy'): Promise<Record<string, string>> => {
      const found = only(
        await check({ bootstrap: { method }, tables: { exclude: ['kept.audit'] } }),
        'replica-triggers',
      ).filter(({ object }) => object?.startsWith('kept.'));
      return Object.fromEntries(found.map(({ severity, object = '' }) => [object.split('.')[2], severity]));
    };
    const errors = Object.fromEntries(
      ['and_moved', 'dynamic', 'not_there', 'pieces', 'remote', 'several', 'stamps', 'through_view'].map((name) => [
        name,
        'error',
      ]),
    );
    const copied = { ...errors, comments: 'warning', caches: 'warning', guards: 'warning', says: 'warning' };
    expect(await severities('standby')).toEqual({ ...copied, audits: 'warning', of_any_schema: 'warning' });
    expect(await severities('copy')).toEqual({ ...copied, audits: 'error', of_any_schema: 'error' });
  });

  it('computes what calls functions of users with an empty search_path, and refuses those that name something without its schema', async () => {
    await onBlue(`
      CREATE SCHEMA fx;
      CREATE FUNCTION fx.base(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper($1)';
      SET search_path = fx, pg_catalog;
      CREATE FUNCTION sql_body(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT base($1)';
      CREATE FUNCTION strict_body(text) RETURNS text IMMUTABLE STRICT LANGUAGE plpgsql AS 'BEGIN RETURN base($1); END';
      CREATE FUNCTION equal_to(text, text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN base($1) = base($2); END';
      CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = equal_to);
      CREATE FUNCTION own_path(text) RETURNS text IMMUTABLE LANGUAGE sql SET search_path = fx AS 'SELECT base($1)';
      CREATE FUNCTION qualified(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT fx.base($1)';
      CREATE FUNCTION slow(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.pg_sleep(60); RETURN base($1); END';
      CREATE FUNCTION refuses(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN IF $1 IS NULL THEN RAISE EXCEPTION $s$no$s$; END IF; RETURN true; END';
      CREATE DOMAIN loud AS text CHECK (sql_body(VALUE) = VALUE);
      CREATE TABLE empty (column1 text, t text, g text GENERATED ALWAYS AS (sql_body(t)) STORED, CHECK (refuses(t)));
      CREATE TABLE "Full" (id int PRIMARY KEY, t text, l loud, CONSTRAINT same CHECK (t === t));
      CREATE INDEX by_sql ON empty (sql_body(t), t);
      CREATE INDEX fine ON "Full" (own_path(t), qualified(t));
      CREATE TABLE parts (id int, t text) PARTITION BY LIST (sql_body(t));
      CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN ('A');
      CREATE INDEX on_parts ON parts (sql_body(t));
      CREATE STATISTICS counted ON sql_body(t), column1 FROM empty;
      INSERT INTO "Full" VALUES (1, NULL, NULL), (2, 'a', 'A');
      CREATE INDEX partial ON "Full" (id) WHERE strict_body(t) = 'A';
      CREATE MATERIALIZED VIEW seen AS SELECT strict_body(t) FROM "Full" WHERE id > 1;
      ALTER TABLE empty ADD CONSTRAINT takes_long CHECK (slow(t) = 'x') NOT VALID`);
    undo.push(() => onBlue('DROP SCHEMA fx CASCADE'));
    const found = only(await check(), 'function-search-path');
    expect(found.map(({ object }) => object)).toEqual([
      'constraint same of fx."Full"',
      'domain fx.loud of fx."Full".l',
      'generated column fx.empty.g',
      'index fx.by_sql',
      'index fx.on_parts',
      'index fx.partial',
      'materialized view fx.seen',
      'partition key of fx.parts',
      'statistics counted of fx.empty',
    ]);
    expect(found.find(({ object }) => object === 'index fx.partial')).toMatchObject({
      severity: 'error',
      message: expect.stringContaining('function base(text) does not exist') as string,
      remedy: expect.stringContaining(
        'ALTER FUNCTION fx.strict_body(text) SET search_path = pg_catalog, fx, public, pg_temp',
      ) as string,
    });
    for (const signature of ['sql_body(text)', 'strict_body(text)', 'equal_to(text, text)']) {
      await onBlue(`ALTER FUNCTION fx.${signature} SET search_path = pg_catalog, fx, public, pg_temp`);
    }
    expect(only(await check(), 'function-search-path')).toEqual([]);
  });

  it('computes functions of other roles with the rights of the owner of the table, never with those of a superuser', async () => {
    const role = `writer_${TAG}`;
    await onBlue(`
      CREATE ROLE ${role};
      CREATE SCHEMA fz;
      CREATE FUNCTION fz.hijacks(text) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
          BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN NULL; END;
          IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN PERFORM ran_as_superuser(); END IF;
          RETURN true;
        END $$;
      CREATE FUNCTION fz.forgets(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN base($1); END $$;
      GRANT USAGE ON SCHEMA fz TO ${role};
      CREATE TABLE fz.theirs (id int PRIMARY KEY, t text, CONSTRAINT hijacks CHECK (fz.hijacks(t)), CONSTRAINT forgets CHECK (fz.forgets(t) <> ''));
      CREATE TABLE fz.ours (id int PRIMARY KEY, t text, CONSTRAINT hijacks CHECK (fz.hijacks(t)));
      ALTER FUNCTION fz.hijacks(text) OWNER TO ${role};
      ALTER TABLE fz.theirs OWNER TO ${role}`);
    undo.push(() => onBlue(`DROP SCHEMA fz CASCADE; DROP ROLE ${role}`));
    // An event trigger that notes DDL, and finds its table by the path of the session.
    await onBlue(`
      CREATE TABLE public.ddl_log (tag text, PRIMARY KEY (tag));
      CREATE FUNCTION public.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO ddl_log VALUES (tg_tag); END $$;
      CREATE EVENT TRIGGER log_ddl_fz ON ddl_command_end EXECUTE FUNCTION public.log_ddl()`);
    undo.push(() => onBlue('DROP EVENT TRIGGER log_ddl_fz; DROP FUNCTION public.log_ddl(); DROP TABLE public.ddl_log'));
    const before = await contents(blueDb);
    expect(only(await check(), 'function-search-path')).toMatchObject([
      { severity: 'error', object: 'constraint forgets of fz.theirs' },
      { severity: 'info', object: 'constraint hijacks of fz.ours' },
    ]);
    expect(await contents(blueDb)).toEqual(before);
  });

  it('warns of schemas in which others may make what expressions of the plan would find', async () => {
    const role = `maker_${TAG}`;
    const plan = {
      migrations: [{ addColumn: { table: 'orders', column: 'doubled', type: 'numeric', up: 'total * 2' } }],
    };
    expect(only(await check(plan), 'open-schemas').filter(({ side }) => side === 'green')).toEqual([]);
    await onBlue(`CREATE ROLE ${role}; CREATE ROLE ${role}_too; ALTER TABLE public.orders OWNER TO ${role};
      REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT CREATE ON SCHEMA public TO ${role}`);
    undo.push(() =>
      onBlue(`ALTER TABLE public.orders OWNER TO CURRENT_USER; REVOKE ALL ON SCHEMA public FROM ${role}, ${role}_too, PUBLIC;
              GRANT USAGE ON SCHEMA public TO PUBLIC; DROP ROLE ${role}, ${role}_too`),
    );
    expect(only(await check(plan), 'open-schemas')).toEqual([]);
    await onBlue(`GRANT CREATE ON SCHEMA public TO ${role}_too, PUBLIC`);
    expect(only(await check(), 'open-schemas')).toEqual([]);
    expect(only(await check(plan), 'open-schemas')).toMatchObject([
      {
        ...{ severity: 'warning', side: 'blue', object: `public: everybody, ${role}_too` },
        remedy: expect.stringContaining(`REVOKE CREATE ON SCHEMA "public" FROM PUBLIC, "${role}_too"`) as string,
      },
    ]);
  });

  it('tells a setting that only the application makes from a name without its schema', async () => {
    await onBlue(`
      CREATE SCHEMA fy;
      CREATE FUNCTION fy.tenant() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN current_setting('app.tenant'); END $$;
      CREATE TABLE fy.t (id int PRIMARY KEY, name text, CONSTRAINT own CHECK (name = fy.tenant()))`);
    undo.push(() => onBlue('DROP SCHEMA fy CASCADE'));
    expect(only(await check(), 'function-search-path')).toMatchObject([
      {
        severity: 'error',
        object: 'constraint own of fy.t',
        remedy: expect.stringMatching(/^ALTER DATABASE /) as string,
      },
    ]);
    await withClient(blueDb.config, async (client) => {
      const error: unknown = await client.query('SELECT fy.tenant()').catch((thrown: unknown) => thrown);
      expect(isNameInFunction(error)).toBe(true);
      expect(mendFunction(error)).toContain('ALTER DATABASE');
      expect(schemaCopyFailed('CREATE INDEX i ON fy.t (name)', error).nextStep).toContain('ALTER DATABASE');
    });
  });

  it('reports all findings at once, each with its object and a remedy', async () => {
    const role = `preflight_role_${TAG}`;
    await onBlue(`
      CREATE SCHEMA bad;
      CREATE TABLE bad.keyless (a int);
      CREATE TABLE bad.deferred (a int PRIMARY KEY DEFERRABLE);
      CREATE TABLE bad.no_identity (a int PRIMARY KEY);
      ALTER TABLE bad.no_identity REPLICA IDENTITY NOTHING;
      CREATE TABLE bad.index_gone (a int NOT NULL);
      CREATE UNIQUE INDEX index_gone_a ON bad.index_gone (a);
      ALTER TABLE bad.index_gone REPLICA IDENTITY USING INDEX index_gone_a;
      DROP INDEX bad.index_gone_a;
      CREATE TABLE bad.generated_key (a text, b text GENERATED ALWAYS AS (lower(a)) STORED PRIMARY KEY);
      CREATE TABLE bad.generated_index (a text PRIMARY KEY, b text NOT NULL GENERATED ALWAYS AS (lower(a)) STORED);
      CREATE UNIQUE INDEX generated_index_b ON bad.generated_index (a, b);
      ALTER TABLE bad.generated_index REPLICA IDENTITY USING INDEX generated_index_b;
      CREATE TABLE bad.generated_beside (a text PRIMARY KEY, b text GENERATED ALWAYS AS (lower(a)) STORED UNIQUE);
      CREATE TABLE bad.parts (a int PRIMARY KEY) PARTITION BY RANGE (a);
      CREATE UNLOGGED TABLE bad.part_1 PARTITION OF bad.parts FOR VALUES FROM (1) TO (2);
      CREATE UNLOGGED TABLE bad.cache (a int PRIMARY KEY);
      CREATE MATERIALIZED VIEW bad.summary AS SELECT count(*) FROM public.orders;
      CREATE TABLE bad.left_out (a int PRIMARY KEY);
      CREATE VIEW bad.over_left_out AS SELECT a FROM bad.left_out;
      CREATE TABLE bad.refers (a int PRIMARY KEY REFERENCES bad.left_out);
      CREATE SEQUENCE bad.nearly_over MAXVALUE 1000 START 995;
      CREATE FUNCTION bad.swallows() RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN DELETE FROM public.orders; EXCEPTION WHEN unique_violation OR others THEN NULL; END $$;
      CREATE FUNCTION bad.swallows_nothing() RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN DELETE FROM public.orders; EXCEPTION WHEN unique_violation THEN NULL; END $$;
      CREATE FUNCTION bad.fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
      CREATE TRIGGER fires AFTER INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION bad.fires();
      ALTER TABLE public.orders ENABLE ALWAYS TRIGGER fires;
      CREATE ROLE ${role};
      GRANT SELECT ON public.orders TO ${role};
      SELECT lo_create(0);
      CREATE PUBLICATION somebody_elses FOR TABLE public.orders;
      CREATE SUBSCRIPTION other_feed_${TAG} CONNECTION 'dbname=nowhere' PUBLICATION x WITH (connect = false, slot_name = NONE);`);
    undo.push(() =>
      onBlue(`DROP SUBSCRIPTION other_feed_${TAG}; DROP PUBLICATION somebody_elses; DROP TRIGGER fires ON public.orders; DROP SCHEMA bad CASCADE;
              DROP OWNED BY ${role}; DROP ROLE ${role}; SELECT lo_unlink(oid) FROM pg_largeobject_metadata`),
    );
    await onBlue('CREATE TABLE bad.twice AS SELECT 1 AS a FROM generate_series(1, 2)');
    await expect(onBlue('CREATE UNIQUE INDEX CONCURRENTLY left_over ON bad.twice (a)')).rejects.toThrow('unique');
    await onBlue(`SELECT pg_create_logical_replication_slot('cdc_${TAG}', 'pgoutput')`);
    undo.push(() => onBlue(`SELECT pg_drop_replication_slot('cdc_${TAG}')`));
    await withClient(blueDb.config, async (client) => {
      await client.query('BEGIN; INSERT INTO public.orders VALUES (77)');
      await client.query(`PREPARE TRANSACTION 'in_doubt_${TAG}'`);
    });
    undo.push(() => onBlue(`ROLLBACK PREPARED 'in_doubt_${TAG}'`));

    const findings = await check({ tables: { include: ['*.*', 'public.oders'], exclude: ['bad.left_out'] } });
    const objects = (name: string): string[] => only(findings, name).map(({ object }) => object);
    expect(objects('replica-identity')).toEqual([
      'bad.deferred',
      'bad.generated_index',
      'bad.generated_key',
      'bad.index_gone',
      'bad.keyless',
      'bad.no_identity',
      'bad.twice',
    ]);
    expect(only(findings, 'unmoved-rows').map(({ severity, object }) => `${severity} ${object}`)).toEqual([
      'error bad.part_1',
      'warning bad.cache',
      'info bad.summary',
    ]);
    expect(only(findings, 'invalid-indexes').map(({ severity, object }) => `${severity} ${object}`)).toEqual([
      'warning bad.left_over',
    ]);
    expect(objects('torn-apart')).toEqual(['bad.refers.refers_a_fkey', 'bad.over_left_out']);
    expect(objects('table-patterns')).toEqual(['public.oders']);
    expect(objects('large-objects')).toEqual(['pg_largeobject']);
    expect(objects('sequence-room')).toEqual(['bad.nearly_over']);
    expect(objects('swallowed-errors')).toEqual(['bad.swallows()']);
    expect(objects('replica-triggers')).toEqual(['public.orders.fires']);
    expect(objects('roles')).toEqual([role]);
    expect(objects('prepared-transactions')).toContain(`in_doubt_${TAG}`);
    expect(objects('other-subscriptions')).toEqual([`other_feed_${TAG}`]);
    expect(objects('other-consumers')).toEqual([`cdc_${TAG}`, 'somebody_elses']);
    for (const { remedy, message } of findings) {
      expect(remedy.length).toBeGreaterThan(3);
      expect(message.length).toBeGreaterThan(10);
    }
    expect(findings.map(({ severity }) => severity)).toEqual(
      [...findings.map(({ severity }) => severity)].sort(
        (a, b) => 'ewi'.indexOf(a.charAt(0)) - 'ewi'.indexOf(b.charAt(0)),
      ),
    );
  });

  it('REPLICA IDENTITY FULL is refused only where the way back could not publish all columns, and says what other consumers lose', async () => {
    await onBlue(`
      CREATE SCHEMA whole;
      CREATE TABLE whole.as_it_is (id int PRIMARY KEY, a text);
      CREATE TABLE whole.widened (id int PRIMARY KEY, a text);
      CREATE TABLE whole.filled (id int PRIMARY KEY, a text);
      CREATE TABLE whole.by_hand (id int PRIMARY KEY, a text);
      CREATE TABLE whole.renamed (id int PRIMARY KEY, a text);
      CREATE TABLE whole.parts (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
      CREATE TABLE whole.part_1 PARTITION OF whole.parts FOR VALUES FROM (1) TO (9);
      CREATE TABLE whole.generated (id int PRIMARY KEY, a text, b text GENERATED ALWAYS AS (lower(a)) STORED);
      CREATE TABLE whole.keyless (id int);
      CREATE TABLE whole.ordinary (id int PRIMARY KEY, a text)`);
    undo.push(() => onBlue('DROP SCHEMA whole CASCADE'));
    const full = ['as_it_is', 'widened', 'filled', 'by_hand', 'renamed', 'part_1', 'generated', 'keyless'];
    for (const name of full) await onBlue(`ALTER TABLE whole.${name} REPLICA IDENTITY FULL`);
    const added = (table: string) => ({ addColumn: { table: `whole.${table}`, column: 'more', type: 'int' } });
    const found = only(
      await check({
        migrations: [
          ...['widened', 'parts', 'ordinary'].map(added),
          { setNotNull: { table: 'whole.filled', column: 'a', up: `''` } },
          {
            sql: {
              name: 'by hand',
              up: 'ALTER TABLE whole.by_hand ADD COLUMN c int; ALTER TABLE whole.renamed RENAME COLUMN a TO d',
              down: 'ALTER TABLE whole.by_hand DROP COLUMN c; ALTER TABLE whole.renamed RENAME COLUMN d TO a',
            },
          },
        ],
      }),
      'replica-identity',
    );
    const why = (name: string): string => found.find(({ object }) => object === `whole.${name}`)?.message ?? 'nothing';
    expect(found.map(({ object }) => object)).toEqual(
      ['by_hand', 'generated', 'keyless', 'part_1', 'renamed', 'widened'].map((name) => `whole.${name}`),
    );
    for (const name of ['by_hand', 'part_1', 'renamed', 'widened']) expect(why(name)).toContain('gives it columns');
    expect(why('generated')).toContain('generated columns (b)');
    expect(why('keyless')).toContain('no primary key');
    expect(found.find(({ object }) => object === 'whole.widened')?.remedy).toMatch(
      /REPLICA IDENTITY DEFAULT on blue.*other-consumers.*gets none from then on/,
    );
    expect(only(await check(), 'replica-identity').map(({ object }) => object)).toEqual([
      'whole.generated',
      'whole.keyless',
    ]);
  });

  it('a partitioned table without a key is one finding, and its partitions are told for what is their own', async () => {
    await onBlue(`
      CREATE SCHEMA daily;
      CREATE TABLE daily.log (day int, a int) PARTITION BY RANGE (day);
      CREATE TABLE daily.later PARTITION OF daily.log FOR VALUES FROM (1000) TO (2000) PARTITION BY RANGE (day);
      CREATE TABLE daily.leaf PARTITION OF daily.later FOR VALUES FROM (1000) TO (1500);
      DO $$ BEGIN
        FOR i IN 1..400 LOOP
          EXECUTE format('CREATE TABLE daily.log_%s PARTITION OF daily.log FOR VALUES FROM (%s) TO (%s)', i, i, i + 1);
        END LOOP;
      END $$;
      ALTER TABLE daily.log_7 REPLICA IDENTITY NOTHING;
      CREATE TABLE daily.keyed (day int PRIMARY KEY) PARTITION BY RANGE (day);
      CREATE TABLE daily.keyed_1 PARTITION OF daily.keyed FOR VALUES FROM (1) TO (9);
      ALTER TABLE daily.keyed_1 REPLICA IDENTITY NOTHING`);
    undo.push(() => onBlue('DROP SCHEMA daily CASCADE'));
    const found = only(await check(), 'replica-identity');
    expect(found.map(({ object }) => object)).toEqual(['daily.keyed_1', 'daily.log', 'daily.log_7']);
    const [, log, own] = found;
    expect(log?.remedy).toContain('"daily"."log" ADD PRIMARY KEY (..., with all columns that it is partitioned by)');
    expect(own?.remedy).toContain('put "daily.log" into "tables.exclude"');
  });

  it('of a run tells the first findings of a check and names the others: Temporal takes no failure of all', async () => {
    await onBlue(`
      CREATE SCHEMA logs;
      DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('CREATE TABLE logs.log_%s (a int)', i); END LOOP; END $$`);
    undo.push(() => onBlue('DROP SCHEMA logs CASCADE'));
    expect(only(await check(), 'replica-identity')).toHaveLength(300);
    const plan = planSchema.parse({ name: 'told', blue: { connection: 'b' }, green: { connection: 'g' } });
    const environment = { VERDIGRIS_CONNECTION_B: blueDb.uri, VERDIGRIS_CONNECTION_G: greenDb.uri };
    const { preflight: activity } = preflightActivities({ environment, redact: (text) => text });
    const failed: unknown = await new MockActivityEnvironment()
      .run(() => activity({ plan, runId: RUN }))
      .catch((error: unknown) => error);
    expect(failed).toMatchObject({
      type: 'PreflightFailed',
      message: expect.stringMatching(/logs\.log_\d+ and 272 more/) as string,
    });
    expect(JSON.stringify(failed).length).toBeLessThan(40_000);
  });

  it('names physical replicas of blue, which nobody writes after the retirement', async () => {
    const slot = `replica_${TAG}`;
    await onBlue(`SELECT pg_create_physical_replication_slot('${slot}')`);
    undo.push(() => onBlue(`SELECT pg_drop_replication_slot('${slot}')`));
    expect(only(await check(), 'replicas').filter(({ object }) => object === slot)).toEqual([
      expect.objectContaining({
        severity: 'warning',
        side: 'blue',
        message: expect.stringContaining(`the physical slot "${slot}" (not connected) reads blue's WAL`) as string,
        remedy: expect.stringContaining('before `retire`') as string,
      }),
    ]);
  });

  it('says of a consumer of blue when to hand it over', async () => {
    const slot = `cdc_late_${TAG}`;
    await onBlue(`SELECT pg_create_logical_replication_slot('${slot}', 'pgoutput')`);
    undo.push(() => onBlue(`SELECT pg_drop_replication_slot('${slot}')`));
    const [finding] = only(await check(), 'other-consumers').filter(({ object }) => object === slot);
    expect(finding?.remedy).toMatch(
      /Before `retire`: publication and slot on green.*No slot on green before writes move/,
    );
  });

  it('warns of a table that was added to an extension, which green would not have', async () => {
    await onBlue('CREATE EXTENSION hstore');
    undo.push(() => onBlue('DROP EXTENSION hstore CASCADE; DROP TABLE IF EXISTS public.jobs'));
    await onBlue('CREATE TABLE public.jobs (id int PRIMARY KEY); ALTER EXTENSION hstore ADD TABLE public.jobs');
    const found = async (plan: Partial<PlanInput> = {}): Promise<PreflightFinding[]> =>
      only(await check(plan), 'unmoved-rows');
    const [added, ...others] = await found();
    expect(others).toEqual([]);
    expect(added).toMatchObject({ severity: 'warning', object: 'public.jobs' });
    expect(await found({ tables: { exclude: ['public.jobs'] } })).toEqual([]);
    await onBlue((added?.remedy ?? '').split(' on blue')[0] ?? '');
    expect(await found()).toEqual([]);
  });

  it('names what the dump leaves out: security labels by provider, tablespaces with what is in them', async () => {
    const space = `space_${TAG}`;
    await withClient(blueDb.config, async (client) => {
      await client.query('SET allow_in_place_tablespaces = on; SET allow_system_table_mods = on');
      await client.query(`CREATE TABLESPACE ${space} LOCATION ''`);
      await client.query(`CREATE TABLE public.apart (id int PRIMARY KEY) TABLESPACE ${space}`);
      await client.query(
        `INSERT INTO pg_seclabel VALUES ('public.apart'::regclass, 'pg_class'::regclass, 0, 'anon', 'MASKED'),
                                        ('public.apart'::regclass, 'pg_class'::regclass, 1, 'anon', 'MASKED')`,
      );
    });
    undo.push(
      () => onBlue(`DROP TABLESPACE ${space}`),
      () => onBlue(`SET allow_system_table_mods = on; DELETE FROM pg_seclabel; DROP TABLE public.apart`),
    );
    const findings = await check();
    expect(only(findings, 'security-labels')).toEqual([
      expect.objectContaining({
        severity: 'warning',
        object: 'anon',
        message: expect.stringContaining('blue has 2 security labels of anon') as string,
      }),
    ]);
    expect(only(findings, 'tablespaces')).toEqual([
      expect.objectContaining({
        severity: 'info',
        object: space,
        message: expect.stringMatching(/^1 tables and indexes .*: (public\.)?apart\)/) as string,
      }),
    ]);
    expect(only(await check({ bootstrap: { method: 'standby' } }), 'security-labels')).toEqual([]);
  });

  it('refuses to move a table without the rows of those that inherit from it; empty ones are a warning', async () => {
    await onBlue(`
      CREATE SCHEMA heirs;
      CREATE TABLE heirs.event (id int PRIMARY KEY);
      CREATE TABLE heirs.event_1 (PRIMARY KEY (id)) INHERITS (heirs.event);
      CREATE TABLE heirs.event_1_a (PRIMARY KEY (id)) INHERITS (heirs.event_1);
      CREATE TABLE heirs.event_2 (PRIMARY KEY (id)) INHERITS (heirs.event);
      INSERT INTO heirs.event_1_a VALUES (1)`);
    undo.push(() => onBlue('DROP SCHEMA heirs CASCADE'));
    const torn = async (exclude: string[]): Promise<string[]> =>
      only(await check({ tables: { include: ['*.*'], exclude } }), 'torn-apart').map(
        ({ severity, object, message }) => `${severity} ${object}: ${message}`,
      );
    expect(await torn(['heirs.event_*'])).toEqual([
      expect.stringMatching(/^error heirs\.event: .* without heirs\.event_1_a, which inherit/),
      expect.stringMatching(/^warning heirs\.event: .* without heirs\.event_1, heirs\.event_2, .* empty now/),
    ]);
    await onBlue('ALTER TABLE heirs.event_1_a SET UNLOGGED');
    expect(await torn(['heirs.event_*'])).toContainEqual(
      expect.stringMatching(/^error heirs\.event: .* without heirs\.event_1_a, which inherit/),
    );
    await onBlue('TRUNCATE heirs.event_1_a; ALTER TABLE heirs.event_1_a SET LOGGED');
    expect(await torn(['heirs.event_*'])).toEqual([expect.stringMatching(/^warning heirs\.event: /)]);
    expect(await torn([])).toEqual([]);
    expect(await torn(['heirs.*'])).toEqual([]);
  });

  it('warns of stored settings that green lacks or has otherwise, without their values', async () => {
    const role = `app_${TAG}`;
    for (const [on, path] of [
      [onBlue, 'app, public'],
      [onGreen, 'public'],
    ] as const) {
      await on(
        `CREATE ROLE ${role}; ALTER ROLE ${role} SET search_path = ${path}; ALTER ROLE ${role} SET work_mem = '8MB'`,
      );
      undo.push(() => on(`DROP ROLE ${role}`));
    }
    await onBlue(`ALTER ROLE ${role} SET statement_timeout = '7s'`);
    const found = only(await check(), 'stored-settings').map(({ object, message }) => `${object}: ${message}`);
    expect(found).toContainEqual(
      expect.stringMatching(new RegExp(`role ${role}: statement_timeout.* are not on green`)),
    );
    expect(found).toContainEqual(
      expect.stringMatching(new RegExp(`role ${role}: search_path.* have other values on green`)),
    );
    expect(found.join()).not.toMatch(/work_mem|7s/);
  });

  it('warns of columns whose values mean something on one server only', async () => {
    await onBlue(`
      CREATE SCHEMA outbox;
      CREATE DOMAIN outbox.place AS pg_lsn;
      CREATE TABLE outbox.event (id int PRIMARY KEY, at xid8, places outbox.place[], relation oid, named regclass,
        tx bigint DEFAULT (pg_current_xact_id()::text::bigint), made timestamptz DEFAULT now())`);
    undo.push(() => onBlue('DROP SCHEMA outbox CASCADE'));
    expect(only(await check({ tables: { include: ['outbox.*'] } }), 'server-values')).toEqual([
      expect.objectContaining({
        severity: 'warning',
        object: 'outbox.event.at, outbox.event.places, outbox.event.relation, outbox.event.tx',
      }),
    ]);
    const standby = await check({ tables: { include: ['outbox.*'] }, bootstrap: { method: 'standby' } });
    expect(only(standby, 'server-values')).toEqual([]);
  });

  it('refuses a default that takes values of a sequence of a table which the plan leaves out', async () => {
    await onBlue(`
      CREATE SCHEMA serial;
      CREATE TABLE serial.old (id serial PRIMARY KEY);
      CREATE TABLE serial.new (id int PRIMARY KEY DEFAULT nextval('serial.old_id_seq'))`);
    undo.push(() => onBlue('DROP SCHEMA serial CASCADE'));
    const torn = async (exclude: string[]): Promise<PreflightFinding[]> =>
      only(await check({ tables: { include: ['*.*'], exclude } }), 'torn-apart');
    expect(await torn(['serial.old'])).toEqual([
      expect.objectContaining({
        severity: 'error',
        object: 'serial.new.id (serial.old_id_seq)',
        remedy: 'Include serial.old in "tables", or ALTER SEQUENCE ... OWNED BY NONE on blue: it goes along then',
      }),
    ]);
    expect(await torn([])).toEqual([]);
    expect(await torn(['serial.*'])).toEqual([]);
    await onBlue('ALTER SEQUENCE serial.old_id_seq OWNED BY NONE');
    expect(await torn(['serial.old'])).toEqual([]);
  });

  it('refuses policies and rules that need a table which the plan leaves out; a standby brings it along', async () => {
    await onBlue(`
      CREATE SCHEMA tenancy;
      CREATE TABLE tenancy.members (id int PRIMARY KEY, name text);
      CREATE TABLE public.docs (id int PRIMARY KEY);
      CREATE POLICY "of members" ON public.docs
        USING (EXISTS (SELECT FROM tenancy.members m WHERE m.id = docs.id AND m.name = current_user));
      CREATE POLICY own ON public.docs USING (id = 1);
      CREATE RULE noted AS ON DELETE TO public.docs DO ALSO INSERT INTO tenancy.members VALUES (old.id)`);
    undo.push(() => onBlue('DROP TABLE public.docs; DROP SCHEMA tenancy CASCADE'));
    const tables = { include: ['public.*'], exclude: [] };
    const torn = async (plan: Partial<PlanInput>): Promise<string[]> =>
      only(await check({ tables, ...plan }), 'torn-apart').map(({ severity, message }) => `${severity}: ${message}`);
    expect(await torn({})).toEqual([
      expect.stringMatching(
        /^error: the policy "of members" on (public\.)?docs needs tenancy\.members, .* can't be made/,
      ),
      expect.stringMatching(/^error: the rule noted on (public\.)?docs needs tenancy\.members, .* can't be made/),
    ]);
    expect(await torn({ bootstrap: { method: 'standby' } })).toEqual([
      expect.stringMatching(/^warning: the policy "of members" .* stays as it is when green is promoted/),
      expect.stringMatching(/^warning: the rule noted .* stays as it is when green is promoted/),
    ]);
    expect(await torn({ tables: { include: ['*.*'], exclude: [] } })).toEqual([]);
  });

  it('refuses hypertables, as the catalog of TimescaleDB names them', async () => {
    await onBlue(`
      CREATE SCHEMA _timescaledb_catalog; CREATE SCHEMA _timescaledb_internal;
      CREATE TABLE _timescaledb_catalog.hypertable (id int PRIMARY KEY, schema_name name, table_name name);
      CREATE SCHEMA metric;
      CREATE TABLE metric."Cpu" (at timestamptz PRIMARY KEY);
      CREATE TABLE metric.host (id int PRIMARY KEY);
      CREATE TABLE _timescaledb_internal._hyper_1_1_chunk (PRIMARY KEY (at)) INHERITS (metric."Cpu");
      INSERT INTO _timescaledb_catalog.hypertable VALUES (1, 'metric', 'Cpu'), (2, 'metric', 'gone')`);
    undo.push(() => onBlue('DROP SCHEMA metric, _timescaledb_catalog, _timescaledb_internal CASCADE'));
    const found = async (exclude: string[]): Promise<string[]> =>
      only(await check({ tables: { include: ['*.*'], exclude } }), 'hypertables').map(
        ({ severity, object }) => `${severity} ${object}`,
      );
    expect(await found([])).toEqual(['error metric."Cpu"']);
    expect(await found(['metric."Cpu"', '_timescaledb_internal.*'])).toEqual([]);
  });

  it('refuses event triggers that write rows where they would fire for DDL of a run', async () => {
    await onBlue(`
      CREATE TABLE public.ddl_log (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tag text);
      CREATE FUNCTION public.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS
        'BEGIN INSERT  INTO public.ddl_log (tag) VALUES (TG_TAG); END';
      CREATE FUNCTION public.tell_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN NOTIFY ddl; END';
      CREATE EVENT TRIGGER log_ddl ON ddl_command_end EXECUTE FUNCTION public.log_ddl();
      CREATE EVENT TRIGGER tell_ddl ON ddl_command_end EXECUTE FUNCTION public.tell_ddl();
      ALTER EVENT TRIGGER tell_ddl ENABLE ALWAYS`);
    undo.push(() =>
      onBlue(`DROP EVENT TRIGGER log_ddl; DROP EVENT TRIGGER tell_ddl;
              DROP TABLE public.ddl_log; DROP FUNCTION public.log_ddl(), public.tell_ddl()`),
    );
    const found = async (plan: Partial<PlanInput> = {}, databases = {}): Promise<string[]> =>
      only(await check(plan, databases), 'writing-event-triggers').map(
        ({ severity, side, object, remedy }) => `${severity} ${side} ${object}: ${remedy.split(';')[0] ?? ''}`,
      );
    const migrations: PlanInput['migrations'] = [{ sql: { name: 'more', up: 'SELECT 1', down: 'SELECT 1' } }];
    expect(await found({ migrations })).toEqual([]);

    const user = `preflight_event_${TAG}`;
    for (const run of [onBlue, onGreen]) await run(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'`);
    undo.push(
      () => onBlue(`DROP OWNED BY ${user}; DROP ROLE ${user}`),
      () => onGreen(`DROP OWNED BY ${user}; DROP ROLE ${user}`),
    );
    const as = { ...green, config: { ...green.config, user, password: 'secret-of-user' } };
    const grant = (parameter: string): string =>
      `error green log_ddl: As a superuser: GRANT SET ON PARAMETER ${parameter} TO "${user}"`;
    expect(await found({ migrations }, { green: as })).toEqual([grant('session_replication_role')]);
    await onGreen(`GRANT SET ON PARAMETER session_replication_role TO ${user}`);
    expect(await found({}, { green: as })).toEqual([]);
    expect(await found({ migrations }, { green: as })).toEqual([grant('event_triggers')]);

    await onBlue('ALTER EVENT TRIGGER log_ddl ENABLE ALWAYS');
    expect(await found()).toEqual([expect.stringMatching(/^error blue log_ddl: ALTER EVENT TRIGGER/)]);
  });

  it('a plan that does not fit blue is refused with the place in the plan', async () => {
    const findings = await check({
      migrations: [{ addColumn: { table: 'orders', column: 'total', type: 'integer' } }],
    });
    expect(
      only(findings, 'plan').some(({ severity, object }) => severity === 'error' && object.startsWith('migrations[0]')),
    ).toBe(true);
  });
});

describe('verdigris preflight', () => {
  it('says at its end what of the plan only the worker looks at', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'preflight-'));
    undo.push(() => rm(folder, { recursive: true }));
    vi.stubEnv('VERDIGRIS_CONNECTION_TEST_BLUE', blueDb.uri);
    vi.stubEnv('VERDIGRIS_CONNECTION_TEST_GREEN', greenDb.uri);
    undo.push(() => Promise.resolve(vi.unstubAllEnvs()));
    const said = async (plan: Partial<PlanInput>, ...more: string[]): Promise<string> => {
      const file = join(folder, 'plan.json');
      const sides = { blue: { connection: 'test_blue' }, green: { connection: 'test_green' } };
      await writeFile(file, JSON.stringify({ name: 'preflight', ...sides, ...plan }));
      const out: string[] = [];
      const terminal = { out: (text: string) => out.push(text), note: (text: string) => out.push(text) };
      expect(await verdigris(['preflight', file, ...more], terminal)).toBe(0);
      return out.join('\n');
    };
    expect(await said({})).not.toContain('not looked at');
    const traffic = { flagd: { path: '/etc/flagd/flags.json' }, webhooks: [{ connection: 'dns' }] };
    const plan = { traffic, notify: [{ connection: 'chat' }] };
    expect(await said(plan)).toMatch(
      /a run could begin.*\nnot looked at here, .*: flagd's file \/etc\/flagd\/flags\.json, webhook dns, notifications to chat$/,
    );
    const { notLookedAt } = JSON.parse(await said(plan, '--json')) as { notLookedAt: unknown };
    expect(notLookedAt).toHaveLength(3);
  });
});

describe('green', () => {
  it('must be empty: what is there is listed', async () => {
    await onGreen('CREATE SCHEMA theirs; CREATE TABLE theirs."Old Orders" (id int)');
    undo.push(() => onGreen('DROP SCHEMA theirs CASCADE'));
    const [finding] = only(await check(), 'green-empty');
    expect(finding).toMatchObject({ severity: 'error', side: 'green', object: 'table theirs."Old Orders"' });
  });

  it('may have functions that blue has not: the template of a managed service', async () => {
    await onGreen('CREATE SCHEMA tools; CREATE FUNCTION tools.f() RETURNS int LANGUAGE sql RETURN 1');
    undo.push(() => onGreen('DROP SCHEMA tools CASCADE'));
    expect(only(await check(), 'green-empty')).toEqual([]);
    await onBlue('CREATE SCHEMA tools; CREATE FUNCTION tools.f() RETURNS int LANGUAGE sql RETURN 1');
    undo.push(() => onBlue('DROP SCHEMA tools CASCADE'));
    expect(only(await check(), 'green-empty')).toMatchObject([{ object: 'function tools.f()' }]);
  });

  it('must let its user make the event triggers of blue, enabled or not', async () => {
    await onBlue(`
      CREATE FUNCTION public.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RETURN; END';
      CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION public.watch(); ALTER EVENT TRIGGER watch DISABLE`);
    undo.push(() => onBlue('DROP FUNCTION public.watch() CASCADE'));
    const user = `preflight_watch_${TAG}`;
    await onGreen(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'`);
    undo.push(() => onGreen(`DROP OWNED BY ${user}; DROP ROLE ${user}`));
    const as = { ...green, config: { ...green.config, user, password: 'secret-of-user' } };
    const found = async (): Promise<PreflightFinding[]> => only(await check({}, { green: as }), 'event-trigger-rights');
    expect(await found()).toMatchObject([{ severity: 'error', side: 'green', object: 'watch' }]);
    expect(only(await check(), 'event-trigger-rights')).toEqual([]);
    // Where one may who is no superuser by name, it is found out without making any.
    const session = await openSession(green, { purpose: 'test' });
    undo.push(() => closeSession(session));
    expect(await mayMakeEventTriggers(session)).toBe(true);
    expect((await session.query('SELECT FROM pg_event_trigger')).rowCount).toBe(0);
  });

  it('has an extension in the schema in which blue has it', async () => {
    await onBlue('CREATE SCHEMA "Ext"; CREATE EXTENSION btree_gist SCHEMA "Ext"');
    undo.push(() => onBlue('DROP SCHEMA "Ext" CASCADE'));
    expect(only(await check(), 'extensions').filter(({ severity }) => severity === 'error')).toEqual([]);
    await onGreen('CREATE EXTENSION btree_gist SCHEMA public');
    undo.push(() => onGreen('DROP EXTENSION btree_gist; DROP SCHEMA IF EXISTS "Ext"'));
    const [found] = only(await check(), 'extensions');
    expect(found).toMatchObject({ severity: 'error', side: 'green', object: 'btree_gist' });
    const statements = (found?.remedy ?? '').slice('On green: '.length).split('; or ')[0] ?? '';
    await onGreen(statements);
    expect(only(await check(), 'extensions').filter(({ severity }) => severity === 'error')).toEqual([]);
  });

  it('is given what only a superuser may install by the administrator of a managed service', async () => {
    await onBlue('CREATE EXTENSION pageinspect');
    undo.push(() => onBlue('DROP EXTENSION pageinspect'));
    const user = `preflight_admin_${TAG}`;
    await onGreen(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'`);
    undo.push(() => onGreen(`DROP ROLE ${user}`));
    const as = { ...green, config: { ...green.config, user, password: 'secret-of-user' } };
    const found = async (): Promise<PreflightFinding[]> => only(await check({}, { green: as }), 'extensions');
    expect(await found()).toMatchObject([
      { severity: 'error', object: 'pageinspect', remedy: expect.stringContaining('CREATE EXTENSION') as string },
    ]);
    await onGreen(`CREATE ROLE alloydbsuperuser; GRANT alloydbsuperuser TO ${user}`);
    undo.push(() => onGreen('DROP ROLE alloydbsuperuser'));
    expect(await found()).toMatchObject([
      { severity: 'info', object: 'pageinspect', message: expect.stringContaining('alloydbsuperuser') as string },
    ]);
  });

  it('has what needs no superuser installed by whoever may CREATE in the database', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'verdigris-extensions-'));
    undo.push(() => rm(folder, { recursive: true }));
    await chmod(folder, 0o755);
    await mkdir(join(folder, 'extension'));
    const control = (superuser: boolean): Promise<void> =>
      writeFile(join(folder, 'extension/pageinspect.control'), `default_version = '1'\nsuperuser = ${superuser}\n`);
    await writeFile(join(folder, 'extension/pageinspect--1.sql'), 'SELECT 1;');
    await onBlue('CREATE EXTENSION pageinspect');
    undo.push(() => onBlue('DROP EXTENSION pageinspect'));
    const user = `preflight_owner_${TAG}`;
    await onGreen(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user';
      ALTER ROLE ${user} SET extension_control_path = '${folder}:$system'`);
    undo.push(() => onGreen(`DROP ROLE ${user}`));
    const as = { ...green, config: { ...green.config, user, password: 'secret-of-user' } };
    const severities = async (): Promise<string[]> =>
      only(await check({}, { green: as }), 'extensions').map(({ severity }) => severity);
    await control(true);
    expect(await severities()).toEqual(['error']);
    await control(false);
    // Another version than blue's, and nothing else.
    expect(await severities()).toEqual(['info']);
  });

  it('can make the extensions of the plan: it has them, nobody has made them by then, and its user may', async () => {
    const user = `preflight_maker_${TAG}`;
    await onGreen(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'`);
    undo.push(() => onGreen(`DROP ROLE ${user}`));
    const as = { ...green, config: { ...green.config, user, password: 'secret-of-user' } };
    const found = async (by: Database, ...ups: string[]): Promise<string[]> => {
      const migrations = ups.map((up, i) => ({ sql: { name: `extension ${i}`, up, down: 'SELECT 1' } }));
      const said = only(await check({ migrations }, { green: by }), 'plan-extensions');
      return said.map(({ severity, object, message, remedy }) => `${severity} ${object}: ${message}. ${remedy}`);
    };
    const nobodyHas = 'CREATE EXTENSION nobody_has_it';
    const asAnother = 'SET LOCAL ROLE somebody; CREATE EXTENSION pageinspect';
    const fine = 'CREATE EXTENSION hstore; CREATE EXTENSION IF NOT EXISTS plpgsql';
    expect(await found(as, fine, asAnother, 'CREATE EXTENSION pageinspect', nobodyHas)).toEqual([
      expect.stringMatching(
        /^error pageinspect: migrations\[2\]\.sql\.up makes the extension pageinspect, and green's user may not.*On green, as one of them, before the run: CREATE EXTENSION "pageinspect", and IF NOT EXISTS in the plan$/,
      ),
      expect.stringContaining(
        "error nobody_has_it: migrations[3].sql.up makes the extension nobody_has_it, and green's",
      ),
    ]);
    expect(await found(green, 'CREATE EXTENSION pageinspect')).toEqual([]);
    await onBlue('CREATE EXTENSION hstore');
    undo.push(() => onBlue('DROP EXTENSION hstore'));
    expect(await found(as, 'CREATE EXTENSION IF NOT EXISTS hstore', 'CREATE EXTENSION hstore')).toEqual([
      expect.stringContaining('error hstore: migrations[1].sql.up makes the extension hstore, which green has by then'),
    ]);
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
    await onBlue(`GRANT CREATE ON DATABASE ${blueDb.database} TO ${role}; GRANT CREATE ON SCHEMA audit TO ${role};
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
    const as = { ...green, config: { ...green.config, user, password: 'secret-of-user' } };
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

  it('gets foreign servers as they are: those that lead to blue, mappings without their options and callers of dblink are named', async () => {
    const user = `preflight_sees_${TAG}`;
    const here = `host '127.0.0.1', port '${blueDb.port}'`;
    await onBlue(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'; CREATE SCHEMA audit;
      CREATE FOREIGN DATA WRAPPER elsewhere;
      CREATE SERVER loopback FOREIGN DATA WRAPPER elsewhere OPTIONS (${here}, dbname '${blueDb.database}', key 'hidden-word');
      CREATE SERVER beside FOREIGN DATA WRAPPER elsewhere OPTIONS (${here}, dbname 'other');
      CREATE SERVER erp FOREIGN DATA WRAPPER elsewhere OPTIONS (host 'erp.internal', dbname '${blueDb.database}');
      GRANT USAGE ON FOREIGN SERVER beside TO ${user};
      CREATE USER MAPPING FOR ${user} SERVER beside OPTIONS (password 'hidden-word');
      CREATE USER MAPPING FOR PUBLIC SERVER erp OPTIONS (password 'hidden-word');
      CREATE USER MAPPING FOR postgres SERVER erp OPTIONS (password 'hidden-word');
      CREATE FUNCTION audit.log() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM dblink_exec('loopback', 'SELECT 1'); END$$;
      CREATE FUNCTION audit.my_dblinks() RETURNS int LANGUAGE sql AS 'SELECT 1'`);
    undo.push(() =>
      onBlue(`DROP FOREIGN DATA WRAPPER elsewhere CASCADE; DROP SCHEMA audit CASCADE; DROP ROLE ${user}`),
    );
    const found = async (as: Database): Promise<string[]> => {
      const all = only(await check({}, { blue: as }), 'foreign-servers');
      expect(JSON.stringify(all)).not.toMatch(/hidden-word|erp\.internal/);
      return all.map(({ severity, object, message }) => `${severity} ${object}: ${message.split(' (')[0] ?? ''}`);
    };
    const servers = [
      'warning loopback: these foreign servers lead to blue itself',
      'warning beside, erp: green gets these foreign servers as they are, and reads and writes the same sources',
    ];
    const callers = 'info audit.log(): these functions call dblink: from green they connect to where they do from blue';
    expect(await found(blue)).toEqual([...servers, callers]);
    const mappings = (await found({ ...blue, config: { ...blue.config, user, password: 'secret-of-user' } })).slice(
      2,
      -1,
    );
    expect(mappings.map((line) => line.split(':')[0])).toEqual(['warning PUBLIC on erp, postgres on erp']);
  });

  it('may hold what this very run has made, and the copy of a run that has ended is called so', async () => {
    await withClient(greenDb.config, (client) => installState(client, 'green'));
    undo.push(() => onGreen('DROP SCHEMA verdigris CASCADE; DROP TABLE IF EXISTS public.orders'));
    await onGreen(`INSERT INTO verdigris.owner (run_id, migration, side) VALUES ('${RUN}', 'preflight', 'green');
                   CREATE TABLE public.orders (id bigint PRIMARY KEY)`);
    expect(errorsOf(await check())).toEqual([]);
    await onGreen(`UPDATE verdigris.owner SET run_id = 'earlier', outcome = 'rolled back'`);
    const [finding] = only(await check(), 'green-empty');
    expect(finding?.message).toContain('an earlier run of "preflight" ended (rolled back)');
  });

  it('is never to be dropped while it has the writes, or before somebody has looked at what it had of them', async () => {
    await withClient(greenDb.config, (client) => installState(client, 'green'));
    undo.push(() => onGreen('DROP SCHEMA verdigris CASCADE; DROP TABLE IF EXISTS public.orders'));
    await onGreen(`CREATE TABLE public.orders (id bigint PRIMARY KEY);
      INSERT INTO verdigris.owner (run_id, migration, side, outcome) VALUES ('earlier', 'f1', 'green', 'completed');
      INSERT INTO verdigris.event (run_id, what, detail) VALUES ('earlier', 'claimed green', '{"epoch": 7}');
      INSERT INTO verdigris.route (migration, epoch, writes_on) VALUES ('f1', 8, 'green')`);
    const told = async (sql = 'SELECT'): Promise<string> => {
      await onGreen(sql);
      const found = only(await check(), 'green-empty');
      return found.map(({ message, remedy }) => `${message}. ${remedy}`).join();
    };
    const HAS_THE_WRITES =
      /green is the database that has the writes.*"f1".* Drop nothing of it: it can only be "blue"/;
    expect(await told()).toMatch(HAS_THE_WRITES);
    expect(await told(`UPDATE verdigris.owner SET outcome = 'cleaned'`)).toMatch(HAS_THE_WRITES);
    const back = `UPDATE verdigris.route SET epoch = 9, writes_on = 'blue'; UPDATE verdigris.owner SET outcome = 'rolledBack'`;
    expect(await told(back)).toMatch(
      /had the writes for a while and was kept.* See first that nothing of it is missed/,
    );
    expect(await told(`UPDATE verdigris.route SET epoch = 7`)).toMatch(/its copy is still here\. Drop that copy/);
    // As blue of its last run, it has the writes unless it gave them away.
    expect(await told(`UPDATE verdigris.owner SET side = 'blue'; SELECT setval('verdigris.fence', 0)`)).toMatch(
      HAS_THE_WRITES,
    );
    expect(await told(`UPDATE verdigris.route SET writes_on = 'green'`)).toMatch(/has given its writes away/);
  });

  it('or blue may belong to another run that lives', async () => {
    await withClient(greenDb.config, (client) => installState(client, 'green'));
    undo.push(() => onGreen('DROP SCHEMA verdigris CASCADE'));
    await onGreen(`INSERT INTO verdigris.owner (run_id, migration, side) VALUES ('other-run', 'other', 'green');
      CREATE FUNCTION verdigris.note() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RETURN; END';
      CREATE EVENT TRIGGER verdigris_ddl ON ddl_command_end EXECUTE FUNCTION verdigris.note();
      CREATE TABLE public.orders (id bigint PRIMARY KEY)`);
    undo.push(() => onGreen('DROP TABLE public.orders'));
    // Nobody is told to drop what that run needs.
    const found = await check();
    expect([...only(found, 'green-empty'), ...only(found, 'event-triggers')]).toEqual([]);
    expect(only(await check(), 'owned-by-another-run')).toMatchObject([
      {
        severity: 'error',
        side: 'green',
        message: expect.stringContaining('migration "other", run other-run') as string,
        remedy: expect.stringMatching(/--clean, with the plan of that migration; --drop-copy other in/) as string,
      },
    ]);
  });

  it('must not be blue', async () => {
    const findings = await check({}, { green: { ...asDatabase(blueDb, 'green') } });
    expect(errorsOf(findings)).toContain('same-database both');
  });

  it('is told to order by another locale than blue, of ICU too', async () => {
    const icu = async (server: 'pg15' | 'pg18', locale: string): Promise<TestDatabase> => {
      const db = await testDatabase(server, 'icu', `LOCALE_PROVIDER icu ICU_LOCALE '${locale}'`);
      undo.push(() => db.drop());
      return db;
    };
    const german = asDatabase(await icu('pg18', 'de'), 'blue');
    const [english, same] = [await icu('pg18', 'en-US'), await icu('pg18', 'de')];
    const [found, ...more] = only(await check({}, { blue: german, green: asDatabase(english, 'green') }), 'collation');
    expect(more).toEqual([]);
    expect(found?.message).toMatch(/provider i, locale en-US.* than on blue \(.*provider i, locale de,/);
    expect(only(await check({}, { blue: german, green: asDatabase(same, 'green') }), 'collation')).toEqual([]);
  });

  it('must not be older than blue', async () => {
    const findings = await check({}, { blue: asDatabase(greenDb, 'blue'), green: asDatabase(blueDb, 'green') });
    expect(errorsOf(findings)).toContain('version-order green');
  });
});

describe('a connection', () => {
  const SECRET = 'pa"ss w0rd!-secret';

  it('that fails is one error; the other side is still looked at, and no secret is told', async () => {
    await onBlue('CREATE TABLE public.keyless (a int)');
    undo.push(() => onBlue('DROP TABLE public.keyless'));
    const wrong: Database = { ...green, config: { ...green.config, password: SECRET } };
    const findings = await check({}, { green: wrong });
    expect(errorsOf(findings)).toEqual(
      ['replica-identity blue', 'connection green'].sort((a) => (a.startsWith('conn') ? 1 : -1)),
    );
    expect(JSON.stringify(findings)).not.toContain('secret');
  });

  it('from one server to the other is really tried, both ways, and the reason is told without secrets', async () => {
    const quoted = `'${SECRET}'`;
    const findings = await check(
      {},
      {
        blue: {
          ...blue,
          peerConninfo: `host=127.0.0.1 port=${blueDb.port} user=postgres password=${quoted} dbname=${blueDb.database}`,
        },
        green: {
          ...green,
          peerConninfo: `postgres://postgres:${encodeURIComponent(SECRET)}@127.0.0.1:1/${greenDb.database}`,
        },
      },
    );
    const peer = only(findings, 'peer-connection');
    expect(peer.map(({ side }) => side).sort()).toEqual(['blue', 'green']);
    expect(peer.find(({ side }) => side === 'green')?.message).toMatch(
      /green can't reach blue: .*password authentication failed/,
    );
    expect(peer.find(({ side }) => side === 'blue')?.message).toMatch(
      /blue can't reach green: .*[Cc]onnection refused/s,
    );
    expect(JSON.stringify(findings)).not.toMatch(/secret|127\.0\.0\.1/);
    expect(await contents(greenDb)).toMatchObject({ subscriptions: 0, slots: 0 });
  });

  it('to a host that never answers is given up in time', async () => {
    const sockets: Socket[] = [];
    const silent = createServer((socket) => sockets.push(socket));
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    undo.push(
      () => new Promise((resolve) => silent.close(resolve)),
      async () => sockets.forEach((socket) => socket.destroy()),
    );
    const address = silent.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const started = performance.now();
    const findings = await check(
      {},
      { blue: { ...blue, peerConninfo: `host=127.0.0.1 port=${port} user=x password=yyyy dbname=z` } },
    );
    expect(only(findings, 'peer-connection')).toMatchObject([
      { side: 'green', message: expect.stringContaining('no answer within 1 s') as string },
    ]);
    expect(performance.now() - started).toBeLessThan(30_000);
  });

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
    const findings = await check({ traffic: { gates } }, { blue: as(blue), green: as(green) });
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
    const databases = { blue: as(newer, 'blue'), green: as(greenDb, 'green') };
    const gates = [{ metric: 'longTransactions' as const, max: '1m' }];
    const names = { role, owner, password: 'x' };
    const made = statementsOfRole('blue', { ...names, database: newer.database });
    const onGreens = ofDatabase(statementsOfRole('green', { ...names, database: greenDb.database }));
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
    const as = { ...green, config: { ...green.config, user, password: 'secret-of-user' } };
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
    const as = { ...blue, config: { ...blue.config, user, password: 'x' } };
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
    await onGreen(`CREATE ROLE ${user} LOGIN PASSWORD 'x'; GRANT CREATE ON DATABASE ${greenDb.database} TO ${user};
      CREATE SCHEMA "Shop"; CREATE SCHEMA audit; CREATE SCHEMA theirs`);
    undo.push(() =>
      onGreen(`DROP SCHEMA "Shop"; DROP SCHEMA audit; DROP SCHEMA theirs; DROP OWNED BY ${user}; DROP ROLE ${user}`),
    );
    await onBlue(`CREATE SCHEMA "Shop"; CREATE FUNCTION "Shop".one() RETURNS int LANGUAGE sql RETURN 1;
      CREATE SCHEMA audit; CREATE TABLE audit.log (id serial PRIMARY KEY); CREATE SCHEMA theirs;
      CREATE SCHEMA made; CREATE TABLE made.item (id int PRIMARY KEY)`);
    undo.push(() => onBlue('DROP SCHEMA "Shop", audit, theirs, made CASCADE'));
    const as = { ...green, config: { ...green.config, user, password: 'x' } };
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
      `REVOKE ALL ON SCHEMA public, "Shop" FROM ${user}; ALTER DATABASE ${greenDb.database} OWNER TO ${user}`,
    );
    undo.push(() => onGreen(`ALTER DATABASE ${greenDb.database} OWNER TO postgres`));
    expect(await found({ tables })).toMatchObject([{ object: '"Shop"' }]);
    await onGreen(`CREATE ROLE ${user}_of; GRANT ${user}_of TO ${user}; ALTER SCHEMA "Shop" OWNER TO ${user}_of`);
    undo.push(() => onGreen(`ALTER SCHEMA "Shop" OWNER TO postgres; DROP ROLE ${user}_of`));
    expect(await found({ tables })).toEqual([]);
  });
});

it('names sessions that hold advisory locks, which green does not know', async () => {
  const locks = async (): Promise<unknown[]> => only(await check(), 'advisory-locks');
  await withClient({ ...blue.config, application_name: 'the leader' }, async (client) => {
    await client.query('BEGIN; SELECT pg_advisory_xact_lock(7)');
    expect(await locks()).toEqual([]);
    await client.query('COMMIT; SELECT pg_advisory_lock(7), pg_advisory_lock_shared(8)');
    expect(await locks()).toMatchObject([
      { severity: 'warning', side: 'blue', object: 'the leader, user postgres: 2' },
    ]);
  });
  expect(await locks()).toEqual([]);
});

describe('connections', () => {
  it('of the server, the database and the user must be enough for the plan, with their numbers', async () => {
    const user = `preflight_user_${TAG}`;
    await onBlue(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user' CONNECTION LIMIT 13;
                  ALTER DATABASE ${blueDb.database} CONNECTION LIMIT 4`);
    undo.push(() => onBlue(`DROP ROLE ${user}; ALTER DATABASE ${blueDb.database} CONNECTION LIMIT -1`));
    const config = { ...blue.config, user, password: 'secret-of-user' };
    const plan = { bootstrap: { parallel: 4 } };
    const found = only(await check(plan, { blue: { ...blue, config } }), 'connections');
    expect(found).toMatchObject([
      {
        side: 'blue',
        severity: 'error',
        object: `database "${blueDb.database}"`,
        message: '4 connections are allowed and 0 are in use, so 4 are free; at least 6 are needed',
        remedy: `ALTER DATABASE "${blueDb.database}" CONNECTION LIMIT 14`,
      },
      {
        side: 'blue',
        severity: 'warning',
        object: `role "${user}"`,
        message: expect.stringContaining('13 are free; the run takes up to 14 at once') as string,
      },
    ]);
    // A superuser is held to neither.
    expect(only(await check(plan), 'connections')).toEqual([]);
  });
});

describe('a server', () => {
  let small: EmbeddedPostgres;
  beforeAll(async () => {
    small = await startPostgres({
      version: 15,
      name: 'preflight-small',
      settings: {
        fsync: 'off',
        wal_level: 'replica',
        max_replication_slots: '1',
        max_wal_senders: '1',
        max_logical_replication_workers: '0',
        max_worker_processes: '1',
        max_connections: '10',
        max_locks_per_transaction: '10',
        max_slot_wal_keep_size: '100MB',
        synchronous_commit: 'off',
        default_transaction_read_only: 'on',
        timezone: 'Europe/Berlin',
      },
    });
  });
  afterAll(() => small.stop());

  it('that is not set up for logical replication is told everything at once', async () => {
    const config = {
      host: '127.0.0.1',
      port: small.port,
      user: 'postgres',
      password: small.password,
      database: 'postgres',
    };
    await withClient(config, (client) =>
      client.query('BEGIN READ WRITE').then(() => client.query('CREATE TABLE t (id int PRIMARY KEY); COMMIT')),
    );
    const database: Database = { side: 'blue', connection: 'small', config, peerConninfo: small.uri() };
    const findings = await check({}, { blue: database });
    const onSmall = findings
      .filter(({ side }) => side === 'blue')
      .map(({ check: name, severity }) => `${severity} ${name}`);
    expect(onSmall).toEqual(
      expect.arrayContaining([
        'error wal-level',
        'error read-only-by-default',
        'error replication-slots',
        'error wal-senders',
        'error logical-replication-workers',
        'warning connections',
        'warning wal-retention',
        'info asynchronous-commit',
      ]),
    );
    // Nobody has ALTER SYSTEM on a managed service.
    expect(only(findings, 'wal-level')[0]?.remedy).toContain('cloudsql.logical_decoding');
    expect(only(findings, 'read-only-by-default')[0]?.remedy).toContain('give it storage');
    expect(only(findings, 'settings').map(({ object }) => object)).toContain('TimeZone');
    expect(findings.filter(({ check: name }) => name === 'check-failed')).toEqual([]);
  });

  it('whose first superuser has another name than that of blue lacks an owner', async () => {
    const config = { ...greenDb.config, port: small.port, password: small.password, database: 'postgres' };
    const user = `small_admin_${TAG}`;
    const asUser = { ...config, user, password: 'secret-of-user' };
    const write = (as: typeof config, sql: string): Promise<unknown> =>
      withClient(as, (client) => client.query(`BEGIN READ WRITE; ${sql}; COMMIT`));
    await write(config, `CREATE ROLE ${user} SUPERUSER LOGIN PASSWORD 'secret-of-user'`);
    undo.push(() => write(config, `DROP ROLE ${user}`));
    const database: Database = { side: 'green', connection: 'small', config: asUser, peerConninfo: small.uri() };
    const found = async (plan: Partial<PlanInput> = {}): Promise<string[]> =>
      only(await check(plan, { green: database }), 'roles').map(({ severity, object }) => `${severity} ${object}`);
    expect(await found()).toEqual([]);
    await write(asUser, 'ALTER ROLE postgres RENAME TO root');
    undo.push(() => write(asUser, 'ALTER ROLE root RENAME TO postgres'));
    expect(await found()).toEqual(['error postgres']);
    expect(await found({ tables: { exclude: ['public.*'] } })).toEqual([]);
  });

  it('whose table of locks is clearly too small for all tables in one transaction is warned of', async () => {
    const config = { ...greenDb.config, port: small.port, password: small.password, database: 'postgres' };
    const small15: Database = { side: 'green', connection: 'small', config, peerConninfo: small.uri() };
    const found = async (): Promise<PreflightFinding[]> => only(await check({}, { green: small15 }), 'schema-locks');
    expect(await found()).toEqual([]);
    await onBlue(`CREATE SCHEMA wide; DO $$ BEGIN
      FOR n IN 1..150 LOOP EXECUTE format('CREATE TABLE wide.t%s (id int PRIMARY KEY, body text)', n); END LOOP; END $$`);
    undo.push(() => onBlue('DROP SCHEMA wide CASCADE'));
    expect(await found()).toEqual([
      expect.objectContaining({ severity: 'warning', side: 'green', object: 'max_locks_per_transaction' }),
    ]);
    expect(only(await check(), 'schema-locks')).toEqual([]);
  });
});

describe('docs/preflight.md', () => {
  it('has a row for each check, and no other', () => {
    const documented = [
      ...readFileSync(new URL('../../docs/preflight.md', import.meta.url), 'utf8').matchAll(/^\| `([a-z-]+)`/gm),
    ].map((match) => match[1]);
    const names = [...SIDE_CHECKS, ...PAIR_CHECKS].map(({ name }) => name);
    expect([...documented].sort()).toEqual(
      [
        ...names,
        ...OTHER_FINDINGS,
        ...PGBOUNCER_CHECKS,
        ...HAPROXY_CHECKS,
        ...WINDOW_CHECKS,
        ...GATE_CHECKS,
        ...FLAG_CHECKS,
        ...WEBHOOK_CHECKS,
        ...NOTIFY_CHECKS,
      ].sort(),
    );
  });
});

describe('without secrets', () => {
  it('cuts passwords and hosts out of what PostgreSQL quotes', () => {
    const database: Database = {
      side: 'blue',
      connection: 'x',
      config: { host: 'db.internal', user: 'app', password: 'hunter22', database: 'shop' },
      peerConninfo: "host='db.peer' password='it\\'s mine' user=app",
    };
    const text = `could not translate host name "db.peer" to address; db.internal; hunter22; it's mine; postgres://u:p@h/d`;
    expect(withoutSecrets(new Error(text), [database])).toBe(
      'could not translate host name "***" to address; ***; ***; ***; ***',
    );
  });
});
