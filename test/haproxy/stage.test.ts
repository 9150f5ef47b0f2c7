import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { CancelledFailure } from '@temporalio/common';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { instanceActivities } from '../../activities/instances.js';
import { trafficActivities } from '../../activities/traffic.js';
import { bring } from '../../src/haproxy/bring.js';
import { haproxiesOf } from '../../src/haproxy/from-plan.js';
import type { ShareReader } from '../../src/haproxy/share.js';
import { tsxArguments } from '../../src/embedded/tsx-process.js';
import { planSchema, type Plan, type PlanInput } from '../../src/plan/schema.js';
import { MIGRATION, Sides, until } from '../router/sides.js';
import { configOf, findHaproxy, sideOf, TestHaproxy } from '../support/haproxy.js';
import { ReadLoad } from '../support/read-load.js';
import { createReaderRole, type ReaderRole } from '../support/reader-role.js';
import { RuntimeApiProxy } from '../support/runtime-api-proxy.js';

const isThere = findHaproxy() !== undefined;
if (!isThere) process.stdout.write('SKIPPED stages behind HAProxy: haproxy is not installed\n');

type Activities = ReturnType<typeof trafficActivities>;

describe.skipIf(!isThere)('a stage behind HAProxy', () => {
  let sides: Sides;
  let haproxies: TestHaproxy[] = [];
  /** How an application logs in: the same on both sides. */
  let role: ReaderRole;
  let reader: pg.ClientConfig;
  let environment: Record<string, string> = {};
  const closing: (() => Promise<void>)[] = [];

  beforeAll(async () => {
    sides = await (await Sides.create('haproxy_stage')).claim();
    role = await createReaderRole();
    reader = role.config;
    const config = configOf({ blue: sides.blue.port, green: sides.green.port });
    haproxies = [await TestHaproxy.start(config), await TestHaproxy.start(config)];
    environment = {
      VERDIGRIS_CONNECTION_B: sides.blue.uri,
      VERDIGRIS_CONNECTION_G: sides.green.uri,
      VERDIGRIS_CONNECTION_HAPROXY_1: one(0).uri,
      VERDIGRIS_CONNECTION_HAPROXY_2: one(1).uri,
    };
  }, 60_000);

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
    for (const haproxy of haproxies) await haproxy.restart();
    await sides.reset();
  });

  afterAll(async () => {
    await Promise.all(haproxies.map((haproxy) => haproxy.stop()));
    await role.drop();
    await sides.drop();
  });

  function one(i: number): TestHaproxy {
    const haproxy = haproxies[i];
    if (haproxy === undefined) throw new Error(`there is no HAProxy ${i}`);
    return haproxy;
  }

  function planInput(haproxy: Partial<NonNullable<NonNullable<PlanInput['traffic']>['haproxy']>> = {}): PlanInput {
    return {
      ...{ name: MIGRATION, blue: { connection: 'b' }, green: { connection: 'g' } },
      traffic: {
        gates: [{ metric: 'longTransactions', max: '1h' }],
        maxStageDuration: '2s',
        haproxy: { backend: 'reads', instances: ['haproxy_1', 'haproxy_2'], ...haproxy },
      },
    };
  }

  const planWith = (haproxy = {}): Plan => planSchema.parse(planInput(haproxy));

  function act<T>(
    plan: Plan,
    what: (activities: Activities, ref: { plan: Plan; runId: string }) => Promise<T>,
    context = new MockActivityEnvironment(),
  ): Promise<T> {
    const activities = trafficActivities({
      ...{ environment, redact: (text: string) => text },
      patience: { confirmMs: 3_000, lookMs: 8_000 },
    });
    return context.run(() => what(activities, { plan, runId: 'r' }));
  }

  const stageOf = (percent: number): { percent: number; for: string } => ({ percent, for: '1s' });
  const openStage = (plan: Plan, percent: number): Promise<{ routers: number }> =>
    act(plan, (activities, ref) => activities.openStage(ref, stageOf(percent)));
  const judgeStage = (plan: Plan, percent: number): ReturnType<Activities['judgeStage']> =>
    act(plan, (activities, ref) => activities.judgeStage(ref, stageOf(percent)));
  const readsToBlue = (plan: Plan): ReturnType<Activities['readsToBlue']> =>
    act(plan, (activities, ref) => activities.readsToBlue(ref));
  const percentInForce = async (): Promise<number | undefined> =>
    (await sides.sql<{ p: number }>('blue', 'SELECT green_read_percent::float8 AS p FROM verdigris.route'))[0]?.p;

  it('is the share of new connections that it says, at each HAProxy, and none at all at 0 %', async () => {
    const plan = planWith();
    for (const percent of [0, 0.5, 10, 50, 100]) {
      await openStage(plan, percent);
      for (const { blue, green } of await Promise.all(haproxies.map((haproxy) => haproxy.shares(reader, 200)))) {
        expect(blue + green).toBe(200);
        if (percent === 0 || percent === 100) expect(green).toBe(percent * 2);
        // HAProxy takes turns: one round of all weights is 200 connections, and may begin anywhere.
        else expect(Math.abs(green - percent * 2)).toBeLessThanOrEqual(1);
      }
    }
  });

  it('brings reads back within a second: no new connection fails, and none stays on green', async () => {
    const plan = planWith();
    await openStage(plan, 50);
    const kept: pg.Client[] = [];
    for (let i = 0; i < 10; i++) kept.push(await one(i % 2).connect(reader));
    closing.push(async () => void (await Promise.all(kept.map((client) => client.end().catch(() => undefined)))));
    const before = await Promise.all(kept.map(sideOf));
    expect(before.filter((side) => side === 'green').length).toBeGreaterThan(2);
    const loads = haproxies.map((haproxy) => new ReadLoad(haproxy, reader));
    closing.push(async () => void (await Promise.all(loads.map((load) => load.stop()))));
    await sleep(300);

    const decided = performance.now();
    await readsToBlue(plan);
    const back = performance.now();
    expect(back - decided).toBeLessThan(1_000);
    for (const haproxy of haproxies) expect(await haproxy.weights()).toBe('200/0');
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

  it("gets no more new connections from the gate's decision on, whenever the run hears of it; flagd's file says so, too", async () => {
    const folder = await mkdtemp(join(tmpdir(), 'verdigris-decision-'));
    closing.push(() => rm(folder, { recursive: true, force: true }));
    const flagd = { path: join(folder, 'flags.json') };
    const input = planInput();
    const gates = [{ metric: 'longTransactions' as const, max: '1s' }];
    const plan = planSchema.parse({ ...input, traffic: { ...input.traffic, gates, flagd } });
    await openStage(plan, 50);
    const client = new pg.Client(sides.green.config);
    await client.connect();
    closing.push(() => client.end());
    await client.query('BEGIN; SELECT txid_current()');
    // The run does nothing with what the watch says.
    await act(plan, (activities, ref) => activities.watchGates(ref, stageOf(50)));
    for (const haproxy of haproxies) expect(await haproxy.weights()).toBe('200/0');
    expect(JSON.parse(await readFile(flagd.path, 'utf8'))).toMatchObject({ metadata: { greenReadPercent: 0 } });
    const [row] = await sides.sql<{ ms: number }>(
      'blue',
      'SELECT (extract(epoch FROM clock_timestamp() - updated_at) * 1000)::float8 AS ms FROM verdigris.route',
    );
    process.stdout.write(`HAProxy: no share of green ${Math.round(row?.ms ?? 0)} ms after a gate's decision\n`);
    expect(row?.ms).toBeLessThan(1_000);
  });

  it('that is taken back says which HAProxy could not be told', async () => {
    const [route] = await sides.sql<{ epoch: number; generation: number }>(
      'blue',
      'SELECT epoch::int, generation::int FROM verdigris.route',
    );
    await sides.sql(
      'blue',
      `INSERT INTO verdigris.router (instance, migration, epoch, generation, metrics, seen_at)
       VALUES ('stuck-1', '${MIGRATION}', ${route?.epoch ?? 0}, ${route?.generation ?? 0}, '{}', now() + interval '1 hour')`,
    );
    const opening = openStage(planWith(), 10);
    opening.catch(() => undefined);
    await until(async () => (await one(1).weights()) === '180/20');
    one(1).kill('SIGSTOP');
    const back = { epoch: route?.epoch, generation: (route?.generation ?? 0) + 2, greenReadPercent: 0 };
    await expect(opening).rejects.toMatchObject({
      details: [{ greenReadPercent: 0, readsOwed: { route: back, unconfirmed: ['HAProxy "haproxy_2"'] } }],
    });
    one(1).kill('SIGCONT');
    await until(async () => (await one(1).weights()) === '200/0', 10_000);
  });

  it('with "leave", cuts nobody when reads go back', async () => {
    const plan = planWith({ openConnections: 'leave' });
    await openStage(plan, 50);
    const loads = haproxies.map((haproxy) => new ReadLoad(haproxy, reader));
    await sleep(300);
    await readsToBlue(plan);
    const back = performance.now();
    await sleep(300);
    await Promise.all(loads.map((load) => load.stop()));
    for (const load of loads) {
      expect(load.reads.filter(({ side }) => side === 'failed')).toEqual([]);
      expect(load.since(back).filter(({ side }) => side !== 'blue')).toEqual([]);
    }
  });

  it('is put right after a HAProxy was restarted in the middle of it, and passes only while it is in force', async () => {
    const plan = planWith();
    await openStage(plan, 50);
    const context = new MockActivityEnvironment();
    const watch = act(plan, (activities, ref) => activities.watchGates(ref, stageOf(50)), context);
    const ended = watch.then(
      () => 'a gate failed',
      (error: unknown) => error,
    );
    await one(1).restart();
    const took = await until(async () => (await one(1).weights()) === '100/100', 10_000);
    process.stdout.write(`HAProxy: weights set again ${Math.round(took)} ms after a restart\n`);
    expect(await one(0).weights()).toBe('100/100');
    context.cancel();
    expect(await ended).toBeInstanceOf(CancelledFailure);

    expect((await judgeStage(plan, 50)).outcome).toBe('pass');
    await one(1).stopProcess();
    const verdict = await judgeStage(plan, 50);
    expect(verdict.outcome).toBe('inconclusive');
    expect(verdict.evidence.at(-1)).toMatchObject({
      metric: 'haproxy',
      outcome: 'inconclusive',
      because: expect.stringContaining('"haproxy_2"') as string,
    });
    await one(1).restart();
  });

  it('does not count while green takes no connections there', async () => {
    const plan = planWith();
    await openStage(plan, 50);
    await one(0).ask('set server reads/green state maint');
    expect((await judgeStage(plan, 50)).outcome).toBe('inconclusive');
    await expect(openStage(plan, 100)).rejects.toMatchObject({
      type: 'WeightsNotSet',
      message: expect.stringContaining('into maintenance or drain') as string,
      nonRetryable: false,
    });
    // No gate watches a stage that is not in effect: all reads went to blue, of the other HAProxy too.
    for (const haproxy of haproxies) expect(await haproxy.shares(reader, 20)).toEqual({ blue: 20, green: 0 });
    expect(await percentInForce()).toBe(0);
  });

  it('is not opened while one of two is out of reach; an abort goes to the other one at once, and to this one when it can', async () => {
    const plan = planWith();
    await openStage(plan, 10);
    one(1).kill('SIGSTOP');
    await expect(openStage(plan, 50)).rejects.toMatchObject({
      type: 'ConnectionFailed',
      message: expect.stringContaining('HAProxy "haproxy_2" can\'t be asked: no answer within 1000 ms') as string,
      nonRetryable: false,
    });
    expect(await percentInForce()).toBe(10);
    expect(await one(0).weights()).toBe('180/20');

    const decided = performance.now();
    const back = readsToBlue(plan);
    await until(async () => (await one(0).weights()) === '200/0', 2_000);
    expect(performance.now() - decided).toBeLessThan(1_000);
    await back;
    // Neither waits for the one that is frozen.
    expect(performance.now() - decided).toBeLessThan(3_000);
    one(1).kill('SIGCONT');
    await until(async () => (await one(1).weights()) === '200/0', 10_000);
  });

  it('is refused where the backend or a server has another name, before anything moves', async () => {
    for (const [haproxy, why] of [
      [{ backend: 'writes' }, `HAProxy "haproxy_1" has no backend "writes"`],
      [{ green: 'gren' }, `HAProxy "haproxy_1" has no server gren in "reads"`],
    ] as const) {
      await expect(openStage(planWith(haproxy), 10)).rejects.toMatchObject({
        type: 'WeightsNotSet',
        message: expect.stringContaining(why) as string,
      });
    }
    expect(await percentInForce()).toBe(0);
    expect(await one(0).weights()).toBe('200/0');
  });

  it('of a worker that does not know a HAProxy is not opened; reads go back all the same', async () => {
    const plan = planWith();
    await openStage(plan, 10);
    const { VERDIGRIS_CONNECTION_HAPROXY_2: known = '', ...others } = environment;
    environment = others;
    try {
      await expect(openStage(plan, 50)).rejects.toMatchObject({ type: 'ConnectionUnknown' });
      expect(await percentInForce()).toBe(10);
      await readsToBlue(plan);
      expect(await percentInForce()).toBe(0);
      expect(await one(0).weights()).toBe('200/0');
    } finally {
      environment = { ...others, VERDIGRIS_CONNECTION_HAPROXY_2: known };
    }
  });

  describe('that is aborted by a worker that can not reach one of two', () => {
    const away = 'HAProxy "haproxy_2"';
    type Route = Parameters<ReturnType<typeof instanceActivities>['awaitConfirmed']>[1];

    const awaitConfirmed = (
      plan: Plan,
      route: Route,
      known: readonly string[],
      context = new MockActivityEnvironment(),
    ): Promise<{ unconfirmed: readonly string[] | null }> => {
      const activities = instanceActivities({ environment, redact: (text) => text });
      return context.run(() => activities.awaitConfirmed({ plan, runId: 'r' }, route, known));
    };

    /** What such a worker has in its environment, while the HAProxy itself goes on. */
    const ways: Record<string, () => Promise<string | undefined>> = {
      'is told nothing about it': () => Promise.resolve(undefined),
      'finds no socket': () => Promise.resolve('unix:/there/is/none.sock'),
      'gets no answer': async () => {
        const silent = createServer(() => undefined).unref();
        await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
        return `tcp://127.0.0.1:${(silent.address() as AddressInfo).port}`;
      },
    };

    async function whileAway<T>(way: string, work: () => Promise<T>): Promise<T> {
      const { VERDIGRIS_CONNECTION_HAPROXY_2: known = '', ...others } = environment;
      const uri = await ways[way]?.();
      environment = { ...others, ...(uri === undefined ? {} : { VERDIGRIS_CONNECTION_HAPROXY_2: uri }) };
      return work().finally(() => (environment = { ...others, VERDIGRIS_CONNECTION_HAPROXY_2: known }));
    }

    it.each(Object.keys(ways))('(it %s) is owed to that one by the run, until a worker has told it', async (way) => {
      const plan = planWith();
      // What this process still owes to one that was frozen earlier is done by that.
      await readsToBlue(plan);
      await openStage(plan, 10);
      const context = new MockActivityEnvironment();
      const owed = await whileAway(way, async () => {
        const answer = await readsToBlue(plan);
        expect(answer).toMatchObject({ route: { greenReadPercent: 0 }, unconfirmed: [away] });
        if (answer === null) throw new Error('one is owed');
        // That worker goes on asking in vain.
        const asking = awaitConfirmed(plan, answer.route, [away], context);
        const ended = asking.then(String, (error: unknown) => error);
        await sleep(1_500);
        context.cancel();
        expect(await ended).toBeInstanceOf(CancelledFailure);
        return answer;
      });
      expect(await one(0).weights()).toBe('200/0');
      expect(await one(1).weights()).toBe('180/20');
      expect(await awaitConfirmed(plan, owed.route, [away])).toEqual({ unconfirmed: [] });
      expect(await one(1).weights()).toBe('200/0');
    });

    it("is owed beyond the run's state: instances can't be asked then, a HAProxy can", async () => {
      await openStage(planWith(), 10);
      const gone = planSchema.parse({ ...planInput(), name: 'gone' });
      const route = { epoch: 1, generation: 2 };
      await whileAway('finds no socket', async () => {
        expect(await awaitConfirmed(gone, route, [away, 'stuck-1'])).toEqual({ unconfirmed: null });
      });
      expect(await awaitConfirmed(gone, route, [away, 'stuck-1'])).toEqual({ unconfirmed: ['stuck-1'] });
      expect(await awaitConfirmed(gone, route, ['stuck-1'])).toEqual({ unconfirmed: null });
      expect(await one(1).weights()).toBe('200/0');
    });

    it('leaves the weights of a later stage alone while it asks', async () => {
      const plan = planWith();
      await openStage(plan, 10);
      const owed = await whileAway('finds no socket', () => readsToBlue(plan));
      await openStage(plan, 50);
      if (owed === null) throw new Error('one is owed');
      expect(await awaitConfirmed(plan, owed.route, [away])).toEqual({ unconfirmed: [] });
      expect(await one(1).weights()).toBe('100/100');
    });
  });

  describe('opened by a worker that dies', () => {
    /** A worker of its own that talks to the second HAProxy through a proxy. */
    async function begin(
      percent: number,
      proxy: RuntimeApiProxy,
    ): Promise<{ child: ChildProcess; outcome: Promise<string> }> {
      const [flags, script] = [tsxArguments(new URL('../support/stage-child.ts', import.meta.url)), ''];
      const child = fork(flags[2] ?? script, [], { execArgv: flags.slice(0, 2), stdio: 'ignore' });
      closing.push(async () => void child.kill('SIGKILL'));
      await once(child, 'message');
      const outcome = once(child, 'message').then(([message]) => String(message));
      outcome.catch(() => undefined);
      const own = { ...environment, VERDIGRIS_CONNECTION_HAPROXY_2: proxy.uri };
      child.send({ plan: planInput(), percent, environment: own });
      return { child, outcome };
    }

    async function proxied(): Promise<RuntimeApiProxy> {
      const proxy = await RuntimeApiProxy.start(one(1).socket);
      closing.push(() => proxy.close());
      return proxy;
    }

    it.each(['before', 'after'] as const)(
      '%s the second HAProxy was told: another one goes on, and aborts',
      async (when) => {
        for (const next of ['goes on', 'aborts'] as const) {
          const proxy = await proxied();
          const met = proxy.stopAt((command) => command.startsWith('set server'), when);
          const { child } = await begin(50, proxy);
          await met;
          child.kill('SIGKILL');
          await once(child, 'exit');
          await until(async () => (await one(0).weights()) === '100/100');
          expect(await one(1).weights()).toBe(when === 'before' ? '200/0' : '100/100');

          if (next === 'goes on') await openStage(planWith(), 50);
          else await readsToBlue(planWith());
          for (const haproxy of haproxies)
            expect(await haproxy.weights()).toBe(next === 'goes on' ? '100/100' : '200/0');
          await readsToBlue(planWith());
        }
      },
    );

    it('one whose answer about the share is from before it was frozen asks again, and gives green nothing', async () => {
      const proxy = await proxied();
      const path = proxy.uri.replace('tcp://127.0.0.1:', '');
      const haproxy = { connection: 'haproxy_2', address: { host: '127.0.0.1', port: Number(path) } };
      const setup = haproxiesOf(planWith(), environment);
      if (setup === undefined) throw new Error('the plan has no HAProxy');
      const answers = [
        async () => sleep(2_700, { percent: 50, stamp: 'before' }),
        async () => Promise.resolve({ percent: 0, stamp: 'after' }),
      ];
      let asked = 0;
      const share: ShareReader = async () => {
        const answer = answers[Math.min(asked++, 1)];
        if (answer === undefined) throw new Error('nothing to answer');
        return answer();
      };
      expect(await bring(setup, haproxy, share)).toEqual({ percent: 0, wasOther: false });
      expect(proxy.commands.filter((command) => command.startsWith('set'))).toEqual([]);
      expect(asked).toBeGreaterThan(2);
    });

    it('one that was frozen before it told a HAProxy, and wakes up after an abort, gives green nothing', async () => {
      const proxy = await proxied();
      const met = proxy.stopAt((command) => command.startsWith('set server'), 'before');
      const { child, outcome } = await begin(50, proxy);
      await met;
      child.kill('SIGSTOP');
      await readsToBlue(planWith());
      for (const haproxy of haproxies) expect(await haproxy.weights()).toBe('200/0');
      child.kill('SIGCONT');
      // Its command was lost: it fails, is tried again as an activity is, and finds the route of now.
      expect(await outcome).toContain('haproxy_2');
      for (const haproxy of haproxies) expect(await haproxy.weights()).toBe('200/0');
    });
  });
});
