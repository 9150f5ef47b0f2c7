import pg from 'pg';
import { Counter, Registry } from 'prom-client';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { holdOf, NOTHING_YET } from '../../src/gates/lately.js';
import { readRouterSnapshots, type RouterSample } from '../../src/gates/router-source.js';
import { windowBetween } from '../../src/gates/window.js';
import { withSession } from '../../src/postgres/session.js';
import { createRouter } from '../../src/router/index.js';
import type { RouterMetrics } from '../../src/router/metrics-snapshot.js';
import { SILENT } from '../../src/router/logger.js';
import { SideLink } from '../../src/router/side-link.js';
import { Routes } from '../../src/router/routes.js';
import { parseToken } from '../../src/router/token.js';
import { asDatabase } from '../support/postgres.js';
import { metric, MIGRATION, pause, Sides, until } from './sides.js';

let sides: Sides;

beforeAll(async () => {
  sides = await (await Sides.create('route')).claim();
});

beforeEach(() => sides.reset());

afterAll(() => sides.drop());

test('a change is seen at once by notification, and without it at the next poll', async () => {
  const slow = await sides.router({ pollIntervalMs: 60_000 });
  await sides.stage(10);
  expect(await until(() => slow.route().greenReadPercent === 10)).toBeLessThan(5_000);
  const polling = await sides.router({ pollIntervalMs: 50 });
  await sides.sql('blue', 'UPDATE verdigris.route SET green_read_percent = 20, generation = generation + 1');
  expect(await until(() => polling.route().greenReadPercent === 20)).toBeLessThan(5_000);
  // Longer than the time between polls is where nobody has set it.
  await pause(600);
  expect(slow.route().greenReadPercent).toBe(10);
});

test("a Client of the application's own, which may fetch passwords, makes the router's own connections too", async () => {
  const made: unknown[] = [];
  class Own extends pg.Client {
    constructor(config?: pg.ClientConfig) {
      super({ ...config, password: sides.blue.config.password });
      made.push(config?.application_name);
    }
  }
  const router = await sides.router({
    blue: { ...sides.blue.config, password: 'of yesterday', Client: Own },
    green: { ...sides.green.config, port: 1 },
  });
  expect(router.route().epoch).toBeGreaterThan(0);
  expect(made).toEqual(['verdigris router']);
});

test('a look that fails as its connection is lost takes nothing back', async () => {
  const seen: unknown[] = [];
  const logger = { ...SILENT, info: ({ greenReadPercent }: Record<string, unknown>) => seen.push(greenReadPercent) };
  await sides.stage(50);
  const router = await sides.router({ pollIntervalMs: 50, logger });
  await until(() => router.route().greenReadPercent === 50);
  seen.length = 0;
  await sides.sql('blue', 'BEGIN; LOCK TABLE verdigris.route IN ACCESS EXCLUSIVE MODE');
  try {
    await until(async () => {
      const ended = await sides.sql(
        'blue',
        `SELECT pg_terminate_backend(pid) FROM pg_stat_clear_snapshot(), pg_stat_activity
          WHERE datname = current_database() AND application_name = 'verdigris router' AND wait_event_type = 'Lock'`,
      );
      return ended.length > 0;
    });
    await pause(100);
  } finally {
    await sides.sql('blue', 'ROLLBACK');
  }
  await pause(200);
  expect(seen).toEqual([]);
});

test('a first look that is cancelled is no look: the router is not ready before it has seen the route', async () => {
  await sides.decide('green');
  await sides.open('green');
  let cancels = 1;
  const { query } = SideLink.prototype;
  const cancelled = vi.spyOn(SideLink.prototype, 'query').mockImplementation(async function (this: SideLink, ...of) {
    if (!of[0].includes('FROM verdigris.route') || cancels === 0) return query.apply(this, of);
    cancels -= 1;
    throw Object.assign(new pg.DatabaseError('no', 0, 'error'), { code: '57014' });
  });
  try {
    const warned: object[] = [];
    const logger = { ...SILENT, warn: (facts: object) => void warned.push(facts) };
    const options = { blue: { ...sides.blue.config, port: 1 }, pollIntervalMs: 20, logger };
    const first = await sides.router(options);
    expect([first.route().writesOn, warned]).toEqual(['green', []]);
    await first.close();

    cancels = Infinity;
    let isReady = false;
    const late = sides.router(options).finally(() => (isReady = true));
    await until(() => warned.length > 0);
    await pause(200);
    expect([isReady, warned]).toEqual([false, [{ side: 'green', code: '57014' }]]);
    cancels = 0;
    expect((await late).route().writesOn).toBe('green');
  } finally {
    cancelled.mockRestore();
  }
});

