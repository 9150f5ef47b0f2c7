import { OpenFeature, ProviderEvents, type Client } from '@openfeature/server-sdk';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { deploymentFaults, readInstances, unconfirmedInstances } from '../../src/gates/instances.js';
import { holdOf, NOTHING_YET } from '../../src/gates/lately.js';
import { readRouterSnapshots, type RouterSample } from '../../src/gates/router-source.js';
import { windowBetween } from '../../src/gates/window.js';
import { withSession } from '../../src/postgres/session.js';
import { VerdigrisProvider, type VerdigrisProviderOptions } from '../../src/openfeature/index.js';
import { inCohort } from '../../src/router/cohort.js';
import { MIGRATION, Sides, until } from '../router/sides.js';
import { TcpProxy } from '../router/tcp-proxy.js';
import { asDatabase } from '../support/postgres.js';

const FLAG = 'use-green-db';
const USERS = Array.from({ length: 200 }, (_, n) => `user-${n}`);

let sides: Sides;
let domains = 0;

beforeAll(async () => {
  sides = await (await Sides.create('flags')).claim();
}, 60_000);
beforeEach(async () => {
  await OpenFeature.clearProviders();
  await sides.reset();
});
afterAll(async () => {
  await OpenFeature.clearProviders();
  await sides.drop();
});

async function client(options: Partial<VerdigrisProviderOptions> = {}): Promise<Client> {
  const domain = `flags-${(domains += 1)}`;
  const { blue, green } = sides;
  await OpenFeature.setProviderAndWait(
    domain,
    new VerdigrisProvider({ migration: MIGRATION, blue: blue.config, green: green.config, ...options }),
  );
  return OpenFeature.getClient(domain);
}

/** As an application asks: the default is the other answer than the one that is safe, to see that it is not used. */
const onGreen = (flags: Client, user?: string): Promise<boolean> =>
  flags.getBooleanValue(FLAG, true, user === undefined ? {} : { targetingKey: user });

const cohort = async (flags: Client): Promise<string[]> => {
  const answers = await Promise.all(USERS.map((user) => onGreen(flags, user)));
  return USERS.filter((_, n) => answers[n] === true);
};

/** Runs a question on blue, as a run does. */
const onBlue = <T>(ask: Parameters<typeof withSession<T>>[2]): Promise<T> =>
  withSession(asDatabase(sides.blue, 'blue'), { purpose: 'test' }, ask);

describe('the flag use-green-db', () => {
  it('sends the users of the router to green, as soon as the route says so, and back', async () => {
    // So rarely looked at that only the notification can be what is heard.
    const flags = await client({ pollIntervalMs: 60_000 });
    const heard: (string[] | undefined)[] = [];
    flags.addHandler(ProviderEvents.ConfigurationChanged, (details) => heard.push(details?.flagsChanged));
    expect(await cohort(flags)).toEqual([]);

    for (const percent of [10, 50]) {
      await sides.stage(percent);
      const expected = USERS.filter((user) => inCohort(FLAG, user, percent));
      await until(async () => (await cohort(flags)).length === expected.length);
      expect(await cohort(flags)).toEqual(expected);
      expect(heard.at(-1)).toEqual([FLAG]);
    }
    await sides.stage(0);
    await until(async () => (await cohort(flags)).length === 0);
    expect(heard).toHaveLength(3);
  });

  it('tells variant, reason, and from which route the answer is', async () => {
    const generation = await sides.stage(100);
    const flags = await client();
    expect(await flags.getBooleanDetails(FLAG, false, { targetingKey: 'ada' })).toMatchObject({
      ...{ value: true, variant: 'green', reason: 'SPLIT' },
      flagMetadata: { migration: MIGRATION, generation, writesOn: 'blue', greenReadPercent: 100 },
    });
    expect(await flags.getBooleanDetails(FLAG, true)).toMatchObject({
      value: false,
      variant: 'blue',
      reason: 'DEFAULT',
    });
    expect(await flags.getBooleanDetails('other', false)).toMatchObject({ value: false, errorCode: 'FLAG_NOT_FOUND' });
    expect(await flags.getStringDetails(FLAG, '')).toMatchObject({ errorCode: 'TYPE_MISMATCH' });
  });

  it('sends everybody to green after the promotion, and back after its rollback', async () => {
    const flags = await client();
    await sides.decide('green');
    await sides.open('green');
    await until(() => onGreen(flags));
    expect(await onGreen(flags, 'ada')).toBe(true);
    await sides.decide('blue');
    await sides.open('blue');
    await until(async () => !(await onGreen(flags, 'ada')));
  });

  it('sends everybody to blue where an abort would not be heard of: blue is silent, or was never reached', async () => {
    const proxy = new TcpProxy(sides.blue.port);
    await proxy.listen();
    const blue = { ...sides.blue.config, port: proxy.port };
    try {
      const flags = await client({ blue, pollIntervalMs: 50 });
      const stale: unknown[] = [];
      flags.addHandler(ProviderEvents.Stale, (details) => stale.push(details));
      await sides.stage(100);
      await until(() => onGreen(flags, 'ada'));
      proxy.freeze();
      await until(async () => !(await onGreen(flags, 'ada')));
      expect(await flags.getBooleanDetails(FLAG, true, { targetingKey: 'ada' })).toMatchObject({ reason: 'STALE' });
      expect(stale).toHaveLength(1);
      const lateComer = await client({ blue });
      expect(await onGreen(lateComer, 'ada')).toBe(false);
      proxy.thaw();
      await until(() => onGreen(flags, 'ada'), 10_000);
      await until(() => onGreen(lateComer, 'ada'), 10_000);
    } finally {
      await OpenFeature.clearProviders();
      await proxy.down();
    }
  });
});

