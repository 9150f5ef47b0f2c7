import { MockActivityEnvironment } from '@temporalio/testing';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createActivities, type Activities } from '../../activities/index.js';
import type { AddConstraint } from '../../src/plan/schema.js';
import { addConstraint } from '../../src/postgres/migrate/add-constraint.js';
import { expandTable } from '../../src/postgres/migrate/expand-table.js';
import { runSql } from '../../src/postgres/migrate/sql-step.js';
import type { StepContext } from '../../src/postgres/migrate/step-context.js';
import { joinStep, takeStepOver } from '../../src/postgres/migrate/step-lock.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { closeSession, openSession, type Database, type Databases, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import type { RunRef } from '../../workflows/lib/run-ref.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';
import { StatementProxy, type Point } from '../support/statement-proxy.js';
import { contextOn, planOf, workOf } from './replicated-pair.js';

/*
 * A worker that Temporal has not heard of for its heartbeat timeout may live, cut off or frozen: then two attempts of one step
 * change green.
 */

const T = { schema: 'public', name: 't' };
const NO_ACTION = { onDelete: 'NO ACTION', onUpdate: 'NO ACTION' };
const NEVER = new AbortController().signal;

let db: TestDatabase;
let green: Database;
let app: pg.Client;
let proxy: StatementProxy;
const opened: Session[] = [];

beforeAll(async () => {
  db = await testDatabase('pg18', 'late steps');
  green = asDatabase(db, 'green');
  proxy = await StatementProxy.start(db.port);
  app = new pg.Client(db.config);
  await app.connect();
  const session = await openSession(green, { purpose: 'test' });
  await installState(session, 'green');
  await closeSession(session);
});
afterAll(async () => {
  await app.end();
  await proxy.close();
  await db.drop();
});
beforeEach(async () => {
  await app.query(`
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE t (no int, parent int);
    CREATE TABLE made (n int);
    INSERT INTO parent SELECT generate_series(1, 10);
    INSERT INTO t SELECT n, n % 10 + 1 FROM generate_series(1, 100) n;`);
});
afterEach(async () => {
  await Promise.all(opened.splice(0).map(closeSession));
  await app.query('DROP TABLE t, parent, made; TRUNCATE verdigris.progress');
});

async function attempt(purpose: string, database = green): Promise<StepContext> {
  const session = await openSession(database, { purpose });
  opened.push(session);
  return contextOn(database, session);
}

/**
 * Two attempts of one step: the first one is held up before a transaction, when `from` has passed, until the second one has
 * done it all.
 */
async function twice(step: (context: StepContext) => Promise<unknown>, from = /^BEGIN/): Promise<unknown> {
  let passed = false;
  const stopped = proxy.stopWhere(({ session, text }: Point) => {
    passed ||= from.test(text);
    return passed && session === 'verdigris first' && text.startsWith('BEGIN');
  }, 'before');
  const first = await attempt('first', { ...green, config: { ...green.config, port: proxy.port } });
  const late = step(first).catch((error: unknown) => error);
  const held = await stopped;
  await step(await attempt('second'));
  held.release();
  return late;
}