test('a standby is not asked to listen until it is none any more', async () => {
  let recovers = 'true';
  const asked: string[] = [];
  const { query } = SideLink.prototype;
  const standby = vi.spyOn(SideLink.prototype, 'query').mockImplementation(async function (this: SideLink, ...of) {
    asked.push(of[0]);
    if (of[0].includes('pg_is_in_recovery()')) return [{ recovers }] as never;
    return query.apply(this, of);
  });
  try {
    const listens = (): number => asked.filter((text) => text.startsWith('LISTEN')).length;
    const router = await sides.router({ pollIntervalMs: 20 });
    await sides.stage(30);
    await until(() => router.route().greenReadPercent === 30);
    expect(listens()).toBe(0);
    recovers = 'false';
    await until(() => listens() === 2);
    await pause(100);
    expect(listens()).toBe(2);
  } finally {
    standby.mockRestore();
  }
});

test('a heartbeat waits for no disk and no synchronous standby', async () => {
  await sides.sql(
    'blue',
    `CREATE TABLE noted (setting text);
     CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
     BEGIN INSERT INTO public.noted VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
     CREATE CONSTRAINT TRIGGER note AFTER INSERT OR UPDATE ON verdigris.router DEFERRABLE INITIALLY DEFERRED
       FOR EACH ROW EXECUTE FUNCTION note()`,
  );
  try {
    await sides.router({ heartbeatIntervalMs: 20 });
    await sides.router({ heartbeatIntervalMs: 20, version: '1.0' });
    // As it is when the beat commits.
    await until(async () => (await sides.sql('blue', 'SELECT FROM noted')).length > 4);
    expect(await sides.sql('blue', 'SELECT DISTINCT setting FROM noted')).toEqual([{ setting: 'off' }]);
  } finally {
    await sides.sql('blue', 'DROP FUNCTION note() CASCADE; DROP TABLE noted');
  }
});

test('an epoch that is over never comes back', async () => {
  const router = await sides.router({ pollIntervalMs: 20 });
  await sides.decide('green');
  await sides.open('green');
  await until(() => router.route().writesOn === 'green');
  const epoch = router.route().epoch;
  for (const side of ['blue', 'green'] as const) {
    await sides.sql(side, "UPDATE verdigris.route SET epoch = epoch - 1, writes_on = 'blue', generation = 99");
  }
  await pause(150);
  expect(router.route()).toMatchObject({ epoch, writesOn: 'green' });
});

test('one side that has decided is enough to know where writes are', async () => {
  const router = await sides.router({ green: { ...sides.green.config, port: 1 } });
  await sides.decide('green');
  expect(await until(() => router.route().writesOn === 'green')).toBeLessThan(5_000);
});

test('after a promotion and its rollback writes are on blue again', async () => {
  const router = await sides.router();
  await sides.decide('green');
  await sides.open('green');
  expect((await router.write('u', 'INSERT INTO item VALUES (1)')).side).toBe('green');
  await sides.decide('blue');
  await sides.open('blue');
  expect((await router.write('u', 'INSERT INTO item VALUES (2)')).side).toBe('blue');
  expect(router.route()).toMatchObject({ writesOn: 'blue', greenReadPercent: 0 });
});

test('what is written on blue after a rollback tells others to look again, until the next attempt begins', async () => {
  const router = await sides.router();
  await sides.decide('green');
  await sides.open('green');
  await until(() => router.route().writesOn === 'green');
  await sides.decide('blue');
  await sides.open('blue');
  await router.write('u', 'INSERT INTO item VALUES (1)');
  const { epoch } = router.route();
  expect(parseToken(router.exportToken('u') ?? '')).toMatchObject({ epoch });
  for (const side of ['blue', 'green'] as const) {
    await sides.sql(side, 'UPDATE verdigris.route SET epoch = epoch + 1, green_read_percent = 0');
    await sides.sql(side, 'NOTIFY verdigris_route');
  }
  await until(() => router.route().epoch === epoch + 1);
  await router.write('v', 'INSERT INTO item VALUES (2)');
  expect(router.exportToken('v')).toBeUndefined();
});

