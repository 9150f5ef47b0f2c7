import { MockActivityEnvironment } from '@temporalio/testing';
import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { perform, performWhileBlueServes, sessionsOnBoth, type Work } from '../../activities/context.js';
import { serverProcess, type Session } from '../../src/postgres/session.js';
import { LinkProxy } from '../support/link-proxy.js';
import { testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { planOf } from './replicated-pair.js';

let db: TestDatabase;
let blue: LinkProxy;
let green: LinkProxy;

beforeEach(async () => {
  db = await testDatabase('pg18', 'activity sessions');
  [blue, green] = [await LinkProxy.start(db.port), await LinkProxy.start(db.port)];
});
afterEach(async () => {
  await Promise.all([blue.close(), green.close()]);
  await db.drop();
});

/** Does the work as an activity of a run whose two sides are this database. */
function doing<T>(how: typeof perform | typeof performWhileBlueServes, work: (work: Work) => Promise<T>): Promise<T> {
  const through = ({ port }: LinkProxy): string => db.uri.replace(`:${db.port}/`, `:${port}/`);
  const environment = { VERDIGRIS_CONNECTION_B: through(blue), VERDIGRIS_CONNECTION_G: through(green) };
  const ref = { plan: planOf([]), runId: 'run' };
  return new MockActivityEnvironment().run(() => how({ environment, redact: String }, ref, work));
}

/** Purposes of the sessions of ours that are there. */
function opened(): Promise<string[]> {
  return withClient(db.config, purposes);
}

async function purposes(client: pg.Client): Promise<string[]> {
  const { rows } = await client.query<{ purpose: string }>(
    `SELECT substr(application_name, 11) AS purpose FROM pg_stat_activity
      WHERE datname = current_database() AND application_name LIKE 'verdigris %' ORDER BY 1`,
  );
  return rows.map(({ purpose }) => purpose);
}

async function limitsOf(session: Session): Promise<unknown> {
  const { rows } = await session.query(
    `SELECT current_setting('statement_timeout') AS statement, current_setting('lock_timeout') AS lock, pg_backend_pid() AS pid`,
  );
  return rows[0];
}

describe('the sessions of an activity', () => {
  it('that are opened at once are closed with it, also one that is let in when the other was refused', async () => {
    const both = (): Promise<string[]> =>
      doing(perform, async (work) => {
        await sessionsOnBoth(work, 'at once');
        return opened();
      });
    expect(await both()).toEqual(['at once', 'at once']);
    expect(await opened()).toEqual([]);
    blue.delay(100);
    green.refuse();
    await expect(both()).rejects.toMatchObject({
      type: 'ConnectionFailed',
      message: expect.stringMatching(/^green: /) as string,
    });
    expect(await opened()).toEqual([]);
  });

  it('are first those that were asked where writes are, as good as new', async () => {
    await doing(performWhileBlueServes, async (work) => {
      expect(await opened()).toEqual(['where writes are', 'where writes are']);
      const first = await sessionsOnBoth(work, 'work');
      expect(await opened()).toEqual(['work', 'work']);
      const limits = { lockTimeoutMs: 3_000, statementTimeoutMs: 4_000 };
      const another = await work.session('blue', 'more work', limits);
      expect(await opened()).toEqual(['more work', 'work', 'work']);
      expect(await limitsOf(first.blue)).toEqual({ statement: '0', lock: '2s', pid: serverProcess(first.blue) });
      expect(await limitsOf(another)).toEqual({ statement: '4s', lock: '3s', pid: serverProcess(another) });
    });
    expect(await opened()).toEqual([]);
  });

  it('do not stand beside those by which it acts as the owner: a server may have no room for both', async () => {
    await doing(performWhileBlueServes, async ({ asOwner }) => {
      const seen = await Promise.all((['green', 'blue'] as const).map((side) => asOwner(side, 'undo', opened)));
      expect(seen.flatMap((there) => there ?? ['none']).filter((purpose) => purpose !== 'undo')).toEqual([]);
    });
  });

  it('are closed before the work begins where it is to have none of them', async () => {
    const withNone: typeof performWhileBlueServes = (dependencies, ref, work) =>
      performWhileBlueServes(dependencies, ref, work, 0);
    // A goodbye that is not waited for would come after the look.
    for (const link of [blue, green]) link.delay(20);
    await withClient(db.config, async (client) => {
      expect(await doing(withNone, () => purposes(client))).toEqual([]);
    });
  });

  it('are new ones where those were lost meanwhile', async () => {
    await doing(performWhileBlueServes, async (work) => {
      await withClient(db.config, (client) =>
        client.query(
          `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'verdigris where writes are' AND datname = current_database()`,
        ),
      );
      const limits = { statementTimeoutMs: 4_000, answerWithinMs: 5_000 };
      expect(await limitsOf(await work.session('green', 'work', limits))).toMatchObject({ statement: '4s' });
      expect(await opened()).toEqual(['work']);
    });
  });
});
