import { randomBytes } from 'node:crypto';
import type pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { refuseCutOff } from '../../activities/instances.js';
import { deploymentFaults, readInstances } from '../../src/gates/instances.js';
import { describeFollowers, readOtherFollowers } from '../../src/gates/other-followers.js';
import { readRouterSnapshots } from '../../src/gates/router-source.js';
import { readStateObjects } from '../../src/postgres/doctor/read-state.js';
import { openSession, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

/* Anybody who can log in may call verdigris.router_heartbeat(). */

const TAG = randomBytes(4).toString('hex');
const [APP, OTHER] = [`app_${TAG}`, `other_${TAG}`] as const;

const COUNTERS = { requests: 1, errors: 0, latency: Array.from({ length: 23 }, () => 0) };
const SIDES = { blue: COUNTERS, green: COUNTERS };
const METRICS = { reads: SIDES, writes: SIDES, fallbacks: { behind: 0, error: 0 }, retriedWrites: 0 };

let own: TestDatabase;
let session: Session;

beforeAll(async () => {
  own = await testDatabase('pg18', 'heartbeats');
  session = await openSession(asDatabase(own, 'blue'), { purpose: 'test' });
  await installState(session, 'blue');
  await session.query(
    `CREATE ROLE ${APP} LOGIN PASSWORD 'x'; CREATE ROLE ${OTHER} LOGIN PASSWORD 'x'; GRANT ${APP} TO ${OTHER}`,
  );
});

beforeEach(() => session.query('TRUNCATE verdigris.router'));

afterAll(async () => {
  await session.query(`DROP ROLE ${APP}, ${OTHER}`);
  await session.end();
  await own.drop();
});

function as<T>(role: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  return withClient({ ...own.config, user: role, password: 'x' }, work);
}

async function beat(
  client: pg.Client,
  metrics: string,
  { instance = 'web-1', migration = 'shop', version = null as string | null, epoch = 1 } = {},
): Promise<void> {
  await client.query('SELECT verdigris.router_heartbeat($1, $2, $3, 1, $4::jsonb, $5)', [
    ...[migration, instance, epoch, metrics, version],
  ]);
}

describe('a heartbeat', () => {
  it('is kept with the role and the address that it came from, which are told with the name', async () => {
    await as(OTHER, async (client) => {
      // Whatever role it plays: it has logged in as this one.
      await client.query(`SET ROLE ${APP}`);
      await beat(client, '{"lacks": ["green"]}', { version: '2.0' });
      await beat(client, '{}', { instance: 'old-1', migration: 'earlier' });
    });
    expect((await session.query('SELECT DISTINCT role, host(address) AS address FROM verdigris.router')).rows).toEqual([
      { role: OTHER, address: '127.0.0.1' },
    ]);
    await expect(refuseCutOff(session, 'shop')).rejects.toThrow(`web-1 (version 2.0, role ${OTHER})`);
    expect(deploymentFaults(await readInstances(session, 'shop'), { minVersion: '3.0' })).toEqual([
      `not at version 3.0: web-1 (version 2.0, role ${OTHER})`,
    ]);
    expect(describeFollowers(await readOtherFollowers(session, 'shop'))).toBe(`old-1 (earlier, role ${OTHER})`);
    expect((await readStateObjects(session)).routers).toMatchObject([
      { from: `role ${OTHER}, 127.0.0.1` },
      { from: `role ${OTHER}, 127.0.0.1` },
    ]);
  });

  it('is told under a name without line breaks, links and characters that nobody sees, whatever it says', async () => {
    const instance = 'web\n\n**Approve**: [here](https://there.example/)\u001b[2J\u202e';
    await as(APP, (app) => beat(app, '{"lacks": ["green"]}', { instance, version: '1\n2' }));
    const told = `web??**Approve**: [here] (https://there.example/)?[2J?`.replace('??', '?');
    await expect(refuseCutOff(session, 'shop')).rejects.toThrow(`${told} (version 1?2, role ${APP})`);
  });

  it('changes no row of another role, unless that one has not been renewed for three seconds', async () => {
    await as(APP, async (app) => {
      await beat(app, '{}', { epoch: 1 });
      await as(OTHER, async (other) => {
        await expect(beat(other, '{"lacks": ["green"]}')).rejects.toMatchObject({ code: '42501' });
        await beat(app, '{}', { epoch: 2 });
        expect(await readInstances(session, 'shop')).toMatchObject([{ role: APP, epoch: 2, lacks: [] }]);
        // As where a secret store makes a role anew, and the application's connections one after the other.
        await session.query(`UPDATE verdigris.router SET seen_at = clock_timestamp() - interval '3.1 s'`);
        await beat(other, '{}', { epoch: 3 });
        expect(await readInstances(session, 'shop')).toMatchObject([{ role: OTHER, epoch: 3 }]);
      });
    });
  });

  it.each([
    { what: 'more than a megabyte of metrics', metrics: JSON.stringify({ x: 'x'.repeat(1_000_000) }) },
    { what: 'a name of more than 300 characters', instance: 'x'.repeat(301) },
    { what: 'a version of more than 300 characters', version: 'x'.repeat(301) },
    { what: 'a migration of more than 300 characters', migration: 'x'.repeat(301) },
  ])('is refused with $what', async ({ metrics = '{}', ...names }) => {
    await expect(as(APP, (app) => beat(app, metrics, names))).rejects.toMatchObject({ code: '54000' });
    expect(await readInstances(session, 'shop')).toEqual([]);
  });

  it('of a new instance is refused beside ten thousand that live; those that are known go on', async () => {
    await as(APP, async (app) => {
      await beat(app, '{}', { instance: 'known' });
      await session.query(`INSERT INTO verdigris.router (instance, migration, epoch, generation, metrics)
        SELECT 'x-' || n, 'shop', 1, 1, '{}' FROM generate_series(1, 9999) n`);
      await expect(beat(app, '{}', { instance: 'new' })).rejects.toMatchObject({ code: '54000' });
      await beat(app, '{}', { instance: 'known' });
      await session.query(
        `UPDATE verdigris.router SET seen_at = clock_timestamp() - interval '6 s' WHERE instance LIKE 'x%'`,
      );
      await beat(app, '{}', { instance: 'new' });
    });
  });

  it.each([
    { what: 'a hundred thousand instances', bound: '100000', small: '3' },
    { what: 'a gigabyte of metrics', bound: '1000000000', small: '4000' },
  ])(
    'of a new instance is refused to a role that has reported $what; those that are known go on, and others',
    async ({ bound, small }) => {
      const { rows } = await session.query<{ ddl: string }>(
        `SELECT pg_get_functiondef('verdigris.router_heartbeat(text, text, bigint, bigint, jsonb, text)'::regprocedure) AS ddl`,
      );
      // To write so many would take many seconds.
      await session.query((rows[0]?.ddl ?? '').replaceAll(`>= ${bound} `, `>= ${small} `));
      try {
        const metrics = JSON.stringify(METRICS);
        await as(APP, async (app) => {
          for (const instance of ['known', 'web-2']) await beat(app, metrics, { instance });
          await session.query(`UPDATE verdigris.router SET seen_at = clock_timestamp() - interval '1 minute'`);
          await beat(app, metrics, { instance: 'web-3' });
          await expect(beat(app, '{}', { instance: 'new' })).rejects.toMatchObject({ code: '54000' });
          await beat(app, metrics, { instance: 'known' });
          await as(OTHER, (other) => beat(other, metrics, { instance: 'of another' }));
          await session.query(
            `UPDATE verdigris.router SET seen_at = clock_timestamp() - interval '2 days' WHERE instance = 'web-2'`,
          );
          await beat(app, '{}', { instance: 'new' });
        });
      } finally {
        await installState(session, 'blue');
      }
    },
  );

  it('is read with those that live, then those that were heard of last: no gate looks at more than there may be', async () => {
    await session.query(
      `INSERT INTO verdigris.router (instance, migration, epoch, generation, metrics, seen_at)
       SELECT 'x-' || n, 'shop', 1, 1, $1, clock_timestamp() - n * interval '10 s' FROM generate_series(1, 9) n`,
      [METRICS],
    );
    await as(APP, (app) => beat(app, JSON.stringify(METRICS), { instance: 'z-lives' }));
    const { live, stale } = await readRouterSnapshots(session, 'shop', 3);
    expect([live, stale].map((some) => some.map(({ instance }) => instance))).toEqual([['z-lives'], ['x-1', 'x-2']]);
  });

  it('of a new instance removes those that nobody has heard of for a day', async () => {
    await session.query(
      `INSERT INTO verdigris.router (instance, migration, epoch, generation, metrics, seen_at)
       SELECT name, 'shop', 1, 1, '{}', clock_timestamp() - ago
         FROM (VALUES ('of long ago', interval '2 days'), ('of today', interval '1 hour')) i (name, ago)`,
    );
    const instances = async (): Promise<unknown[]> =>
      (await session.query('SELECT instance FROM verdigris.router ORDER BY instance')).rows.map(
        (row) => row['instance'],
      );
    await as(APP, (app) => beat(app, '{}', { instance: 'new' }));
    expect(await instances()).toEqual(['new', 'of today']);
  });

  it.each(['null', '"green"', '5', '{"green": 1}', '[null, 1, ["green"]]', '["blue", "mauve"]'])(
    'that lacks %s fails no promotion by its form',
    async (lacks) => {
      await as(APP, (app) => beat(app, `{"lacks": ${lacks}, "name": {"x": 1}}`));
      expect(await readInstances(session, 'shop')).toMatchObject([{ lacks: lacks.includes('blue') ? ['blue'] : [] }]);
      await refuseCutOff(session, 'shop');
    },
  );
});

it('metrics that would fill the memory are not read, and those of the application are all the same', async () => {
  await as(APP, (app) => beat(app, JSON.stringify(METRICS), { instance: 'real' }));
  // To compress them would take seconds.
  await session.query('ALTER TABLE verdigris.router ALTER metrics SET STORAGE EXTERNAL');
  await session.query(
    `INSERT INTO verdigris.router (instance, migration, epoch, generation, metrics)
     SELECT 'x-' || n, 'shop', 1, 1, $1::jsonb || jsonb_build_object('x', repeat('x', 990000)) FROM generate_series(1, 60) n`,
    [JSON.stringify(METRICS)],
  );
  const { live, unreadable } = await readRouterSnapshots(session, 'shop');
  expect(live[0]).toMatchObject({ instance: 'real', metrics: METRICS });
  expect([live.length, unreadable.length]).toEqual([51, 10]);
  // Those that have ended are no reason to conclude nothing: the last of them are read.
  await session.query(
    `UPDATE verdigris.router SET seen_at = clock_timestamp() - interval '2 h' WHERE instance LIKE 'x-%'`,
  );
  const later = await readRouterSnapshots(session, 'shop');
  expect([later.live.length, later.stale.length, later.unreadable.length]).toEqual([1, 50, 0]);
});

it('a run that was begun with an earlier version of the table is read as before', async () => {
  await session.query('BEGIN; ALTER TABLE verdigris.router DROP COLUMN role, DROP COLUMN address, DROP COLUMN version');
  try {
    await session.query(`INSERT INTO verdigris.router (instance, migration, epoch, generation, metrics)
      VALUES ('a', 'shop', 1, 1, '{"lacks": ["green"]}'), ('b', 'earlier', 1, 1, '{}')`);
    expect(await readInstances(session, 'shop')).toMatchObject([
      { instance: 'a', version: null, role: null, lacks: ['green'] },
    ]);
    await expect(refuseCutOff(session, 'shop')).rejects.toThrow('no connection to green: a\n');
    expect(describeFollowers(await readOtherFollowers(session, 'shop'))).toBe('b (earlier)');
    expect((await readStateObjects(session)).routers).toMatchObject([{ from: null }, { from: null }]);
  } finally {
    await session.query('ROLLBACK');
  }
});