test('a router that is closed says so: it is not waited for, and not taken for one that was cut off', async () => {
  const [stays, ends] = [await sides.router(), await sides.router()];
  const read = async (): Promise<RouterSample> =>
    withSession(asDatabase(sides.blue, 'blue'), { purpose: 'test' }, (session) =>
      readRouterSnapshots(session, MIGRATION),
    );
  let sample = await read();
  await until(async () => (sample = await read()).live.length === 2);
  const opened = sample;
  await ends.close();
  sample = await read();
  expect(sample.live.map(({ instance }) => instance)).toEqual([stays.instance]);
  expect(sample.stale).toMatchObject([{ instance: ends.instance, metrics: { ended: true } }]);

  const aMinuteLater = {
    ...sample,
    at: new Date(Date.parse(sample.at) + 60_000).toISOString(),
    stale: sample.stale.map((one) => ({ ...one, ageSeconds: 60 })),
  };
  const presence = { lately: NOTHING_YET, window: windowBetween(opened, aMinuteLater), opened, now: aMinuteLater };
  expect(holdOf(presence)).toBeUndefined();
  const cutOff = sample.stale.map((one) => {
    const { ended, ...metrics } = one.metrics;
    expect(ended).toBe(true);
    return { ...one, ageSeconds: 60, metrics };
  });
  expect(holdOf({ ...presence, now: { ...aMinuteLater, stale: cutOff } })).toContain(ends.instance);
});

describe('without a run', () => {
  test('everything is on blue, and no error is left in the server log', async () => {
    const plain = await Sides.create('no run');
    try {
      const router = await plain.router({ pollIntervalMs: 20 });
      expect(router.route()).toMatchObject({ epoch: 0, writesOn: 'blue', greenReadPercent: 0 });
      expect((await router.write('u', 'INSERT INTO item VALUES (1)')).side).toBe('blue');
      expect((await router.read('u', 'SELECT id FROM item')).side).toBe('blue');
      // A run that begins later is found.
      await plain.claim();
      await until(() => router.route().epoch === 1);
      // One that is rolled back leaves nothing, and reads go to blue at once.
      await plain.stage(100);
      await until(() => router.route().greenReadPercent === 100);
      await plain.sql('blue', 'DROP SCHEMA verdigris CASCADE');
      await until(() => router.route().greenReadPercent === 0);
      await plain.sql('green', 'DROP SCHEMA verdigris CASCADE');
      await until(() => router.route().epoch === 0);
    } finally {
      await plain.drop();
    }
  });

  test('another migration is none of this router', async () => {
    const router = await sides.router({ migration: 'other' });
    await sides.stage(100);
    await pause(50);
    expect(router.route()).toMatchObject({ epoch: 0, greenReadPercent: 0 });
  });
});

