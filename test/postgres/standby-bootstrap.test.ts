import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { ActivityDependencies } from '../../activities/context.js';
import { replicateActivities } from '../../activities/replicate.js';
import { rollbackActivities } from '../../activities/rollback.js';
import { standbyBootstrapActivities } from '../../activities/standby-bootstrap.js';
import { watchSchemaActivities } from '../../activities/watch-schema.js';
import { run as verdigris } from '../../src/cli/run.js';
import type { EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import type { Plan } from '../../src/plan/schema.js';
import { compareLookups } from '../../src/pgbouncer/user-lookup.js';
import { branchingPoint } from '../../src/postgres/bootstrap/standby/promotion-position.js';
import { TakesNoWrites } from '../../src/postgres/in-recovery.js';
import { preflight, type PreflightFinding } from '../../src/postgres/preflight/preflight.js';
import type { PairContext } from '../../src/postgres/preflight/check.js';
import { standbyCollation } from '../../src/postgres/preflight/standby-collation.js';
import { openReplicationSession, withSession, type Database } from '../../src/postgres/session.js';
import { isConnectionLost } from '../../src/postgres/sqlstate.js';
import type { Side } from '../../src/side.js';
import type { RunRef } from '../../workflows/lib/run-ref.js';
import { asDatabase, testDatabase, withClient } from '../support/postgres.js';
import { testTemporal } from '../support/temporal.js';
import {
  contents,
  databaseOf,
  onServer,
  planOf,
  refOf,
  standbyIsPromoted,
  StandbyCluster,
} from '../support/standby-cluster.js';

/* Killed after every statement, and green crashed: test/long/standby-killed.long.ts. */

let cluster: StandbyCluster;
/** Made by pg_basebackup where there is one. */
let first: EmbeddedPostgres;
/** Made without client tools. */
let second: EmbeddedPostgres;

beforeAll(async () => {
  cluster = await StandbyCluster.start([undefined, 'files']);
  [first, second] = cluster.standbys as [EmbeddedPostgres, EmbeddedPostgres];
});
afterAll(() => cluster.stop());

async function find(green: Database, plan: Plan = planOf('standby-preflight')): Promise<readonly PreflightFinding[]> {
  const blue = databaseOf(cluster.blue, 'blue');
  return (await preflight({ blue, green, plan, runId: 'run-0', reachWithinMs: 2_000 })).findings;
}

/** What is found of two databases as if one were a copy of the other. @param version of what green sorts by. Default: its own */
function sortedOtherwise(blue: Database, green: Database, version?: string): Promise<readonly object[]> {
  const purpose = { purpose: 'test' };
  return withSession(blue, purpose, (ours) =>
    withSession(green, purpose, (theirs) => {
      const query = (text: string, values: unknown[]): Promise<object> =>
        theirs.query(text.replace(VERSION, `'${version ?? ''}'`), values);
      const session = version === undefined ? theirs : { query };
      return standbyCollation.run({ blue: { session: ours }, green: { session } } as unknown as PairContext);
    }),
  );
}

const VERSION = 'pg_database_collation_actual_version(d.oid)';

const errorsOf = (findings: readonly PreflightFinding[]): string[] =>
  findings.filter(({ severity }) => severity === 'error').map(({ check, object }) => `${check}: ${object}`);

describe('preflight of a standby', () => {
  it('accepts a standby that streams, and says what its promotion means for the servers', async () => {
    await onServer(cluster.blue, 'CREATE DATABASE other');
    await cluster.replayed(first);
    const before = await contents(first);
    const plan = planOf('standby-preflight', { tables: { exclude: ['public.notes'] } });
    const findings = await find(databaseOf(first, 'green'), plan);
    expect(errorsOf(findings)).toEqual([]);
    expect(await contents(first)).toEqual(before);
    const said = findings.map(({ check, message, remedy }) => `${check}: ${message}. ${remedy}`).join('\n');
    expect(said).toMatch(/standby-cluster: green is promoted as a whole: 1 other databases/);
    expect(said).toMatch(/standby-cluster: green has 1 tables that the plan leaves out/);
    expect(said).toMatch(/standby-slot: .*SELECT pg_drop_replication_slot\('standby_1'\)/);
    expect(said).toMatch(/peer-connection: green is a standby still/);
    expect(said).not.toContain(cluster.blue.password);
  });

  it('names the other replicas of blue, by their slots or as they call themselves, and never green itself', async () => {
    const replicas = async (): Promise<string[]> =>
      (await find(databaseOf(first, 'green')))
        .filter(({ check }) => check === 'replicas')
        .map(({ message }) => message.split(' reads ')[0] ?? '');
    await expect.poll(replicas).toEqual(['the physical slot "standby_2" ("walreceiver" at 127.0.0.1)']);
    await onServer(second, `ALTER SYSTEM SET primary_slot_name = ''`);
    await onServer(second, 'SELECT pg_reload_conf()');
    await expect
      .poll(replicas, { timeout: 20_000 })
      .toEqual(['the physical slot "standby_2" (not connected)', '"walreceiver" at 127.0.0.1 (connected)']);
    await onServer(second, 'ALTER SYSTEM RESET primary_slot_name');
    await onServer(second, `ALTER SYSTEM SET primary_slot_name = 'standby_2'`);
    await onServer(second, 'SELECT pg_reload_conf()');
    await expect.poll(replicas, { timeout: 20_000 }).toHaveLength(1);
  });

  it('refuses another cluster, another database and a server that is no standby', async () => {
    const other = databaseOf(cluster.blue, 'green', 'other');
    expect(errorsOf(await find(other))).toContain('standby-origin: pg_is_in_recovery()');
    expect(
      errorsOf(await find({ ...databaseOf(first, 'green'), config: databaseOf(first, 'green', 'other').config })),
    ).toContain('standby-origin: other');
    const apart = await testDatabase('pg15', 'no standby');
    expect(errorsOf(await find(asDatabase(apart, 'green')))).toContain('standby-origin: system_identifier');
    await apart.drop();
  });

  it('refuses a standby that does not stream, has paused, or has commits of blue wait for it', async () => {
    await onServer(second, 'SELECT pg_wal_replay_pause()');
    expect(errorsOf(await find(databaseOf(second, 'green')))).toEqual(['standby-replay: pg_is_wal_replay_paused()']);
    await onServer(second, 'SELECT pg_wal_replay_resume()');

    const [conninfo] = await onServer<{ value: string }>(second, `SELECT current_setting('primary_conninfo') AS value`);
    const stream = (value: string) =>
      onServer(second, `ALTER SYSTEM SET primary_conninfo = ${pg.escapeLiteral(value)}`).then(() =>
        onServer(second, 'SELECT pg_reload_conf()'),
      );
    await stream('');
    await expect.poll(() => onServer(second, 'SELECT FROM pg_stat_wal_receiver')).toHaveLength(0);
    expect(errorsOf(await find(databaseOf(second, 'green')))).toEqual(['standby-replay: pg_stat_wal_receiver']);
    await stream(conninfo?.value ?? '');
    await expect.poll(() => onServer(second, 'SELECT FROM pg_stat_wal_receiver')).toHaveLength(1);

    await onServer(cluster.blue, `ALTER SYSTEM SET synchronous_standby_names = '*'`);
    await onServer(cluster.blue, 'SELECT pg_reload_conf()');
    await expect
      .poll(async () =>
        errorsOf(await find(databaseOf(first, 'green'))).concat(errorsOf(await find(databaseOf(second, 'green')))),
      )
      .toContain('standby-cluster: synchronous_standby_names');
    await onServer(cluster.blue, 'ALTER SYSTEM RESET synchronous_standby_names');
    await onServer(cluster.blue, 'SELECT pg_reload_conf()');
  });

  it('refuses one whose own copy of synchronous_standby_names has nobody to wait for once it is promoted', async () => {
    await onServer(second, `ALTER SYSTEM SET synchronous_standby_names = 'green, replica2'`);
    await onServer(second, 'SELECT pg_reload_conf()');
    const found = async (): Promise<PreflightFinding[]> =>
      (await find(databaseOf(second, 'green'))).filter(({ severity }) => severity === 'error');
    await expect.poll(found).toMatchObject([
      {
        check: 'synchronous-standbys',
        side: 'green',
        message: expect.stringMatching(/from its promotion on, .*of which none follows this server/) as string,
        remedy: expect.stringMatching(/^On green itself, .*ALTER SYSTEM/) as string,
      },
    ]);
    await onServer(second, 'ALTER SYSTEM RESET synchronous_standby_names');
    await onServer(second, 'SELECT pg_reload_conf()');
    await expect.poll(found).toEqual([]);
  });

  it('refuses a plan that PostgreSQL would refuse when the standby is no standby any more', async () => {
    await cluster.replayed(first);
    const green = databaseOf(first, 'green');
    const add = { table: 'notes', column: 'tags', type: 'jsonb' };
    const wrong = planOf('standby-preflight', {
      migrations: [
        { addColumn: { ...add, type: 'jsonbb' } },
        { addColumn: { ...add, table: 'entries', up: 'uppper(amount)' } },
        { createIndex: { table: 'accounts', name: 'a', columns: ['balance'], method: 'gin' } },
      ],
    });
    const errors = errorsOf(await find(green, wrong));
    expect(errors).toEqual([
      'plan-on-blue: the new columns of table public.notes',
      'plan-on-blue: new column "tags" of table public.entries',
      'plan-on-blue: index "a" on table public.accounts',
    ]);
    const right = planOf('standby-preflight', {
      migrations: [
        { addColumn: { ...add, up: 'verdigris.try_jsonb(body)' } },
        { createIndex: { table: 'notes', name: 'notes_tags', columns: ['tags'], method: 'gin' } },
      ],
    });
    const names = 'SELECT nspname::text AS name FROM pg_namespace ORDER BY 1';
    const before = await onServer(cluster.blue, names);
    const findings = await find(green, right);
    expect(findings.filter(({ check }) => check === 'plan-on-blue')).toEqual([]);
    expect(errorsOf(findings)).toEqual([]);
    expect(await onServer(cluster.blue, names)).toEqual(before);
  });

  it('warns of a plan that it could not try', async () => {
    const plan = planOf('standby-preflight', {
      migrations: [{ createIndex: { table: 'notes', name: 'n', columns: ['body'], method: 'gin' } }],
    });
    const application = new pg.Client({ connectionString: cluster.blue.uri('shop') });
    await application.connect();
    await application.query('BEGIN; LOCK TABLE notes IN ACCESS EXCLUSIVE MODE');
    const findings = await find(databaseOf(first, 'green'), plan).finally(() => application.end());
    const [found] = findings.filter(({ check }) => check === 'plan-on-blue');
    expect(found).toMatchObject({ severity: 'warning', side: 'blue' });
    expect(found?.remedy).toContain('GRANT TEMPORARY ON DATABASE "shop" TO "postgres"');
  });

  it('names the rights that green lacks, as they are granted on blue, and nothing once they are', async () => {
    await onServer(cluster.blue, `CREATE ROLE lesser LOGIN PASSWORD 'lesser'`);
    const green = databaseOf(first, 'green');
    const lesser = { ...green, config: { ...green.config, user: 'lesser', password: 'lesser' } };
    const lacking = async (): Promise<readonly PreflightFinding[]> => {
      await cluster.replayed(first);
      const findings = await find(lesser);
      return findings.filter(({ check, severity }) => check === 'standby-privileges' && severity === 'error');
    };
    const functions = [
      'pg_promote(boolean, integer)',
      'pg_read_file(text, bigint, bigint, boolean)',
      'pg_replication_origin_advance(text, pg_lsn)',
    ];
    const before = await lacking();
    // Of the tables, that it is no owner of them, and may not read them.
    const tables: unknown = expect.stringContaining('public.accounts');
    const ofOwners = ['verdigris', tables, tables, '"public"."clicks_id_seq", "public"."entries_id_seq"'];
    expect(before.map(({ object }) => object)).toEqual([...functions, 'CREATE SUBSCRIPTION', ...ofOwners]);
    expect(before.at(functions.length + 1)?.remedy).toMatch(/or on blue, .*: GRANT "?postgres"? TO "?lesser"?$/);
    for (const { remedy } of before.slice(0, functions.length)) {
      const grant = /GRANT .*$/.exec(remedy)?.[0];
      if (grant !== undefined) await onServer(cluster.blue, grant);
    }
    await onServer(cluster.blue, 'GRANT postgres TO lesser');
    const left = await lacking();
    expect(left.map(({ object, remedy }) => `${object}: ${remedy}`)).toEqual([
      'CREATE SUBSCRIPTION: Before PostgreSQL 16 only a superuser may',
    ]);
    await onServer(cluster.blue, 'ALTER ROLE lesser SUPERUSER');
    expect(await lacking()).toEqual([]);
    await onServer(cluster.blue, 'DROP OWNED BY lesser; DROP ROLE lesser');
  });

  it('refuses one whose server sorts text in another order, and warns of another version of what sorts it', async () => {
    const indexed = 'CREATE TABLE words (id int PRIMARY KEY, word text UNIQUE)';
    const made = await Promise.all([
      testDatabase('pg15', 'sorted b', `LOCALE_PROVIDER icu ICU_LOCALE 'de'`),
      testDatabase('pg15', 'sorted g', `LOCALE 'C'`),
    ]);
    const [byIcu, byBytes] = made.map((one) => asDatabase(one, 'blue')) as [Database, Database];
    for (const { config } of made) await withClient(config, (client) => client.query(indexed));
    expect(await sortedOtherwise(byIcu, byIcu)).toEqual([]);
    expect(await sortedOtherwise(byIcu, byBytes)).toMatchObject([
      {
        severity: 'error',
        side: 'green',
        object: expect.stringMatching(/^pg_catalog."?default"? \([\d.]+ on blue, no version on green\)$/) as string,
      },
    ]);
    expect(await sortedOtherwise(byIcu, byIcu, '0.9')).toMatchObject([
      { severity: 'warning', object: expect.stringContaining('0.9 on green') as string },
    ]);
    for (const one of made) await one.drop();
  });

  it('refuses one that would be refused the rows of blue, by policies that hold for owners, too', async () => {
    await onServer(cluster.blue, `CREATE ROLE bound LOGIN PASSWORD 'bound'; GRANT postgres TO bound`);
    await onServer(cluster.blue, 'ALTER TABLE notes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY');
    await cluster.replayed(first);
    const green = databaseOf(first, 'green');
    const bound = { ...green, config: { ...green.config, user: 'bound', password: 'bound' } };
    const forced = async (database: Database): Promise<readonly PreflightFinding[]> =>
      (await find(database)).filter(({ check }) => check === 'forced-row-security');
    expect(await forced(bound)).toMatchObject([
      { severity: 'error', object: 'public.notes', remedy: expect.stringMatching(/on blue, .*BYPASSRLS/) as string },
    ]);
    expect(await forced(green)).toEqual([]);
    await onServer(cluster.blue, 'ALTER TABLE notes DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY');
    await onServer(cluster.blue, 'DROP ROLE bound');
  });

  it('takes its answers to auth_query for those of blue: nothing can be made there to ask it', async () => {
    const databases = { blue: databaseOf(cluster.blue, 'blue'), green: databaseOf(first, 'green') };
    const query = `SELECT rolname::text, 'x' FROM pg_roles WHERE rolname = $1`;
    const lookup = { authUser: 'pg_monitor', query };
    expect(await compareLookups(databases, 'green', lookup, ['pg_monitor'])).toMatchObject({
      known: ['pg_monitor'],
      troubles: [],
    });
  });

  it('names this method when green is a standby and the plan has another one', async () => {
    const findings = await find(databaseOf(first, 'green'), planOf('x', { bootstrap: { method: 'tablesync' } }));
    const found = findings.find(({ check }) => check === 'in-recovery');
    expect(found).toMatchObject({ severity: 'error', side: 'green' });
    expect(found?.remedy).toContain('"method": "standby"');
  });
});

describe('verdigris preflight', () => {
  it('shows what would be done on which server and what can not be undone, and touches nothing', async () => {
    const traces = `SELECT (SELECT count(*)::int FROM pg_replication_slots) AS slots, (SELECT count(*)::int FROM pg_publication) AS publications,
                           (SELECT count(*)::int FROM pg_namespace) AS schemas, pg_is_in_recovery() AS standby`;
    const before = [await onServer(cluster.blue, traces), await onServer(first, traces)];
    const plan = { name: 'dry', blue: { connection: 'dry_blue' }, green: { connection: 'dry_green' } };
    const folder = await mkdtemp(join(tmpdir(), 'verdigris-preflight-'));
    const file = join(folder, 'plan.json');
    await writeFile(file, JSON.stringify({ ...plan, bootstrap: { method: 'standby' }, replicate: { streams: 2 } }));
    vi.stubEnv('VERDIGRIS_CONNECTION_DRY_BLUE', cluster.blue.uri('shop'));
    vi.stubEnv('VERDIGRIS_CONNECTION_DRY_GREEN', first.uri('shop'));
    const lines: string[] = [];
    const code = await verdigris(['preflight', file], {
      out: (text) => lines.push(text),
      note: (text) => lines.push(text),
    });
    vi.unstubAllEnvs();
    await rm(folder, { recursive: true });
    const said = lines.join('\n');
    expect(said).toMatch(/on blue: CREATE PUBLICATION .*verdigris_dry_to_green, verdigris_dry_to_green_2/);
    expect(said).toMatch(/on green: SELECT pg_promote\(\).*\n *CAN'T BE UNDONE/);
    expect(said).toMatch(/a run could begin\. Nothing was touched/);
    expect(said).not.toContain(cluster.blue.password);
    expect(code).toBe(0);
    expect([await onServer(cluster.blue, traces), await onServer(first, traces)]).toEqual(before);
  });
});

describe('the timeline history of a promoted standby', () => {
  it('has the position behind the timeline that was left, whatever came before and after it', () => {
    const history = '1\t0/3000000\tno recovery target specified\n2\t16/B374D848\tafter\n';
    expect(branchingPoint(history, 2)).toBe('16/B374D848');
    expect(branchingPoint(history, 1)).toBe('0/3000000');
    expect(branchingPoint(history, 3)).toBeUndefined();
  });
});

describe('verdigris doctor of a run whose green is a physical standby', () => {
  it('knows blue as primary, and cleans up before the promotion and right after it', async () => {
    const ref = refOf('given-up', 'run-0');
    await cluster.activity(first, (d) => replicateActivities(d).claimDatabases(ref));
    await cluster.activity(first, (d) => standbyBootstrapActivities(d).prepareStandby(ref));
    await cluster.replayed(first);
    expect(await doctor([cluster.blue, first], '--who-is-primary')).toMatchObject({
      code: 0,
      text: expect.stringMatching(/^primary {2}blue, epoch \d+: green is a physical standby of it/) as string,
    });
    const over = ['--run-is-over', 'given-up'];
    const listed = await doctor([cluster.blue, first], ...over);
    expect(listed.text).toContain('green (it is a physical standby of blue');
    expect(listed.text).not.toContain("can't be reached");
    expect(await doctor([first, cluster.blue], '--clean', '--yes', ...over)).toMatchObject(MIXED_UP);
    expect(await doctor([AWAY, first], '--who-is-primary')).toMatchObject({
      code: 1,
      text: expect.stringContaining("blue can't be reached, and green is a physical standby of it") as string,
    });
    expect(await doctor([cluster.blue, first], '--clean', '--yes', ...over)).toMatchObject({ code: 0 });
    expect(await traces(cluster.blue)).toEqual({ schemas: 0, publications: 0, slots: 0 });
    await cluster.replayed(first);
    expect(await traces(first)).toEqual({ schemas: 0, publications: 0, slots: 0 });
    expect(await standbyIsPromoted(first)).toBe(false);

    const again = refOf('given-up', 'run-1');
    await cluster.activity(first, (d) => replicateActivities(d).claimDatabases(again));
    await cluster.activity(first, (d) => standbyBootstrapActivities(d).prepareStandby(again));
    const promoteIt = (): Promise<void> =>
      cluster.activity(first, (d) => standbyBootstrapActivities(d).promoteStandby(again));
    // Its first commit would never end.
    await onServer(first, `ALTER SYSTEM SET synchronous_standby_names = 'nobody'`);
    await onServer(first, 'SELECT pg_reload_conf()');
    await expect
      .poll(() => onServer(first, 'SHOW synchronous_standby_names'))
      .toMatchObject([{ synchronous_standby_names: 'nobody' }]);
    await expect(promoteIt()).rejects.toMatchObject({ type: 'ReplicationStalled', nonRetryable: false });
    expect(await standbyIsPromoted(first)).toBe(false);
    await onServer(first, 'ALTER SYSTEM RESET synchronous_standby_names');
    await onServer(first, 'SELECT pg_reload_conf()');
    await expect
      .poll(() => onServer(first, 'SHOW synchronous_standby_names'))
      .toMatchObject([{ synchronous_standby_names: '' }]);
    await promoteIt();
    expect(await doctor([cluster.blue, first], '--who-is-primary')).toMatchObject(BLUE_IS_PRIMARY);
    expect(await doctor([first, cluster.blue], '--clean', '--yes', ...over)).toMatchObject(MIXED_UP);
    const cleaned = await doctor([cluster.blue, first], '--clean', '--yes', ...over);
    expect(cleaned.code).toBe(0);
    expect(cleaned.text).toContain('green: default_transaction_read_only = on: ');
    expect(cleaned.text).toMatch(/can not follow it again.*pg_basebackup/);
    for (const server of [cluster.blue, first]) {
      expect(await traces(server)).toEqual({ schemas: 0, publications: 0, slots: 0 });
    }
    expect(await contents(first)).toEqual(await contents(cluster.blue));
  });
});

describe('a name that leads to a standby', () => {
  const told = (side: Side) => ({
    ...{ type: 'ConnectionFailed', nonRetryable: false },
    message: expect.stringMatching(
      new RegExp(`^${side} is a standby at this moment: it takes no writes\\nNext step: .*VERDIGRIS_CONNECTION_`),
    ) as string,
  });

  it('for some seconds of a failover is waited for, and nothing counts as undone there', async () => {
    const ref = refOf('failed-over', 'run-5');
    const byCopy = { ...ref, plan: planOf('failed-over', { bootstrap: { method: 'copy' } }) };
    const keep = { keepGreen: true };
    await cluster.activity(first, (d) => replicateActivities(d).claimDatabases(ref));
    await cluster.replayed(second);
    for (const work of [
      (d) => replicateActivities(d).claimDatabases(ref),
      (d) => watchSchemaActivities(d).beginSchemaWatch(ref, 'blue'),
      (d) => rollbackActivities(d).undoReplication(byCopy, keep),
      (d) => rollbackActivities(d).undoReplication(ref, keep),
      (d) => rollbackActivities(d).releaseDatabases(ref, keep),
    ] satisfies ((dependencies: ActivityDependencies) => Promise<unknown>)[]) {
      await expect(cluster.activity<unknown>(first, work, second)).rejects.toMatchObject(told('blue'));
    }
    // Green is one where the bootstrap has it be one, and nowhere else.
    for (const undo of ['undoReplication', 'releaseDatabases'] as const) {
      await expect(cluster.activity(second, (d) => rollbackActivities(d)[undo](byCopy, keep))).rejects.toMatchObject(
        told('green'),
      );
    }
    await cluster.activity(first, (d) => replicateActivities(d).claimDatabases(ref));
    await cluster.release(second, ref);
    expect(await traces(cluster.blue)).toEqual({ schemas: 0, publications: 0, slots: 0 });
  });

  it('refuses what only a primary does as one that is away', async () => {
    await withSession(databaseOf(second, 'blue'), { purpose: 'test' }, async (session) => {
      for (const statement of [
        'DELETE FROM public.notes',
        'LOCK TABLE public.notes IN SHARE MODE',
        'SELECT pg_current_wal_insert_lsn()',
        `SELECT pg_create_logical_replication_slot('none', 'pgoutput')`,
      ]) {
        const error: unknown = await session.query(statement).catch((reason: unknown) => reason);
        expect(error, statement).toBeInstanceOf(TakesNoWrites);
        expect(isConnectionLost(error), statement).toBe(true);
      }
      await expect(session.query('SELECT 1 / 0')).rejects.toMatchObject({ code: '22012' });
    });
    await expect(openReplicationSession(databaseOf(second, 'blue'), 'test')).rejects.toBeInstanceOf(TakesNoWrites);
  });
});

describe('bootstrap standby', () => {
  it('rolled back before the promotion leaves the standby as it was; afterwards it says what can not be undone', async () => {
    await onServer(cluster.blue, `DELETE FROM notes WHERE id > 90`);
    const ref = refOf('given-up', 'run-2');
    await cluster.activity(second, (d) => replicateActivities(d).claimDatabases(ref));
    await cluster.activity(second, (d) => standbyBootstrapActivities(d).prepareStandby(ref));
    expect(await rollBack(second, ref)).toEqual([]);
    expect(await cluster.logicalSlots()).toEqual([]);
    expect(await onServer(cluster.blue, 'SELECT FROM pg_publication')).toEqual([]);
    await cluster.replayed(second);
    expect(await standbyIsPromoted(second)).toBe(false);

    const again = refOf('given-up', 'run-3');
    await cluster.activity(second, (d) => replicateActivities(d).claimDatabases(again));
    await cluster.activity(second, (d) => standbyBootstrapActivities(d).prepareStandby(again));
    await cluster.activity(second, (d) => standbyBootstrapActivities(d).promoteStandby(again));
    const { warnings } = await cluster.activity(second, (d) =>
      standbyBootstrapActivities(d).followFromPromotion(again),
    );
    expect(warnings.join()).toContain(`SELECT pg_drop_replication_slot('standby_2')`);
    await doctorKnowsBlueAsPrimary(second);
    expect(await onServer(second, `SELECT FROM verdigris.event WHERE what = 'claimed green'`)).toHaveLength(1);
    // As an earlier version has left it.
    await onServer(second, `BEGIN READ WRITE; DELETE FROM verdigris.event WHERE what = 'claimed green'; COMMIT`);
    await doctorKnowsBlueAsPrimary(second);
    const notUndone = await rollBack(second, again);
    expect(notUndone.join('\n')).toMatch(/can not follow blue again.*pg_basebackup/);
    expect(notUndone.join('\n')).toContain(`SELECT pg_drop_replication_slot('standby_2')`);
    expect(await cluster.logicalSlots()).toEqual([]);
    expect(await onServer(second, 'SELECT FROM pg_subscription')).toEqual([]);
    expect(await onServer(second, `SELECT FROM pg_namespace WHERE nspname = 'verdigris'`)).toEqual([]);
    // Its tables are its own: no copy made them. And nobody writes there by mistake.
    expect(await contents(second)).toEqual(await contents(cluster.blue));
    await expect(onServer(second, 'DELETE FROM notes')).rejects.toMatchObject({ code: '25006' });
  });

  it('does not follow from a promotion that was not its own', async () => {
    const ref = refOf('promoted-by-others', 'run-4');
    await cluster.activity(second, (d) => replicateActivities(d).claimDatabases(ref));
    for (const step of ['prepareStandby', 'followFromPromotion'] as const) {
      await expect(cluster.activity<unknown>(second, (d) => standbyBootstrapActivities(d)[step](ref))).rejects.toThrow(
        /this run has not promoted it/,
      );
    }
    expect(await cluster.logicalSlots()).toEqual([]);
    expect(await onServer(second, 'SELECT FROM pg_subscription')).toEqual([]);
  });
});

const AWAY = { uri: () => 'postgres://nobody@127.0.0.1:1/none' };
const MIXED_UP = { code: 1, text: expect.stringContaining('exchange the two names') as string };
const BLUE_IS_PRIMARY = {
  code: 0,
  text: expect.stringMatching(
    /^primary {2}blue, epoch \d+: green has no fence yet, but nobody has been told/,
  ) as string,
};

/** Once green is no standby any more, and before it is fenced. */
async function doctorKnowsBlueAsPrimary(green: EmbeddedPostgres): Promise<void> {
  const servers = [cluster.blue, green] as const;
  expect(await doctor(servers, '--who-is-primary')).toMatchObject(BLUE_IS_PRIMARY);
  expect(await doctor(servers, '--close', '--yes')).toMatchObject({
    code: 0,
    text: expect.stringContaining('nothing is to be closed') as string,
  });
  const plan = await doctor(servers, '--clean', '--run-is-over', 'given-up');
  expect(plan.code).toBe(0);
  expect(plan.text).toContain('green: drop schema verdigris');
  expect(plan.text).toContain('ALTER SYSTEM RESET default_transaction_read_only');
}

/** As it is typed, with these servers as blue and green. */
async function doctor(
  [blue, green]: readonly Pick<EmbeddedPostgres, 'uri'>[],
  ...words: readonly string[]
): Promise<{ code: number; text: string }> {
  vi.stubEnv('VERDIGRIS_CONNECTION_SICK_BLUE', blue?.uri('shop') ?? '');
  vi.stubEnv('VERDIGRIS_CONNECTION_SICK_GREEN', green?.uri('shop') ?? '');
  const lines: string[] = [];
  const say = (text: string): number => lines.push(text);
  const about = ['--blue', 'sick_blue', '--green', 'sick_green', '--address', testTemporal().address];
  const code = await verdigris(['doctor', ...about, ...words], { out: say, note: say });
  vi.unstubAllEnvs();
  return { code, text: lines.join('\n') };
}

/** What there is of a run on a server. */
async function traces(server: EmbeddedPostgres): Promise<object | undefined> {
  const [found] = await onServer(
    server,
    `SELECT (SELECT count(*)::int FROM pg_namespace WHERE nspname = 'verdigris') AS schemas,
            (SELECT count(*)::int FROM pg_publication) AS publications,
            (SELECT count(*)::int FROM pg_replication_slots WHERE slot_type = 'logical') AS slots`,
  );
  return found;
}

/** The compensations in the order of the saga. */
async function rollBack(green: EmbeddedPostgres, ref: RunRef): Promise<string[]> {
  const { notUndone } = await cluster.activity(green, (d) => standbyBootstrapActivities(d).settleStandby(ref));
  await cluster.release(green, ref);
  return notUndone;
}
