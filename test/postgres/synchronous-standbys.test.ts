import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { FeedWatch, type FeedNews } from '../../activities/feed-watch.js';
import type { Work } from '../../activities/context.js';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { planSchema } from '../../src/plan/schema.js';
import type { PreflightFinding } from '../../src/postgres/preflight/finding.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import { closeSession, openSession, withSession, type Database } from '../../src/postgres/session.js';
import { lookAtStandby, type StandbyState } from '../../src/postgres/standby.js';
import { parseStandbys, placeOf, readSynchronousFeeds } from '../../src/postgres/synchronous-standbys.js';
import type { Side } from '../../src/side.js';
import { joinDatabases } from '../support/join-databases.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { carryOut } from '../support/promotion-steps.js';
import { untilRow } from '../support/wait-for-row.js';

/* While commits wait, in a promotion: test/faults/synchronous-standby.faults.ts */

describe('synchronous_standby_names', () => {
  it.each([
    ['a', 'first', 1, ['a']],
    ['a, "b ""c"", d",*', 'first', 1, ['a', 'b "c", d', '*']],
    ['2 (a, b)', 'first', 2, ['a', 'b']],
    ['first 1(a,*)', 'first', 1, ['a', '*']],
    [' ANY 2 ("any", 3, b_1)', 'any', 2, ['any', '3', 'b_1']],
  ])('is read as PostgreSQL reads it: %s', (setting, method, needed, members) => {
    expect(parseStandbys(setting)).toEqual({ setting, method, needed, members });
  });

  it('means nobody where it is empty, and names whatever their case', () => {
    expect(parseStandbys(' ')).toBeUndefined();
    const standbys = { setting: '', method: 'first', needed: 1, members: ['a', 'B', '*'] } as const;
    expect(['b', 'A', 'c'].map((name) => placeOf(name, standbys))).toEqual([2, 1, 3]);
    expect(placeOf('c', { ...standbys, members: ['a'] })).toBe(0);
  });
});