describe('what a router reports', () => {
  test('the run sees when every process has taken a stage over, and what they counted', async () => {
    const routers = [await sides.router({ instance: 'a' }), await sides.router({ instance: 'b' })];
    const generation = await sides.stage(50);
    const epoch = routers[0]?.route().epoch ?? 0;
    await withSession(asDatabase(sides.blue, 'blue'), { purpose: 'test' }, async (session) => {
      const took = await until(async () =>
        (await readRouterSnapshots(session, MIGRATION)).allConfirmed(epoch, generation),
      );
      expect(took).toBeLessThan(5_000);
      await routers[0]?.read(undefined, 'SELECT 1');
      await routers[1]?.write('u', 'INSERT INTO item VALUES (1)');
      await until(async () => {
        const { live } = await readRouterSnapshots(session, MIGRATION);
        return (
          live.some(({ metrics }) => metrics.reads.blue.requests === 1) &&
          live.some(({ metrics }) => metrics.writes.blue.requests === 1)
        );
      });
      const sample = await readRouterSnapshots(session, MIGRATION);
      const names = routers.map(({ instance }) => instance);
      expect(names).toEqual([expect.stringMatching(/^a-[0-9a-f]{6}$/), expect.stringMatching(/^b-[0-9a-f]{6}$/)]);
      expect(sample.live.map((router) => router.instance)).toEqual(names);
      expect(sample.unconfirmed(epoch, generation + 1)).toEqual(names);
      await sides.sql(
        'blue',
        "UPDATE verdigris.router SET seen_at = now() - interval '6 s', instance = 'gone' WHERE instance LIKE 'b-%'",
      );
      const later = await readRouterSnapshots(session, MIGRATION);
      expect(later.stale.map((router) => router.instance)).toEqual(['gone']);
    });
  });

  test('an application role without rights of its own can report and follow', async () => {
    const role = `app_${sides.blue.database.slice(-8)}`;
    await sides.sql('blue', `CREATE ROLE ${role} LOGIN PASSWORD 'x'`);
    try {
      const router = await sides.router({
        instance: 'plain',
        blue: { ...sides.blue.config, user: role, password: 'x' },
      });
      await sides.stage(10);
      await until(() => router.route().greenReadPercent === 10);
      await until(
        async () =>
          (await sides.sql('blue', "SELECT FROM verdigris.router WHERE instance LIKE 'plain-%'")).length === 1,
      );
      await router.close();
    } finally {
      await sides.sql('blue', `DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  });

  test('an endpoint of any name at all keeps nobody from hearing of the instance', async () => {
    const router = await sides.router();
    await router.read(undefined, 'SELECT 1', undefined, { endpoint: '/a\0b\ud800' });
    await until(async () => {
      const [row] = await sides.sql<{ metrics: RouterMetrics }>(
        'blue',
        'SELECT metrics FROM verdigris.router WHERE instance = $1',
        [router.instance],
      );
      return row?.metrics.endpoints?.['/a\ufffdb\ufffd']?.blue.requests === 1;
    });
  });

  test('a heartbeat that can not be written again and again is a warning, once', async () => {
    const warned: object[] = [];
    const logger = { debug: () => undefined, info: () => undefined, warn: (facts: object) => void warned.push(facts) };
    await sides.router({ logger, heartbeatIntervalMs: 20 });
    await sides.sql('blue', 'ALTER TABLE verdigris.router RENAME TO router_away');
    try {
      await until(() => warned.length > 0);
      await pause(100);
    } finally {
      await sides.sql('blue', 'ALTER TABLE verdigris.router_away RENAME TO router');
    }
    expect(warned).toEqual([{ side: 'blue', code: '42P01' }]);
  });

  test('the metrics name sides and endpoints, and no user', async () => {
    const router = await sides.router();
    await router.read('secret-user', 'SELECT $1::text', ['secret-value'], { endpoint: 'orders' });
    const text = await router.metrics.metrics();
    expect(text).toContain('verdigris_router_requests_total{side="blue",kind="read",endpoint="orders",outcome="ok"} 1');
    expect(text).toContain(`verdigris_router_route_epoch ${router.route().epoch}`);
    expect(text).not.toContain('secret');
    expect(await metric(router, 'verdigris_router_writes_on', { side: 'blue' })).toBe(1);
  });

  test("the application's registry takes one router at a time, and keeps what is the application's", async () => {
    const registry = new Registry();
    new Counter({ name: 'orders_total', help: 'orders', registers: [registry] }).inc();
    const first = await sides.router({ registry });
    await expect(sides.router({ registry })).rejects.toThrow(/^the registry has the metrics of another router/);
    await expect(sides.router({ registry })).rejects.toThrow(RangeError);
    await first.read('u', 'SELECT 1');
    expect(await registry.metrics()).toContain('verdigris_router_requests_total{side="blue"');
    await first.close();
    expect((await registry.getMetricsAsJSON()).map(({ name }) => name)).toEqual(['orders_total']);

    const second = await sides.router({ registry });
    await second.read('u', 'SELECT 1');
    expect(await metric(second, 'verdigris_router_requests_total')).toBe(1);
    // Closed late, when somebody else has cleared the registry and a third router is in it.
    registry.clear();
    const third = await sides.router({ registry });
    await second.close();
    expect(await metric(third, 'verdigris_router_writes_on', { side: 'blue' })).toBe(1);
  });
});

test('green has as many connections as blue before writes move there', async () => {
  const router = await sides.router();
  await Promise.all(Array.from({ length: 8 }, () => router.read(undefined, 'SELECT pg_sleep(0.05)')));
  await sides.sql(
    'blue',
    "UPDATE verdigris.route SET opening = 'green', generation = generation + 1; NOTIFY verdigris_route",
  );
  await until(async () => {
    const [row] = await sides.sql<{ n: number }>(
      'green',
      "SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'",
    );
    // The pool's, the router's link and this test's own is active.
    return (row?.n ?? 0) >= 9;
  });
});

test('options that make no sense are refused', () => {
  const { blue, green } = { blue: sides.blue.config, green: sides.green.config };
  expect(() => createRouter({ migration: '', blue, green })).toThrow(RangeError);
  expect(() => createRouter({ migration: 'x', blue, green, writeTimeoutMs: -1 })).toThrow('writeTimeoutMs');
  expect(() => createRouter({ migration: 'x', blue, green, pollIntervalMs: Number.NaN })).toThrow('pollIntervalMs');
});

test('within an epoch the higher generation counts, whichever side says it', () => {
  const routes = new Routes('m');
  const base = { migration: 'm', epoch: 5, writesOn: 'blue', flag: 'f', opening: null } as const;
  routes.see('blue', { ...base, generation: 4, greenReadPercent: 50 });
  routes.see('green', { ...base, generation: 2, greenReadPercent: 0 });
  expect(routes.current).toMatchObject({ generation: 4, greenReadPercent: 50 });
  routes.see('green', { ...base, generation: 5, greenReadPercent: 0 });
  expect(routes.current).toMatchObject({ generation: 5, greenReadPercent: 0 });
  routes.see('blue', { ...base, generation: 5, greenReadPercent: 10, opening: 'green' });
  expect(routes.current).toMatchObject({ greenReadPercent: 10, opening: 'green' });
  routes.see('blue', { ...base, epoch: 4, generation: 99, greenReadPercent: 99 });
  expect(routes.current).toMatchObject({ epoch: 5, generation: 5, greenReadPercent: 0 });
});

test('a blue that knows no run any more takes all reads back, whatever green still says', () => {
  const routes = new Routes('m');
  const base = { migration: 'm', epoch: 5, writesOn: 'blue', flag: 'f', opening: null } as const;
  routes.see('blue', { ...base, generation: 4, greenReadPercent: 50 });
  routes.see('green', { ...base, generation: 2, greenReadPercent: 10 });
  routes.see('blue', 'none');
  expect(routes.current).toMatchObject({ epoch: 5, greenReadPercent: 0 });
  routes.see('green', { ...base, generation: 9, greenReadPercent: 10 });
  expect(routes.current).toMatchObject({ greenReadPercent: 0 });
  routes.see('green', 'none');
  expect(routes.current).toMatchObject({ epoch: 0, writesOn: 'blue' });
});

test.each([false, true])(
  'writes are back on blue for one epoch (proven by a write before it is told: %s)',
  async (isProven) => {
    const base = { migration: 'm', generation: 1, greenReadPercent: 0, flag: 'f', opening: null } as const;
    const routes = new Routes('m');
    const back: boolean[] = [];
    for (const epoch of [1, 2, 3, 4]) {
      routes.see('blue', { ...base, epoch, writesOn: epoch === 2 ? 'green' : 'blue' });
      back.push(routes.isBackOnBlue);
      if (isProven && epoch === 2) {
        await routes.settle(routes.current, 'blue');
        expect(routes.isBackOnBlue).toBe(true);
      }
    }
    expect(back).toEqual([false, false, true, false]);
  },
);

test('after a promotion writes stay on green, even when no side has a row any more', () => {
  const routes = new Routes('m');
  routes.see('green', {
    migration: 'm',
    epoch: 6,
    generation: 1,
    writesOn: 'green',
    greenReadPercent: 100,
    flag: 'f',
    opening: null,
  });
  routes.see('green', 'none');
  routes.see('blue', 'none');
  expect(routes.current).toMatchObject({ epoch: 6, writesOn: 'green' });
});
