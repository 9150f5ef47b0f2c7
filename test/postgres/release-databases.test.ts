import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ActivityDependencies } from '../../activities/context.js';
import { retireActivities } from '../../activities/retire.js';
import { rollbackActivities } from '../../activities/rollback.js';
import { planSchema, type Plan } from '../../src/plan/schema.js';
import { installDdlTriggers } from '../../src/postgres/ddl/event-trigger.js';
import { setGreenReads } from '../../src/postgres/green-reads.js';
import {
  claimBlue,
  claimDatabases,
  openActorSession,
  releaseDatabase,
  whileOwned,
} from '../../src/postgres/ownership.js';
import { closeSession, withSession, type Databases } from '../../src/postgres/session.js';
import { hasState, installState, readOwner, readRoute } from '../../src/postgres/state.js';
import type { Side } from '../../src/side.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';

let own: Record<Side, TestDatabase>;
let databases: Databases;

beforeAll(async () => {
  own = { blue: await testDatabase('pg15', 'release blue'), green: await testDatabase('pg18', 'release green') };
  databases = { blue: asDatabase(own.blue, 'blue'), green: asDatabase(own.green, 'green') };
});

afterAll(() => Promise.all([own.blue.drop(), own.green.drop()]));

function planOf(name: string): Plan {
  return planSchema.parse({ name, blue: { connection: 'app_blue' }, green: { connection: 'app_green' } });
}

function dependencies(): ActivityDependencies {
  const environment = {
    VERDIGRIS_CONNECTION_APP_BLUE: own.blue.uri,
    VERDIGRIS_CONNECTION_APP_GREEN: own.green.uri,
  };
  return { environment, redact: String };
}

/** The last undoing of a run's rollback. */
async function release(name: string): Promise<void> {
  const { releaseDatabases } = rollbackActivities(dependencies());
  await new MockActivityEnvironment().run(() =>
    releaseDatabases({ plan: planOf(name), runId: `run of ${name}` }, { keepGreen: false }),
  );
}

const SIDES = ['blue', 'green'] as const;

async function onBoth<T>(ask: (side: Side) => Promise<T>): Promise<T[]> {
  return Promise.all(SIDES.map(ask));
}

function triggersOn(side: Side): Promise<number> {
  return withSession(databases[side], { purpose: 'test' }, async (session) => {
    const { rows } = await session.query("SELECT FROM pg_event_trigger WHERE evtname LIKE 'verdigris%'");
    return rows.length;
  });
}

describe('giving both databases back', () => {
  it('leaves those of another run, whose claim has won, with what notes its DDL', async () => {
    await claimDatabases(databases, { runId: 'run of winner', migration: 'winner' }, 'use-green-db');
    await onBoth((side) => withSession(databases[side], { purpose: 'test' }, installDdlTriggers));
    expect(await onBoth(triggersOn)).toEqual([2, 2]);

    const loser = { runId: 'run of loser', migration: 'loser' };
    await expect(claimDatabases(databases, loser, 'use-green-db')).rejects.toMatchObject({ type: 'DatabaseOwned' });
    await release('loser');
    expect(await onBoth(triggersOn)).toEqual([2, 2]);

    await release('winner');
    expect(await onBoth(triggersOn)).toEqual([0, 0]);
    expect(await onBoth((side) => withSession(databases[side], { purpose: 'test' }, hasState))).toEqual([false, false]);
    // Begun again: the worker had died before it could say so.
    await release('winner');
  });

  it('finds no owner where the schema goes between two looks, as on a standby that replays that', async () => {
    await withSession(databases.blue, { purpose: 'test' }, async (session) => {
      await installState(session, 'blue');
      const asked: string[] = [];
      const query = async (sql: string): Promise<unknown> => {
        const found = await session.query(sql);
        if (asked.push(sql) === 1) await session.query('DROP SCHEMA verdigris CASCADE');
        return found;
      };
      expect(await readOwner(new Proxy(session, { get: () => query }))).toBeUndefined();
      expect(asked).toHaveLength(1);
    });
  });

  it('asks no HAProxy before green is emptied, unless the run has led reads there', async () => {
    const traffic = { haproxy: { backend: 'reads', instances: ['unheard_of'] } };
    const plan = planSchema.parse({ ...planOf('unread'), traffic });
    await claimDatabases(databases, { runId: 'run of unread', migration: 'unread' }, 'use-green-db');
    const { undoReplication } = rollbackActivities(dependencies());
    const undo = (): Promise<void> =>
      new MockActivityEnvironment().run(() => undoReplication({ plan, runId: 'run of unread' }, { keepGreen: false }));
    await undo();
    await withSession(databases.blue, { purpose: 'test' }, async (blue) => {
      const route = await readRoute(blue, 'unread');
      if (route === undefined) throw new Error('no route');
      await setGreenReads(blue, route, 0);
    });
    await expect(undo()).rejects.toMatchObject({ type: 'ConnectionUnknown' });
    await release('unread');
  });

  it('a retirement that is begun again leaves what another run, which has claimed blue since, has there', async () => {
    await claimDatabases(databases, { runId: 'run of later', migration: 'later' }, 'use-green-db');
    await onBoth((side) => withSession(databases[side], { purpose: 'test' }, installDdlTriggers));
    const { retire } = retireActivities(dependencies());
    await new MockActivityEnvironment().run(() => retire({ plan: planOf('earlier'), runId: 'run of earlier' }));
    expect(await onBoth(triggersOn)).toEqual([2, 2]);
    await release('later');
  });

  it('does not end whoever acts for another run; but a claim of its own, which is frozen', async () => {
    const winner = { runId: 'run of actor', migration: 'actor' };
    const loser = { runId: 'run of late', migration: 'late' };
    const act = (): Promise<string | undefined> =>
      whileOwned(databases.green, loser, 'test', () => Promise.resolve('acted'));
    await claimDatabases(databases, winner, 'use-green-db');
    const actor = await openActorSession(databases.green, 'test');
    try {
      expect(await act()).toBeUndefined();
      expect((await actor.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
      await withSession(databases.green, { purpose: 'test' }, (green) => releaseDatabase(green, winner, 'completed'));
      expect(await act()).toBeUndefined();
      await expect(actor.query('SELECT 1 AS one')).rejects.toThrow();
    } finally {
      await closeSession(actor);
      await release('actor');
    }
  });

  it('takes away what a claim has installed on green that died before it had green', async () => {
    const run = { runId: 'run of half', migration: 'half' };
    await claimBlue(databases, run, 'use-green-db');
    await withSession(databases.green, { purpose: 'test' }, (green) => installState(green, 'green'));
    await release('half');
    expect(await onBoth((side) => withSession(databases[side], { purpose: 'test' }, hasState))).toEqual([false, false]);
  });
});