describe('instances', () => {
  it('that have not confirmed a generation are named until they do or have ended', async () => {
    await client({ instance: 'flags', version: '2.1.0' });
    await sides.router({ instance: 'router', version: '2.1.0' });
    await sides.router({ instance: 'quiet' });
    const generation = await sides.stage(10);
    const [row] = await sides.sql<{ epoch: number }>('blue', 'SELECT epoch::int FROM verdigris.route');
    const route = { migration: MIGRATION, epoch: row?.epoch ?? 0, generation };
    await until(() => onBlue(async (blue) => (await readInstances(blue, MIGRATION)).length === 3));
    await until(() => onBlue(async (blue) => (await unconfirmedInstances(blue, route)).length === 0));

    // One that no longer follows: its row stays where it was.
    await sides.sql(
      'blue',
      `INSERT INTO verdigris.router (instance, migration, epoch, generation, metrics, version)
       VALUES ('behind', '${MIGRATION}', ${route.epoch}, ${generation - 1}, '{}', '2.0.9'),
              ('of another run', '${MIGRATION}', ${route.epoch - 1}, 999, '{}', NULL)`,
    );
    const behind = await onBlue((blue) => unconfirmedInstances(blue, route, 60_000));
    expect(behind).toEqual(['behind', 'of another run']);
    await sides.sql('blue', "UPDATE verdigris.router SET seen_at = now() - interval '10 s' WHERE metrics = '{}'");
    expect(await onBlue((blue) => unconfirmedInstances(blue, route, 9_000))).toEqual([]);

    const live = await onBlue((blue) => readInstances(blue, MIGRATION, 9_000));
    expect(live.map(({ name, version }) => [name, version])).toEqual([
      ['flags', '2.1.0'],
      ['quiet', null],
      ['router', '2.1.0'],
    ]);
    expect(deploymentFaults(live, { minVersion: '2.1.0', atLeast: 4 })).toEqual([
      '3 of at least 4 instances of the application report',
      expect.stringMatching(/^not at version 2.1.0: quiet-[0-9a-f]{6} \(role postgres\)$/),
    ]);
  });

  it('of one name, a router and a provider of a process, do not write over each other, and count as one', async () => {
    await client({ instance: 'pod' });
    const router = await sides.router({ instance: 'pod' });
    for (let n = 0; n < 100; n++) await router.read(undefined, 'SELECT 1');
    const snapshots = (): Promise<RouterSample> => onBlue((blue) => readRouterSnapshots(blue, MIGRATION));
    const reads = ({ live }: RouterSample): number[] => live.map(({ metrics }) => metrics.reads.blue.requests).sort();
    await until(async () => reads(await snapshots()).join() === '0,100');
    const opened = await snapshots();
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    const now = await snapshots();
    expect(windowBetween(opened, now)).toMatchObject({ blue: { requests: 0 }, liveInstances: 2 });
    const live = await onBlue((blue) => readInstances(blue, MIGRATION));
    expect(live.map(({ name }) => name)).toEqual(['pod', 'pod']);
    const told = '1 of at least 2 instances of the application report';
    expect(deploymentFaults(live, { atLeast: 2 })).toEqual([told]);
    const presence = { lately: NOTHING_YET, window: windowBetween(opened, now), opened, now };
    expect(holdOf({ ...presence, atLeast: 2 })).toBe(told);
  });

  it('are compared by version part by part', () => {
    const at = (version: string): Parameters<typeof deploymentFaults>[0] => [
      { instance: 'a', name: 'a', version, epoch: 1, generation: 1, lacks: [], role: null, ageSeconds: 0 },
    ];
    for (const version of [
      '1.10',
      '1.10.0',
      'v1.10',
      '1.010',
      '1.10+build.7',
      '1.11',
      '1.11.0-rc.1',
      '2.0',
      '2026.11.5',
    ]) {
      expect(deploymentFaults(at(version), { minVersion: '1.10' })).toEqual([]);
    }
    for (const version of ['1.9', '1.9.12', 'v1.9', '0.99', '1.10.0-rc.1', '1.10-0']) {
      expect(deploymentFaults(at(version), { minVersion: '1.10' })).toEqual([
        `not at version 1.10: a (version ${version})`,
      ]);
    }
    for (const version of ['release-2.0', '2.0.0rc1', 'main', '', 'v', '2..0', '2.0 ', 'deadbeef']) {
      expect(deploymentFaults(at(version), { minVersion: '1.10' })).toEqual([
        `with a version that can't be compared with 1.10 (write one such as 2.1.0): a (version ${version})`,
      ]);
    }
    for (const minVersion of ['v2.1.0', '2.1.0', '2.1', '2.1.0-rc.2']) {
      expect(deploymentFaults(at('2.1.0'), { minVersion })).toEqual([]);
    }
    // The order of the pre-releases that semver.org gives as its example.
    const order = ['alpha', 'alpha.1', 'alpha.beta', 'beta', 'beta.2', 'beta.11', 'rc.1'].map((one) => `1.0.0-${one}`);
    for (const [i, minVersion] of order.entries()) {
      const later = order.filter((version) => deploymentFaults(at(version), { minVersion }).length === 0);
      expect(later).toEqual(order.slice(i));
    }
    expect(deploymentFaults([], {})).toEqual(['0 of at least 1 instances of the application report']);
  });
});
