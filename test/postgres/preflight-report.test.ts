import { MockActivityEnvironment } from '@temporalio/testing';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { PASSING_CHECKS } from '../../activities/passing-findings.js';
import { preflightActivities } from '../../activities/preflight.js';
import { run as verdigris } from '../../src/cli/run.js';
import { FLAG_CHECKS } from '../../src/flags/preflight.js';
import { GATE_CHECKS } from '../../src/gates/preflight.js';
import { WINDOW_CHECKS } from '../../src/plan/window-preflight.js';
import { HAPROXY_CHECKS } from '../../src/haproxy/preflight.js';
import { NOTIFY_CHECKS } from '../../src/notify/preflight.js';
import { WEBHOOK_CHECKS } from '../../src/webhooks/preflight.js';
import { PGBOUNCER_CHECKS } from '../../src/pgbouncer/preflight.js';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';
import { OTHER_FINDINGS, PAIR_CHECKS, SIDE_CHECKS } from '../../src/postgres/preflight/checks.js';
import { isReady } from '../../src/postgres/preflight/finding.js';
import { withoutSecrets } from '../../src/postgres/scrub.js';
import type { Database } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient } from '../support/postgres.js';
import { contents, errorsOf, only, preflightPair, RUN, TAG } from '../support/preflight-pair.js';

const pair = preflightPair('report');
const { check, onBlue, undo } = pair;

describe('preflight', () => {
  it('finds no error in two databases that are ready, and leaves nothing behind in them', async () => {
    const before = [await contents(pair.blueDb), await contents(pair.greenDb)];
    const findings = await check();
    expect(errorsOf(findings)).toEqual([]);
    expect(isReady({ findings })).toBe(true);
    expect([await contents(pair.blueDb), await contents(pair.greenDb)]).toEqual(before);
  });

  it('tries the plan on blue, tells all that is refused at once, and leaves nothing behind', async () => {
    await onBlue('CREATE TABLE public.notes (id int PRIMARY KEY, body text)');
    undo.push(() => onBlue('DROP TABLE public.notes'));
    const like = await testDatabase('pg15', 'preflight like blue');
    undo.push(() => like.drop());
    const before = await contents(pair.blueDb);
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
    expect((await told(pair.green)).sort()).toEqual(
      mistakes.map((one) => `${[type, func].includes(one) ? 'warning' : 'error'} ${one}`).sort(),
    );
    expect(await contents(pair.blueDb)).toEqual(before);
  });

  it('says which of the plan it has not tried', async () => {
    const index = { createIndex: { table: 'public.orders', name: 'i', columns: ['total'] } };
    const sql = { sql: { name: 'more', up: 'SELECT 1', down: 'SELECT 1' } };
    expect(only(await check({ migrations: [index, sql, index] }), 'plan-trial')).toMatchObject([
      { severity: 'info', message: expect.stringMatching(/"more" is not tried, nor are the 1 indexes/) as string },
    ]);
    await withClient(pair.blueDb.config, async (client) => {
      await client.query('BEGIN; LOCK TABLE public.orders IN ACCESS EXCLUSIVE MODE');
      const plan = { migrations: [{ addColumn: { table: 'public.orders', column: 'a', type: 'int' } }] };
      expect(only(await check(plan), 'plan-trial')).toMatchObject([
        { severity: 'warning', message: expect.stringContaining('not all of the plan could be tried') as string },
      ]);
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
    await withClient(pair.blueDb.config, async (client) => {
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
    expect(only(findings, 'swallowed-errors')[0]?.remedy).toContain('once all routers are of a version that knows it');
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

  it('of a run tells the first findings of a check and names the others: Temporal takes no failure of all', async () => {
    await onBlue(`
      CREATE SCHEMA logs;
      DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('CREATE TABLE logs.log_%s (a int)', i); END LOOP; END $$`);
    undo.push(() => onBlue('DROP SCHEMA logs CASCADE'));
    expect(only(await check(), 'replica-identity')).toHaveLength(300);
    const plan = planSchema.parse({ name: 'told', blue: { connection: 'b' }, green: { connection: 'g' } });
    const environment = { VERDIGRIS_CONNECTION_B: pair.blueDb.uri, VERDIGRIS_CONNECTION_G: pair.greenDb.uri };
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

  it('after a wait tries again what may pass by itself, and ends with what somebody must mend', async () => {
    await onBlue('CREATE TABLE public.keyless (a int)');
    await onBlue(`BEGIN; INSERT INTO public.orders VALUES (78); PREPARE TRANSACTION 'for_a_moment_${TAG}'`);
    undo.push(() => onBlue('DROP TABLE public.keyless'));
    const plan = planSchema.parse({ name: 'again', blue: { connection: 'b' }, green: { connection: 'g' } });
    const environment = { VERDIGRIS_CONNECTION_B: pair.blueDb.uri, VERDIGRIS_CONNECTION_G: pair.greenDb.uri };
    const { preflight: activity } = preflightActivities({ environment, redact: (text) => text });
    const again = (isAgain: boolean): Promise<unknown> =>
      new MockActivityEnvironment().run(() => activity({ plan, runId: RUN }, isAgain)).catch((error: unknown) => error);
    const [first, passes] = [await again(false), await again(true)];
    await onBlue(`ROLLBACK PREPARED 'for_a_moment_${TAG}'`);
    const stays = await again(true);
    expect(first).toMatchObject({ type: 'PreflightFailed', nonRetryable: true });
    expect(passes).toMatchObject({
      ...{ type: 'PreflightFailed', nonRetryable: false },
      message: expect.stringMatching(/\(prepared-transactions\)[^]*public\.keyless/) as string,
    });
    expect(stays).toMatchObject({ type: 'PreflightFailed', nonRetryable: true });
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
    vi.stubEnv('VERDIGRIS_CONNECTION_TEST_BLUE', pair.blueDb.uri);
    vi.stubEnv('VERDIGRIS_CONNECTION_TEST_GREEN', pair.greenDb.uri);
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
    expect(PASSING_CHECKS.filter((check) => !documented.includes(check))).toEqual([]);
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