describe('a server whose commits wait for standbys', () => {
  const PLAN = planSchema.parse({ name: 'sync', blue: { connection: 'blue' }, green: { connection: 'green' } });
  const FEED = 'verdigris_sync_to_green';
  let server: EmbeddedPostgres;
  let other: TestDatabase;

  const own = (side: Side, database = 'postgres'): Database => ({
    side,
    connection: side,
    config: { host: '127.0.0.1', port: server.port, user: 'postgres', password: server.password, database },
    peerConninfo: server.uri(database),
  });
  /** As one that no commit makes wait. */
  const on = <T>(database: string, work: (client: pg.Client) => Promise<T>): Promise<T> =>
    withClient(own('blue', database).config, async (client) => {
      await client.query('SET synchronous_commit = local');
      return work(client);
    });

  async function waitFor(names: string): Promise<void> {
    await on('postgres', async (client) => {
      await client.query(`ALTER SYSTEM SET synchronous_standby_names = ${pg.escapeLiteral(names)}`);
      await client.query('SELECT pg_reload_conf()');
      await untilRow(client, `SELECT WHERE current_setting('synchronous_standby_names') = ${pg.escapeLiteral(names)}`);
    });
  }

  /** Database `mirror` follows `postgres` by a subscription of this name, as its feed would, or another server's. */
  async function follow(name: string, application = name): Promise<void> {
    await on('postgres', (client) => client.query(`SELECT pg_create_logical_replication_slot('${name}', 'pgoutput')`));
    const conninfo = `host=127.0.0.1 port=${server.port} user=postgres password=${server.password} dbname=postgres application_name=${application}`;
    await on('mirror', (client) =>
      client.query(
        `CREATE SUBSCRIPTION ${name} CONNECTION '${conninfo}' PUBLICATION p WITH (create_slot = false, slot_name = ${name}, copy_data = false)`,
      ),
    );
    await on('postgres', (client) =>
      untilRow(
        client,
        `SELECT FROM pg_stat_replication WHERE application_name = '${application}' AND state = 'streaming'`,
      ),
    );
  }

  /** What the preflight says of the setting where the server is this side. */
  async function found(side: Side): Promise<string[]> {
    const apart = asDatabase(other, side === 'blue' ? 'green' : 'blue');
    const sides = side === 'blue' ? { blue: own('blue'), green: apart } : { blue: apart, green: own('green') };
    const { findings } = await preflight({ ...sides, plan: PLAN, runId: 'run', reachWithinMs: 1_000 });
    return findings.filter(({ check }) => check === 'synchronous-standbys').map(told);
  }
  const told = ({ severity, side, message, remedy }: PreflightFinding): string =>
    `${severity} ${side}: ${message}. ${remedy}`;

  beforeAll(async () => {
    server = await startPostgres({ version: 15, name: 'synchronous', settings: { fsync: 'off' } });
    other = await testDatabase('pg15', 'synchronous other');
    await on('postgres', (client) => client.query('CREATE DATABASE mirror'));
    await on('postgres', (client) => client.query('CREATE PUBLICATION p'));
  });
  afterAll(async () => {
    await waitFor('');
    await server.stop();
    await other.drop();
  });
  afterEach(async () => {
    vi.useRealTimers();
    await on('mirror', async (client) => {
      const { rows } = await client.query<{ name: string }>(
        `SELECT subname AS name FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE datname = 'mirror'`,
      );
      for (const { name } of rows) await client.query(`DROP SUBSCRIPTION ${name}`);
    });
  });

  it('is refused while none of them follows it: the claim of the run would never end', async () => {
    await waitFor('nobody');
    for (const side of ['blue', 'green'] as const) {
      expect(await found(side)).toEqual([
        expect.stringMatching(
          new RegExp(`^error ${side}: each commit waits for .* = 'nobody'\\), of which none follows`),
        ),
      ]);
    }
    await waitFor('ANY 2 (replica1, replica2)');
    await follow('replica1');
    expect(await found('blue')).toEqual([expect.stringMatching(/^error blue: .*2 .*of which only replica1 follows/)]);
    await waitFor('FIRST 1 (replica2, "REPLICA1")');
    expect(await found('blue')).toEqual([]);
    expect(await found('green')).toEqual([]);
  });

  it('is refused as blue where its setting means the feed, too, which would be waited for; else that is a warning', async () => {
    await follow('replica1');
    await waitFor('*');
    expect(await found('blue')).toEqual([
      expect.stringMatching(
        /^error blue: .* = '\*' means the run's feed to green as well.* stop where green does\. Name the/,
      ),
    ]);
    expect(await found('green')).toEqual([
      expect.stringMatching(
        /^warning green: .*feed to blue as well.* from the promotion on, commits on green can wait/,
      ),
    ]);
    for (const names of ['FIRST 1 (replica1, *)', 'ANY 1 (*)']) {
      await waitFor(names);
      expect(await found('blue'), names).toEqual([expect.stringMatching(/^warning blue: .* in place of a replica/)]);
    }
  });

  it('has its commits wait for a feed that is meant: that is told when it has lasted, and when it is over', async () => {
    await follow(FEED);
    vi.useFakeTimers({ toFake: ['performance'] });
    const databases = { blue: own('blue'), green: own('green', 'mirror') };
    const work = { databases, signal: new AbortController().signal } as unknown as Work;
    const blue = await openSession(databases.blue, { purpose: 'test' });
    const next = async (known: 'follows' | 'synchronous'): Promise<FeedNews | undefined> => {
      const watch = new FeedWatch(work, [FEED], known);
      try {
        for (let second = 0; second < 100; second++) {
          const news = await watch.look(blue);
          if (news !== undefined) return news;
          await sleep(10);
          vi.advanceTimersByTime(1_000);
        }
        return undefined;
      } finally {
        await watch.close();
      }
    };
    try {
      await waitFor('*');
      expect(await withSession(databases.blue, { purpose: 'test' }, (s) => readSynchronousFeeds(s, [FEED]))).toEqual([
        FEED,
      ]);
      expect(await next('follows')).toMatchObject({
        feed: 'synchronous',
        why: expect.stringMatching(/^blue takes the feed to green for a synchronous standby/) as string,
      });
      await waitFor('replica1, replica2');
      expect(await next('synchronous')).toMatchObject({ feed: 'follows' });
    } finally {
      await closeSession(blue);
    }
  });

  it('so has a green in the standby window: it is told behind what else is wrong with the feed', async () => {
    await waitFor('');
    const databases = { blue: own('blue', 'one'), green: own('green', 'two') };
    const migration = 'sync-window';
    for (const name of ['one', 'two']) {
      await on('postgres', (client) => client.query(`CREATE DATABASE ${name}`));
      await on(name, (client) => client.query('CREATE TABLE public.t (id int PRIMARY KEY)'));
    }
    const tables = [{ schema: 'public', name: 't' }];
    await joinDatabases(databases, migration, tables);
    const move = { databases, migration, from: 'blue', tables, maxHoldMs: 2_000 } as const;
    for (const step of ['promote', 'finish'] as const) await carryOut(step, move);
    await withSession(databases.green, { purpose: 'test' }, async (green) => {
      const look = (maxLagMs = 10_000): Promise<StandbyState> =>
        withSession(databases.blue, { purpose: 'test' }, (blue) =>
          lookAtStandby(
            green,
            () => Promise.resolve(blue),
            { runId: 'run', migration },
            { maxLagMs, maxRetainedWal: 1e12 },
            new AbortController().signal,
          ),
        );
      expect(await look()).toMatchObject({ health: 'healthy' });
      await waitFor('*');
      expect(await look()).toMatchObject({
        health: 'synchronous',
        rollbackSafe: true,
        why: expect.stringMatching(
          /^blue follows green; green takes the feed to blue for a synchronous standby/,
        ) as string,
      });
      expect(await look(-1)).toMatchObject({
        health: 'lagging',
        why: expect.stringMatching(/; green takes the feed to blue for a synchronous standby/) as string,
      });
    });
  });
});
