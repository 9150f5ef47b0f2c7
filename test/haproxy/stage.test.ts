import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { refuseReadsOnGreenOf } from '../../activities/haproxy.js';
import { planSchema } from '../../src/plan/schema.js';
import { closeSession, openSession } from '../../src/postgres/session.js';
import { databasesOf } from '../../src/worker/connections.js';
import { MIGRATION, until } from '../router/sides.js';
import { findHaproxy, sideOf } from '../support/haproxy.js';
import { HaproxyStages } from '../support/haproxy-stages.js';
import { ReadLoad } from '../support/read-load.js';

const isThere = findHaproxy() !== undefined;
if (!isThere) process.stdout.write('SKIPPED stages behind HAProxy: haproxy is not installed\n');

describe.skipIf(!isThere)('a stage behind HAProxy', () => {
  let stages: HaproxyStages;

  beforeAll(async () => {
    stages = await HaproxyStages.create('haproxy_stage');
  }, 60_000);

  afterEach(() => stages.reset());

  afterAll(() => stages.drop());

  it('is the share of new connections that it says, at each HAProxy: 10 percent', () => stages.givesItsShare(10));

  // Again where the machine itself stood still: what makes it slow is there each time.
  it('brings reads back within a second', { retry: 2 }, async () => {
    const plan = stages.planWith();
    await stages.openStage(plan, 50);
    const decided = performance.now();
    await stages.readsToBlue(plan);
    expect(performance.now() - decided).toBeLessThan(1_000);
    for (const haproxy of stages.haproxies) expect(await haproxy.weights()).toBe('200/0');
  });

  it('brings reads back: no new connection fails, and none stays on green', async () => {
    const plan = stages.planWith();
    await stages.openStage(plan, 50);
    const kept: pg.Client[] = [];
    for (let i = 0; i < 10; i++) kept.push(await stages.one(i % 2).connect(stages.reader));
    stages.closeLater(async () => void (await Promise.all(kept.map((client) => client.end().catch(() => undefined)))));
    const before = await Promise.all(kept.map(sideOf));
    expect(before.filter((side) => side === 'green').length).toBeGreaterThan(2);
    const loads = stages.haproxies.map((haproxy) => new ReadLoad(haproxy, stages.reader));
    stages.closeLater(async () => void (await Promise.all(loads.map((load) => load.stop()))));
    await sleep(300);

    const decided = performance.now();
    await stages.readsToBlue(plan);
    const back = performance.now();
    for (const haproxy of stages.haproxies) expect(await haproxy.weights()).toBe('200/0');
    // Pooled connections to green are gone, those to blue are as they were.
    const after = await Promise.allSettled(kept.map(sideOf));
    expect(after.map((one) => (one.status === 'fulfilled' ? one.value : 'cut'))).toEqual(
      before.map((side) => (side === 'green' ? 'cut' : 'blue')),
    );
    await Promise.all(loads.map((load) => load.until(20, back)));
    await Promise.all(loads.map((load) => load.stop()));
    for (const load of loads) {
      const since = load.since(back);
      expect(since.filter(({ side }) => side !== 'blue')).toEqual([]);
      // Only one that was on green in that moment was cut: at most one a client of the load.
      expect(load.reads.filter(({ side }) => side === 'failed').length).toBeLessThanOrEqual(3);
      expect(load.reads.filter(({ side, begunAt }) => side === 'failed' && begunAt < decided - 1_000)).toEqual([]);
    }
    process.stdout.write(`HAProxy: reads back on blue ${Math.round(back - decided)} ms after the decision\n`);
  });

  it('that is taken back warns of a HAProxy that was reloaded in it: what the process before leads to green is not cut', async () => {
    const plan = stages.planWith();
    // Other tests have opened stages in the same run.
    await stages.readsToBlue(plan);
    await stages.openStage(plan, 100);
    const kept = await stages.one(1).connect(stages.reader);
    stages.closeLater(() => kept.end().catch(() => undefined));
    expect(await sideOf(kept)).toBe('green');
    await sleep(1_200);
    await stages.one(1).reload();
    const warnings = [expect.stringContaining('HAProxy "haproxy_2" was started while green had a share') as string];
    expect(await stages.readsToBlue(plan)).toMatchObject({ unconfirmed: [], warnings });
    expect(await stages.one(1).weights()).toBe('200/0');
    expect(await sideOf(kept)).toBe('green');
    // A step that comes later says the same; a reload after it is nobody's news.
    expect(await stages.readsToBlue(plan)).toMatchObject({ unconfirmed: [], warnings });
    await sleep(1_200);
    await stages.one(1).reload();
    expect(await stages.readsToBlue(plan)).toBeNull();
  });

  const told =
    "gets no more new connections from the gate's decision on, whenever the run hears of it; flagd's file says so, too";
  it(told, { retry: 2 }, async () => {
    const folder = await mkdtemp(join(tmpdir(), 'verdigris-decision-'));
    stages.closeLater(() => rm(folder, { recursive: true, force: true }));
    const flagd = { path: join(folder, 'flags.json') };
    const input = stages.planInput();
    const gates = [{ metric: 'longTransactions' as const, max: '1s' }];
    const plan = planSchema.parse({ ...input, traffic: { ...input.traffic, gates, flagd } });
    await stages.openStage(plan, 50);
    const client = new pg.Client(stages.sides.green.config);
    await client.connect();
    stages.closeLater(() => client.end());
    await client.query('BEGIN; SELECT txid_current()');
    // The run does nothing with what the watch says.
    await stages.watchGates(plan, 50);
    for (const haproxy of stages.haproxies) expect(await haproxy.weights()).toBe('200/0');
    expect(JSON.parse(await readFile(flagd.path, 'utf8'))).toMatchObject({ metadata: { greenReadPercent: 0 } });
    const [row] = await stages.sides.sql<{ ms: number }>(
      'blue',
      'SELECT (extract(epoch FROM clock_timestamp() - updated_at) * 1000)::float8 AS ms FROM verdigris.route',
    );
    process.stdout.write(`HAProxy: no share of green ${Math.round(row?.ms ?? 0)} ms after a gate's decision\n`);
    expect(row?.ms).toBeLessThan(1_000);
  });

  it('that is taken back says which HAProxy could not be told', async () => {
    const [route] = await stages.sides.sql<{ epoch: number; generation: number }>(
      'blue',
      'SELECT epoch::int, generation::int FROM verdigris.route',
    );
    await stages.sides.sql(
      'blue',
      `INSERT INTO verdigris.router (instance, migration, epoch, generation, metrics, seen_at)
       VALUES ('stuck-1', '${MIGRATION}', ${route?.epoch ?? 0}, ${route?.generation ?? 0}, '{}', now() + interval '1 hour')`,
    );
    const opening = stages.openStage(stages.planWith(), 10);
    opening.catch(() => undefined);
    await until(async () => (await stages.one(1).weights()) === '180/20');
    stages.one(1).kill('SIGSTOP');
    const back = { epoch: route?.epoch, generation: (route?.generation ?? 0) + 2, greenReadPercent: 0 };
    await expect(opening).rejects.toMatchObject({
      details: [{ greenReadPercent: 0, readsOwed: { route: back, unconfirmed: ['HAProxy "haproxy_2"'] } }],
    });
    stages.one(1).kill('SIGCONT');
    await until(async () => (await stages.one(1).weights()) === '200/0', 10_000);
  });

  it("lets a rollback take green's tables away only when no restart of a HAProxy would lead there", async () => {
    const plan = stages.planWith();
    await stages.openStage(plan, 100);
    await stages.readsToBlue(plan);
    const session = await openSession(databasesOf(plan, stages.environment).blue, { purpose: 'test' });
    stages.closeLater(() => closeSession(session));
    const leavesGreen = (): Promise<void> =>
      new MockActivityEnvironment().run(() => refuseReadsOnGreenOf({ plan, runId: 'r' }, stages.environment, session));
    await leavesGreen();
    const before = stages.one(1).listen;
    const [onGreen, onNobody] = [
      before.replace('weight 200', 'weight 0').replace(/(server green .*) weight 0/, '$1 weight 200'),
      before.replace('weight 200', 'weight 0'),
    ];
    stages.closeLater(async () => void (await Promise.resolve((stages.one(1).listen = before))));
    for (const [listen, why] of [
      [onGreen, 'the server "green" the weight 200'],
      [onNobody, 'the server "blue" the weight 0'],
    ] as const) {
      stages.one(1).listen = listen;
      await stages.one(1).restart();
      await expect(leavesGreen()).rejects.toMatchObject({
        type: 'WeightsNotSet',
        what: expect.stringMatching(new RegExp(`^HAProxy "haproxy_2" would not lead .* ${why}$`)) as string,
      });
      expect(await stages.one(1).weights()).toBe('200/0');
    }
    stages.one(1).listen = before;
    await stages.one(1).restart();
    await leavesGreen();
  });

  it('is refused where the backend or a server has another name, before anything moves', async () => {
    for (const [haproxy, why] of [
      [{ backend: 'writes' }, `HAProxy "haproxy_1" has no backend "writes"`],
      [{ green: 'gren' }, `HAProxy "haproxy_1" has no server gren in "reads"`],
    ] as const) {
      await expect(stages.openStage(stages.planWith(haproxy), 10)).rejects.toMatchObject({
        type: 'WeightsNotSet',
        message: expect.stringContaining(why) as string,
      });
    }
    expect(await stages.percentInForce()).toBe(0);
    expect(await stages.one(0).weights()).toBe('200/0');
  });

  it('of a worker that does not know a HAProxy is not opened; reads go back all the same', async () => {
    const plan = stages.planWith();
    await stages.openStage(plan, 10);
    const { VERDIGRIS_CONNECTION_HAPROXY_2: known = '', ...others } = stages.environment;
    stages.environment = others;
    try {
      await expect(stages.openStage(plan, 50)).rejects.toMatchObject({ type: 'ConnectionUnknown' });
      expect(await stages.percentInForce()).toBe(10);
      await stages.readsToBlue(plan);
      expect(await stages.percentInForce()).toBe(0);
      expect(await stages.one(0).weights()).toBe('200/0');
    } finally {
      stages.environment = { ...others, VERDIGRIS_CONNECTION_HAPROXY_2: known };
    }
  });
});
