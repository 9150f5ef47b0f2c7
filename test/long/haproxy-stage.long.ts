import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import { CancelledFailure } from '@temporalio/common';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { instanceActivities } from '../../activities/instances.js';
import { bring } from '../../src/haproxy/bring.js';
import { haproxiesOf } from '../../src/haproxy/from-plan.js';
import type { ShareReader } from '../../src/haproxy/share.js';
import { planSchema, type Plan } from '../../src/plan/schema.js';
import { tsxArguments } from '../../src/embedded/tsx-process.js';
import { until } from '../router/sides.js';
import { findHaproxy } from '../support/haproxy.js';
import { HaproxyStages } from '../support/haproxy-stages.js';
import { ReadLoad } from '../support/read-load.js';
import { RuntimeApiProxy } from '../support/runtime-api-proxy.js';

const isThere = findHaproxy() !== undefined;
if (!isThere) process.stdout.write('SKIPPED stages behind HAProxy: haproxy is not installed\n');

describe.skipIf(!isThere)('a stage behind HAProxy', () => {
  let stages: HaproxyStages;

  beforeAll(async () => {
    stages = await HaproxyStages.create('haproxy_stage');
  }, 60_000);

  afterEach(() => stages.reset());

  afterAll(() => stages.drop());

  it.each([0, 0.5, 50, 100])('is the share of new connections that it says, at each HAProxy: %s percent', (percent) =>
    stages.givesItsShare(percent),
  );

  it('is put right after a HAProxy was restarted in the middle of it, and passes only while it is in force', async () => {
    const plan = stages.planWith();
    await stages.openStage(plan, 50);
    const context = new MockActivityEnvironment();
    const watch = stages.watchGates(plan, 50, context);
    const ended = watch.then(
      () => 'a gate failed',
      (error: unknown) => error,
    );
    await stages.one(1).restart();
    const took = await until(async () => (await stages.one(1).weights()) === '100/100', 10_000);
    process.stdout.write(`HAProxy: weights set again ${Math.round(took)} ms after a restart\n`);
    expect(await stages.one(0).weights()).toBe('100/100');
    context.cancel();
    expect(await ended).toBeInstanceOf(CancelledFailure);

    expect((await stages.judgeStage(plan, 50)).outcome).toBe('pass');
    await stages.one(1).stopProcess();
    const verdict = await stages.judgeStage(plan, 50);
    expect(verdict.outcome).toBe('inconclusive');
    expect(verdict.evidence.at(-1)).toMatchObject({
      metric: 'haproxy',
      outcome: 'inconclusive',
      because: expect.stringContaining('"haproxy_2"') as string,
    });
    await stages.one(1).restart();
  });

  it('does not pass while somebody else sets the weights again and again', async () => {
    const plan = stages.planWith();
    await stages.openStage(plan, 50);
    const agent = setInterval(() => {
      void stages
        .one(1)
        .ask('set server reads/blue weight 200;set server reads/green weight 0')
        .catch(() => undefined);
    }, 600);
    stages.closeLater(() => Promise.resolve(clearInterval(agent)));
    const context = new MockActivityEnvironment();
    const ended = stages.watchGates(plan, 50, context).catch(String);
    await sleep(7_000);
    context.cancel();
    await ended;
    const { outcome, evidence } = await stages.judgeStage(plan, 50);
    expect(outcome).toBe('inconclusive');
    expect(evidence.at(-1)).toMatchObject({
      metric: 'haproxy',
      because: expect.stringContaining('somebody else sets the weights of HAProxy "haproxy_2" again') as string,
    });
  });

  it('does not count while green takes no connections there', async () => {
    const plan = stages.planWith();
    await stages.openStage(plan, 50);
    await stages.one(0).ask('set server reads/green state maint');
    expect((await stages.judgeStage(plan, 50)).outcome).toBe('inconclusive');
    await expect(stages.openStage(plan, 100)).rejects.toMatchObject({
      type: 'WeightsNotSet',
      message: expect.stringContaining('into maintenance or drain') as string,
      nonRetryable: false,
    });
    // No gate watches a stage that is not in effect: all reads went to blue, of the other HAProxy too.
    for (const haproxy of stages.haproxies)
      expect(await haproxy.shares(stages.reader, 20)).toEqual({ blue: 20, green: 0 });
    expect(await stages.percentInForce()).toBe(0);
  });

  it('is not opened while one of two is out of reach; an abort goes to the other one at once, and to this one when it can', async () => {
    const plan = stages.planWith();
    await stages.openStage(plan, 10);
    stages.one(1).kill('SIGSTOP');
    await expect(stages.openStage(plan, 50)).rejects.toMatchObject({
      type: 'ConnectionFailed',
      message: expect.stringContaining('HAProxy "haproxy_2" can\'t be asked: no answer within 1000 ms') as string,
      nonRetryable: false,
    });
    expect(await stages.percentInForce()).toBe(10);
    expect(await stages.one(0).weights()).toBe('180/20');

    const decided = performance.now();
    const back = stages.readsToBlue(plan);
    await until(async () => (await stages.one(0).weights()) === '200/0', 2_000);
    expect(performance.now() - decided).toBeLessThan(1_000);
    await back;
    // Neither waits for the one that is frozen.
    expect(performance.now() - decided).toBeLessThan(3_000);
    stages.one(1).kill('SIGCONT');
    await until(async () => (await stages.one(1).weights()) === '200/0', 10_000);
  });

  it('with "leave", cuts nobody when reads go back', async () => {
    const plan = stages.planWith({ openConnections: 'leave' });
    await stages.openStage(plan, 50);
    const loads = stages.haproxies.map((haproxy) => new ReadLoad(haproxy, stages.reader));
    await sleep(300);
    await stages.readsToBlue(plan);
    const back = performance.now();
    await sleep(300);
    await Promise.all(loads.map((load) => load.stop()));
    for (const load of loads) {
      expect(load.reads.filter(({ side }) => side === 'failed')).toEqual([]);
      expect(load.since(back).filter(({ side }) => side !== 'blue')).toEqual([]);
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
      const activities = instanceActivities({ environment: stages.environment, redact: (text) => text });
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
      const { VERDIGRIS_CONNECTION_HAPROXY_2: known = '', ...others } = stages.environment;
      const uri = await ways[way]?.();
      stages.environment = { ...others, ...(uri === undefined ? {} : { VERDIGRIS_CONNECTION_HAPROXY_2: uri }) };
      return work().finally(() => (stages.environment = { ...others, VERDIGRIS_CONNECTION_HAPROXY_2: known }));
    }

    it.each(Object.keys(ways))('(it %s) is owed to that one by the run, until a worker has told it', async (way) => {
      const plan = stages.planWith();
      // What this process still owes to one that was frozen earlier is done by that.
      await stages.readsToBlue(plan);
      await stages.openStage(plan, 10);
      const context = new MockActivityEnvironment();
      const owed = await whileAway(way, async () => {
        const answer = await stages.readsToBlue(plan);
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
      expect(await stages.one(0).weights()).toBe('200/0');
      expect(await stages.one(1).weights()).toBe('180/20');
      expect(await awaitConfirmed(plan, owed.route, [away])).toEqual({ unconfirmed: [] });
      expect(await stages.one(1).weights()).toBe('200/0');
    });

    it("is owed beyond the run's state: instances can't be asked then, a HAProxy can", async () => {
      await stages.openStage(stages.planWith(), 10);
      const gone = planSchema.parse({ ...stages.planInput(), name: 'gone' });
      const route = { epoch: 1, generation: 2 };
      await whileAway('finds no socket', async () => {
        expect(await awaitConfirmed(gone, route, [away, 'stuck-1'])).toEqual({ unconfirmed: null });
      });
      expect(await awaitConfirmed(gone, route, [away, 'stuck-1'])).toEqual({ unconfirmed: ['stuck-1'] });
      expect(await awaitConfirmed(gone, route, ['stuck-1'])).toEqual({ unconfirmed: null });
      expect(await stages.one(1).weights()).toBe('200/0');
    });

    it('leaves the weights of a later stage alone while it asks', async () => {
      const plan = stages.planWith();
      await stages.openStage(plan, 10);
      const owed = await whileAway('finds no socket', () => stages.readsToBlue(plan));
      await stages.openStage(plan, 50);
      if (owed === null) throw new Error('one is owed');
      expect(await awaitConfirmed(plan, owed.route, [away])).toEqual({ unconfirmed: [] });
      expect(await stages.one(1).weights()).toBe('100/100');
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
      stages.closeLater(async () => void child.kill('SIGKILL'));
      await once(child, 'message');
      const outcome = once(child, 'message').then(([message]) => String(message));
      outcome.catch(() => undefined);
      const own = { ...stages.environment, VERDIGRIS_CONNECTION_HAPROXY_2: proxy.uri };
      child.send({ plan: stages.planInput(), percent, environment: own });
      return { child, outcome };
    }

    async function proxied(): Promise<RuntimeApiProxy> {
      const proxy = await RuntimeApiProxy.start(stages.one(1).socket);
      stages.closeLater(() => proxy.close());
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
          // Both are told at once: the first one may come later.
          await until(async () => (await stages.one(0).weights()) === '100/100');
          child.kill('SIGKILL');
          await once(child, 'exit');
          expect(await stages.one(1).weights()).toBe(when === 'before' ? '200/0' : '100/100');

          if (next === 'goes on') await stages.openStage(stages.planWith(), 50);
          else await stages.readsToBlue(stages.planWith());
          for (const haproxy of stages.haproxies)
            expect(await haproxy.weights()).toBe(next === 'goes on' ? '100/100' : '200/0');
          await stages.readsToBlue(stages.planWith());
        }
      },
    );

    it('one whose answer about the share is from before it was frozen asks again, and gives green nothing', async () => {
      const proxy = await proxied();
      const path = proxy.uri.replace('tcp://127.0.0.1:', '');
      const haproxy = { connection: 'haproxy_2', address: { host: '127.0.0.1', port: Number(path) } };
      const setup = haproxiesOf(stages.planWith(), stages.environment);
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
      expect(await bring(setup, haproxy, share)).toEqual({ percent: 0, wasOther: false, stamp: 'after' });
      expect(proxy.commands.filter((command) => command.startsWith('set'))).toEqual([]);
      expect(asked).toBeGreaterThan(2);
    });

    it('one that was frozen before it told a HAProxy, and wakes up after an abort, gives green nothing', async () => {
      const proxy = await proxied();
      const met = proxy.stopAt((command) => command.startsWith('set server'), 'before');
      const { child, outcome } = await begin(50, proxy);
      await met;
      child.kill('SIGSTOP');
      await stages.readsToBlue(stages.planWith());
      for (const haproxy of stages.haproxies) expect(await haproxy.weights()).toBe('200/0');
      child.kill('SIGCONT');
      // Its command was lost: it fails, is tried again as an activity is, and finds the route of now.
      expect(await outcome).toContain('haproxy_2');
      for (const haproxy of stages.haproxies) expect(await haproxy.weights()).toBe('200/0');
    });
  });
});
