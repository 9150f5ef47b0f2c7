import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createActivities, type Activities } from '../../activities/index.js';
import { planSchema } from '../../src/plan/schema.js';
import { feedName } from '../../src/postgres/feed.js';
import { findSlots } from '../../src/postgres/feed-objects.js';
import { armFence, unarmedTablesSql } from '../../src/postgres/fence.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { withSession, type Databases, type Session } from '../../src/postgres/session.js';
import { hasState, readRoute } from '../../src/postgres/state.js';
import type { Side } from '../../src/side.js';
import type { RunRef } from '../../workflows/lib/run-ref.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';
import { StatementProxy, type Held, type Point } from '../support/statement-proxy.js';

/*
 * A worker that is frozen while it undoes what a run has made, or ends its feed after a promotion, and wakes up when the next run of that plan has begun: that
 * one's objects have the same names. Another worker has done it all meanwhile.
 */

const NAME = 'late-undoing';
const TABLES = [
  { schema: 'public', name: 'one' },
  { schema: 'public', name: 'two' },
];

let own: Record<'blue' | 'green', TestDatabase>;
let databases: Databases;
let proxy: StatementProxy;

beforeAll(async () => {
  own = { blue: await testDatabase('pg18', 'late blue'), green: await testDatabase('pg18', 'late green') };
  databases = { blue: asDatabase(own.blue, 'blue'), green: asDatabase(own.green, 'green') };
  proxy = await StatementProxy.start(own.blue.port);
  await onBlue((blue) => blue.query('CREATE TABLE public.one (id int); CREATE TABLE public.two (id int)'));
});

afterAll(async () => {
  await proxy.close();
  await onBlue(async (blue) => {
    for (const name of await findSlots(blue, feedName(NAME, 'to_green')))
      await blue.query('SELECT pg_drop_replication_slot($1)', [name]);
  });
  await Promise.all([own.blue.drop(), own.green.drop()]);
});

function onBlue<T>(work: (session: Session) => Promise<T>): Promise<T> {
  return withSession(databases.blue, { purpose: 'test' }, work);
}

function worker(blue: string): Activities {
  const environment = { VERDIGRIS_CONNECTION_B: blue, VERDIGRIS_CONNECTION_G: own.green.uri };
  return createActivities({ environment, redact: String });
}

/** Blue is behind the proxy that can stop it. */
function frozenWorker(): Activities {
  return worker(own.blue.uri.replace(`:${own.blue.port}/`, `:${proxy.port}/`));
}

let runs = 0;

/** Owns both databases, and has a slot and a fence on blue. */
async function begin(): Promise<RunRef> {
  const plan = planSchema.parse({ name: NAME, blue: { connection: 'b' }, green: { connection: 'g' } });
  const ref: RunRef = { plan, runId: `run ${++runs}` };
  const epoch = await claimDatabases(databases, { runId: ref.runId, migration: NAME }, 'flag');
  await onBlue(async (blue) => {
    // It waits for the transactions of whoever writes on this server meanwhile.
    await blue.query("SET lock_timeout = '60s'");
    await blue.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [feedName(NAME, 'to_green')]);
  });
  await onBlue(async (blue) => {
    await armFence(blue, TABLES, { guard: { migration: NAME, epoch, writesOn: 'blue' } });
  });
  return ref;
}

async function rollBack(ref: RunRef): Promise<void> {
  const { removeFence, undoReplication, releaseDatabases } = worker(own.blue.uri);
  const undo = new MockActivityEnvironment();
  await undo.run(() => removeFence(ref));
  await undo.run(() => undoReplication(ref, { keepGreen: false }));
  await undo.run(() => releaseDatabases(ref, { keepGreen: false }));
}

const isHere = {
  'before it has the lock': ({ text }: Point) => text.includes('pg_try_advisory_lock'),
  'at the slot': ({ text }: Point) => text.includes('pg_drop_replication_slot'),
  // In its transaction it would be ended by the server.
  'between two tables': ({ session, text }: Point) => session === 'verdigris remove fence' && text.startsWith('BEGIN'),
  'at the schema': ({ text }: Point) => text.includes('DROP SCHEMA'),
  'at the claim': ({ text }: Point) => text.includes('UPDATE verdigris.owner SET outcome'),
} as const;

/** As if writes had been moved to that side by now. */
async function says(writesOn: Side, epoch: number): Promise<void> {
  for (const side of ['blue', 'green'] as const) {
    await withSession(databases[side], { purpose: 'test' }, (session) =>
      session.query('UPDATE verdigris.route SET writes_on = $1, epoch = $2', [writesOn, epoch]),
    );
  }
}

/** What is there of the run that has begun last. */
async function expectUntouched(): Promise<void> {
  await onBlue(async (blue) => {
    expect(await hasState(blue)).toBe(true);
    expect(await findSlots(blue, feedName(NAME, 'to_green'))).toHaveLength(1);
    expect((await blue.query(unarmedTablesSql(TABLES))).rows).toEqual([]);
  });
}

type Undoing = (activities: Activities, ref: RunRef) => Promise<unknown>;

const undoings: readonly (readonly [string, keyof typeof isHere, Undoing])[] = [
  ['the feed', 'at the slot', (a, ref) => a.undoReplication(ref, { keepGreen: false })],
  ['the fence', 'between two tables', (a, ref) => a.removeFence(ref)],
  ['the claim', 'at the claim', (a, ref) => a.releaseDatabases(ref, { keepGreen: false })],
  ['the schema', 'at the schema', (a, ref) => a.releaseDatabases(ref, { keepGreen: false })],
  ['the feed', 'before it has the lock', (a, ref) => a.undoReplication(ref, { keepGreen: false })],
];

/** The frozen worker goes on when the next run owns what it was at, and takes nothing of it. */
async function wakesInTheNextRun(held: Held, late: Promise<unknown>): Promise<void> {
  const next = await begin();
  held.release();
  await Promise.race([late, sleep(20_000)]);
  try {
    await expectUntouched();
  } finally {
    await rollBack(next);
  }
}

describe('a worker that is frozen in the undoing', () => {
  it.each(undoings)('of %s, %s, takes nothing of the next run', { timeout: 120_000 }, async (_, where, undo) => {
    const first = await begin();
    const stopped = proxy.stopWhere(isHere[where], 'before');
    const late = new MockActivityEnvironment().run(() => undo(frozenWorker(), first)).catch((error: unknown) => error);
    const held = await stopped;
    await rollBack(first);
    await wakesInTheNextRun(held, late);
  });
});

describe('a worker that is frozen in the end of a promotion', () => {
  it('before it drops the slot of the old feed, drops none of the next run', { timeout: 120_000 }, async () => {
    const first = await begin();
    const { epoch = 0 } = (await onBlue((blue) => readRoute(blue, NAME))) ?? {};
    await says('green', epoch + 1);
    const stopped = proxy.stopWhere(isHere['at the slot'], 'before');
    const finish = (): Promise<unknown> => frozenWorker().finishPromotion(first, 'blue');
    const late = new MockActivityEnvironment().run(finish).catch((error: unknown) => error);
    const held = await stopped;
    await says('blue', epoch + 2);
    await rollBack(first);
    await wakesInTheNextRun(held, late);
  });
});