describe('a step that two attempts do at once', () => {
  it.each([
    ['in one transaction', 'INSERT INTO made VALUES (1)'],
    ['statement by statement', 'VACUUM t; INSERT INTO made VALUES (1); VACUUM made'],
  ])('raw SQL, %s, is done once', async (how, up) => {
    const step = { name: 'rows', up, down: 'DELETE FROM made' };
    const from = how === 'in one transaction' ? undefined : /^VACUUM t/;
    await twice((context) => runSql(context, 0, step, 'up'), from);
    expect((await app.query('SELECT n FROM made')).rows).toEqual([{ n: 1 }]);
    expect((await app.query('SELECT done FROM verdigris.progress')).rows).toEqual([{ done: true }]);
  });

  it('new columns are added once', async () => {
    const { tables } = await workOf([{ addColumn: { table: 't', column: 'extra', type: 'integer', default: '1' } }]);
    const [work] = tables;
    if (work === undefined) throw new Error('there is no table');
    expect(await twice((context) => expandTable(context, work))).toEqual({ added: [] });
    expect((await app.query('SELECT state FROM verdigris.progress')).rows).toEqual([{ state: { added: ['extra'] } }]);
  });

  it.each([
    ['check', { check: 'no > 0' }, /NOT \(no/],
    [
      'foreign key',
      { foreignKey: { columns: ['parent'], references: { table: 'parent', columns: ['id'] }, ...NO_ACTION } },
      undefined,
    ],
    ['unique constraint', { unique: ['no'] }, /^CREATE UNIQUE INDEX/],
    ['primary key', { primaryKey: ['no'] }, /^CREATE UNIQUE INDEX/],
  ])('a %s stays as the second one has made it', async (_, what, from) => {
    const constraint = { table: 't', name: 'new_one', ...what } as unknown as AddConstraint;
    await twice((context) => addConstraint(context, T, constraint), from);
    const { rows } = await app.query("SELECT convalidated AS valid FROM pg_constraint WHERE conname = 'new_one'");
    expect(rows).toEqual([{ valid: true }]);
    expect((await app.query("SELECT state FROM verdigris.progress WHERE step = 'addConstraint'")).rows).toEqual([
      { state: { ours: true } },
    ]);
  });
});

describe('the step of an earlier attempt', () => {
  const slow = `CREATE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN PERFORM pg_sleep(0.02); RETURN n; END'`;
  const building = `SELECT FROM pg_stat_progress_create_index WHERE relid = 't'::regclass`;

  /** The first attempt: a session that holds the step, one that builds an index, and one that has nothing to do. */
  async function earlier(): Promise<{ holder: Session; builder: Session; idle: Session; built: Promise<unknown> }> {
    const [{ session: holder }, { session: builder }, { session: idle }] = [
      await attempt('first'),
      await attempt('index 1'),
      await attempt('index 2'),
    ];
    await takeStepOver(holder, NEVER);
    for (const session of [builder, idle]) await joinStep(session, holder);
    const built = builder.query('CREATE INDEX CONCURRENTLY by_no ON public.t (public.slow(no))').then(
      () => 'built',
      () => 'ended',
    );
    await expect.poll(async () => (await app.query(building)).rowCount, { timeout: 10_000 }).toBe(1);
    return { holder, builder, idle, built };
  }

  beforeEach(() => app.query(slow));
  afterEach(() => app.query('DROP FUNCTION slow CASCADE'));

  it('is ended by whoever takes it over, but for the index that it builds', async () => {
    const { holder, builder, idle, built } = await earlier();
    await takeStepOver((await attempt('second')).session, NEVER);
    for (const session of [holder, idle]) await expect(session.query('SELECT 1')).rejects.toThrow();
    expect((await app.query(building)).rowCount).toBe(1);
    expect(await built).toBe('built');
    await expect(joinStep(builder, holder)).rejects.toMatchObject({ type: 'StaleEpoch', retryable: true });
  });

  it('is ended with its index by whoever undoes it', async () => {
    const { built } = await earlier();
    await takeStepOver((await attempt('undo')).session, NEVER, 'ended');
    expect(await built).toBe('ended');
    expect((await app.query(building)).rowCount).toBe(0);
  });
});

describe('a worker that is frozen at a step', { timeout: 60_000 }, () => {
  const own: TestDatabase[] = [];
  let databases: Databases;
  let frozen: StatementProxy;

  beforeAll(async () => {
    own.push(await testDatabase('pg18', 'late step b'), await testDatabase('pg18', 'late step g'));
    const [blue, other] = own as [TestDatabase, TestDatabase];
    databases = { blue: asDatabase(blue, 'blue'), green: asDatabase(other, 'green') };
    frozen = await StatementProxy.start(other.port);
  });
  afterAll(async () => {
    await frozen.close();
    await Promise.all(own.map((one) => one.drop()));
  });

  function worker(through?: StatementProxy): Activities {
    const [blue, other] = own as [TestDatabase, TestDatabase];
    const uri = through === undefined ? other.uri : other.uri.replace(`:${other.port}/`, `:${through.port}/`);
    return createActivities({
      environment: { VERDIGRIS_CONNECTION_B: blue.uri, VERDIGRIS_CONNECTION_G: uri },
      redact: String,
    });
  }

  it('does nothing more of it once that is undone', async () => {
    const plan = planOf([{ sql: { name: 'states', up: 'CREATE TABLE public.states (n int)', down: 'SELECT 1' } }]);
    const ref: RunRef = { plan, runId: 'late step' };
    await claimDatabases(databases, { runId: ref.runId, migration: plan.name }, 'flag');
    const stopped = frozen.stopWhere(
      ({ session, text }) => session === 'verdigris migrate' && text.startsWith('BEGIN'),
      'before',
    );
    const run = <R>(work: () => Promise<R>): Promise<R> => new MockActivityEnvironment().run(work);
    const late = run(() => worker(frozen).applyMigration(ref, 0)).then(
      () => 'done',
      (error: unknown) => error,
    );
    const held = await stopped;
    await run(() => worker().undoMigrations(ref, { keepGreen: false }));
    held.release();
    expect(await late).toMatchObject({ type: 'ConnectionFailed', nonRetryable: false });
    const there = await openSession(databases.green, { purpose: 'test' });
    opened.push(there);
    const { rows } = await there.query<{ states: string | null }>("SELECT to_regclass('public.states') AS states");
    expect(rows).toEqual([{ states: null }]);
  });

  it('changes nothing when another run owns green', async () => {
    const plan = planOf([{ sql: { name: 'states', up: 'CREATE TABLE public.states (n int)', down: 'SELECT 1' } }]);
    const ref: RunRef = { plan, runId: 'an earlier run' };
    const late = new MockActivityEnvironment().run(() => worker().applyMigration(ref, 0));
    await expect(late).rejects.toMatchObject({ type: 'DatabaseOwned', nonRetryable: true });
  });
});
