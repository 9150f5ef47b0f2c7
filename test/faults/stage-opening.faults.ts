import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { MockActivityEnvironment } from '@temporalio/testing';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createActivities, type Activities } from '../../activities/index.js';
import { planSchema, type PlanInput, type Stage } from '../../src/plan/schema.js';
import { MIGRATION, Sides } from '../router/sides.js';
import { MetricsPage } from '../support/prometheus.js';
import { StatementProxy } from '../support/statement-proxy.js';

let sides: Sides;
let folder = '';
let flagd = { path: '' };
const closing: (() => Promise<void>)[] = [];

beforeAll(async () => {
  sides = await (await Sides.create('stage_opening')).claim();
  folder = await mkdtemp(join(tmpdir(), 'verdigris-opening-'));
  flagd = { path: join(folder, 'flags.json') };
}, 60_000);
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
  await sides.sql('blue', 'DELETE FROM verdigris.progress');
  await sides.reset();
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
  await sides.drop();
});

interface Asked {
  readonly traffic?: PlanInput['traffic'];
  /** The port by which the worker reaches blue. */
  readonly port?: number;
  /** What its environment has besides. */
  readonly environment?: Record<string, string>;
  readonly context?: MockActivityEnvironment;
}

type Ref = Parameters<Activities['openStage']>[0];

function act<T>(
  what: (activities: Activities, ref: Ref) => Promise<T>,
  { traffic = {}, port = sides.blue.port, environment = {}, context = new MockActivityEnvironment() }: Asked = {},
): Promise<T> {
  const blue = new URL(sides.blue.uri);
  blue.port = String(port);
  const connections = { VERDIGRIS_CONNECTION_B: blue.href, VERDIGRIS_CONNECTION_G: sides.green.uri };
  const activities = createActivities({
    ...{ environment: { ...connections, ...environment }, redact: (text: string) => text },
    patience: { readMs: 1_500, followMs: 1_000, confirmMs: 2_000, lookMs: 8_000, watchedMs: 1_500 },
  });
  const plan = planSchema.parse({
    ...{ name: MIGRATION, blue: { connection: 'b' }, green: { connection: 'g' } },
    traffic: { gates: [{ metric: 'lag', max: '1s' }], ...traffic },
  });
  return context.run(() => what(activities, { plan, runId: 'r' }));
}

const stageOf = (percent: number): Stage => ({ percent, for: '1s' });
const openStage = (percent: number, asked?: Asked): Promise<{ routers: number }> =>
  act((activities, ref) => activities.openStage(ref, stageOf(percent)), asked);
const readsToBlue = (asked?: Asked): ReturnType<Activities['readsToBlue']> =>
  act((activities, ref) => activities.readsToBlue(ref), asked);

interface RouteNow {
  readonly epoch: number;
  readonly generation: number;
  readonly percent: number;
}

async function routeNow(): Promise<RouteNow> {
  const [row] = await sides.sql<RouteNow>(
    'blue',
    'SELECT epoch::int, generation::int, green_read_percent::float8 AS percent FROM verdigris.route',
  );
  if (row === undefined) throw new Error('there is no route');
  return row;
}

/** An instance that lives, and follows the route at that generation for ever. */
async function instanceAt(instance: string, { epoch, generation }: RouteNow): Promise<void> {
  await sides.sql(
    'blue',
    `INSERT INTO verdigris.router (instance, migration, epoch, generation, metrics, seen_at)
     VALUES ('${instance}', '${MIGRATION}', ${epoch}, ${generation}, '{}', now() + interval '1 hour')
     ON CONFLICT (instance) DO UPDATE SET epoch = excluded.epoch, generation = excluded.generation`,
  );
}

async function proxy(): Promise<StatementProxy> {
  const started = await StatementProxy.start(sides.blue.port);
  closing.push(() => started.close());
  return started;
}

describe('a worker that is frozen while it opens a stage', () => {
  it.each([
    ['before it moves the reads', /^WITH changed AS/, 'the route is not the one that was read'],
    ['when it has moved them', /verdigris\.router/, 'the route is not the one that was read'],
  ])('%s, and wakes up after an abort, sends nobody to green', async (when, statement, why) => {
    const blue = await proxy();
    let moved = false;
    const frozen = blue.stopWhere(({ session, text }) => {
      moved ||= text.startsWith('WITH changed AS');
      return session === 'verdigris stage' && statement.test(text) && (moved || !when.startsWith('when'));
    }, 'before');
    const traffic = { flagd };
    const late = openStage(10, { port: blue.port, traffic }).then(
      () => 'opened',
      (error: unknown) => String(error),
    );
    const held = await frozen;
    // Another worker goes on meanwhile; a gate fails then.
    await openStage(10, { traffic });
    await readsToBlue({ traffic });
    const { generation } = await routeNow();
    const written = await sides.sql('blue', "SELECT state FROM verdigris.progress WHERE step = 'stage'");
    held.release();
    expect(await late).toContain(why);
    expect(await routeNow()).toMatchObject({ percent: 0, generation });
    expect(JSON.parse(await readFile(flagd.path, 'utf8'))).toMatchObject({ metadata: { greenReadPercent: 0 } });
    // Nor does it say of the stage that it has opened it.
    expect(await sides.sql('blue', "SELECT state FROM verdigris.progress WHERE step = 'stage'")).toEqual(written);
  });

  it('does not take over a share that another worker has set anew', async () => {
    const blue = await proxy();
    await openStage(10);
    const frozen = blue.stopWhere(({ text }) => text.startsWith('WITH changed AS'), 'before');
    const late = openStage(10, { port: blue.port }).catch((error: unknown) => String(error));
    const held = await frozen;
    await openStage(10);
    held.release();
    expect(await late).toContain('the route is not the one that was read');
    // And takes nothing back that is not its own.
    expect(await routeNow()).toMatchObject({ percent: 10 });
  });

  it('before it knows the route does not take the one after an abort for its own', { timeout: 30_000 }, async () => {
    const blue = await proxy();
    const frozen = blue.stopWhere(
      ({ session, text }) => session === 'verdigris stage' && text.includes('FROM verdigris.route'),
      'before',
    );
    const late = openStage(10, { port: blue.port }).catch((error: unknown) => String(error));
    const held = await frozen;
    // Another one takes over after 15 s at the earliest.
    await sleep(2_000);
    held.release();
    expect(await late).toContain('this worker was held up');
    expect(await routeNow()).toMatchObject({ percent: 0 });
  });
});

describe('a worker that is frozen while it takes reads back', () => {
  it.each([
    ['before it knows the route', /FROM verdigris\.route/],
    ['before it changes it', /^WITH changed AS|set_green_read_percent/],
  ])('%s, and wakes up when the stage is open again, takes nothing back', async (_, statement) => {
    const blue = await proxy();
    await openStage(10);
    const frozen = blue.stopWhere(
      ({ session, text }) => session === 'verdigris reads to blue' && statement.test(text),
      'before',
    );
    const late = readsToBlue({ port: blue.port }).catch((error: unknown) => error);
    const held = await frozen;
    // Another worker has done it meanwhile, and the run has been resumed.
    await readsToBlue();
    await openStage(100);
    held.release();
    expect(await late).toMatchObject({ type: 'StaleEpoch', nonRetryable: false });
    expect(await routeNow()).toMatchObject({ percent: 100 });
    // Asked for now, they go.
    await readsToBlue();
    expect(await routeNow()).toMatchObject({ percent: 0 });
  });
});

describe('reads of a stage that the run does not know of, since it was reset', { timeout: 60_000 }, () => {
  const steps: readonly (readonly [string, (activities: Activities, ref: Ref) => Promise<unknown>])[] = [
    ['the schema is copied', (a, ref) => a.copySchema(ref)],
    ['columns are added', (a, ref) => a.expandTables(ref)],
    ['green is fenced', (a, ref) => a.fenceGreen(ref)],
    ['all rows are compared', (a, ref) => a.verify(ref, 'blue', 'all', 'pass 1')],
    ['changes are undone', (a, ref) => a.undoMigrations(ref, { keepGreen: false })],
    ['replication is undone', (a, ref) => a.undoReplication(ref, { keepGreen: false })],
  ];

  it.each(steps)('go back to blue before %s', async (_, step) => {
    await openStage(50, { traffic: { flagd } });
    const context = new MockActivityEnvironment();
    const done = act(step, { context, traffic: { flagd } }).catch(() => undefined);
    await expect.poll(async () => (await routeNow()).percent, { timeout: 20_000 }).toBe(0);
    await expect
      .poll(async () => JSON.parse(await readFile(flagd.path, 'utf8')) as object, { timeout: 5_000 })
      .toMatchObject({ metadata: { greenReadPercent: 0 } });
    context.cancel();
    await done;
  });

  it('stay where they are when a worker that was frozen before the stage wakes up', async () => {
    const blue = await proxy();
    const frozen = blue.stopWhere(
      ({ session, text }) => session === 'verdigris reads to blue' && text.includes('verdigris.owner'),
      'before',
    );
    const fence = (asked?: Asked): Promise<unknown> => act((activities, ref) => activities.fenceGreen(ref), asked);
    const late = fence({ port: blue.port }).catch((error: unknown) => error);
    const held = await frozen;
    await fence();
    await openStage(10);
    held.release();
    expect(await late).toMatchObject({ type: 'StaleEpoch', nonRetryable: false });
    expect(await routeNow()).toMatchObject({ percent: 10 });
  });

  it("are another run's where that owns blue", async () => {
    await openStage(10);
    await sides.sql('blue', "UPDATE verdigris.owner SET run_id = 'another'");
    try {
      await act((activities, ref) => activities.undoMigrations(ref, { keepGreen: false })).catch(() => undefined);
      expect(await routeNow()).toMatchObject({ percent: 10 });
    } finally {
      await sides.sql('blue', "UPDATE verdigris.owner SET run_id = 'r'");
    }
  });
});

describe('an opening', { timeout: 30_000 }, () => {
  /** An hour ahead of this machine, whose clock is of no concern. */
  const temporalNow = (): number => Date.now() + 3_600_000;

  /** What Temporal says of an attempt that has just begun. */
  function temporal(): Client {
    const now = temporalNow();
    const started = { seconds: Math.floor(now / 1_000), nanos: (now % 1_000) * 1e6 };
    const pendingActivities = [{ activityId: 'test', lastStartedTime: started }];
    const describe = (): Promise<unknown> => Promise.resolve({ raw: { pendingActivities } });
    const workflow = { getHandle: () => ({ describe, signal: () => Promise.resolve() }) };
    const withAbortSignal = (_signal: AbortSignal, work: () => unknown): unknown => work();
    return { workflow, withAbortSignal } as unknown as Client;
  }

  const openUntil = (ms: number, asked: Asked = {}): Promise<unknown> =>
    act((activities, ref) => activities.openStage(ref, stageOf(10), new Date(temporalNow() + ms).toISOString()), {
      ...asked,
      context: new MockActivityEnvironment({ activityId: 'test' }, { client: temporal() }),
    }).catch((error: unknown) => error);
  const TOO_LATE = {
    ...{ type: 'GateFailed', nonRetryable: false },
    message: expect.stringMatching(/stage 10 %: it could not be opened before 20.*Z, when its window or/) as string,
  };

  it("that comes too late, by Temporal's clock, moves nobody; one that is in time does", async () => {
    await sides.stage(5);
    expect(await openUntil(-1)).toMatchObject({ ...TOO_LATE, details: [{ greenReadPercent: 5, flagsOwed: null }] });
    expect((await routeNow()).percent).toBe(5);
    await openUntil(10_000);
    expect((await routeNow()).percent).toBe(10);
  });

  it('that came too late to go on with what another worker has left half open takes it back', async () => {
    await sides.stage(10);
    expect(await openUntil(-1)).toMatchObject({ ...TOO_LATE, details: [{ greenReadPercent: 0 }] });
    expect((await routeNow()).percent).toBe(0);
  });

  it('whose worker is frozen just before it moves the reads, until it is too late, moves nobody', async () => {
    const blue = await proxy();
    const frozen = blue.stopWhere(({ text }) => text.startsWith('WITH changed AS'), 'before');
    const late = openUntil(1_500, { port: blue.port });
    const held = await frozen;
    await sleep(1_600);
    held.release();
    expect(await late).toMatchObject({ ...TOO_LATE, details: [{ greenReadPercent: 0 }] });
    expect((await routeNow()).percent).toBe(0);
  });

  it('that is cancelled says whether the reads may have moved', async () => {
    const brokenOff = async (context: MockActivityEnvironment, opening: Promise<unknown>): Promise<unknown> => {
      context.cancel();
      return ((await opening) as { details?: unknown }).details;
    };
    const route = await routeNow();
    await sides.stage(5);
    await instanceAt('stuck-1', route);
    const early = new MockActivityEnvironment();
    const waiting = openStage(10, { context: early }).catch((error: unknown) => error);
    await sleep(400);
    expect(await brokenOff(early, waiting)).toEqual([{ hasMoved: false }]);
    expect((await routeNow()).percent).toBe(5);

    await instanceAt('stuck-1', await routeNow());
    const late = new MockActivityEnvironment();
    const moving = openStage(10, { context: late }).catch((error: unknown) => error);
    while ((await routeNow()).percent !== 10) await sleep(20);
    expect(await brokenOff(late, moving)).toEqual([{ hasMoved: true }]);
  });
});

describe('what the gates of a stage must allow', { timeout: 30_000 }, () => {
  const traffic: PlanInput['traffic'] = {
    stages: [{ percent: 10, for: '1s' }],
    gates: [{ metric: 'longTransactions', max: '1s' }],
  };
  const next = (): Promise<unknown> =>
    act((activities, ref) => activities.openStage(ref, stageOf(50), null, stageOf(10)), { traffic });
  const judge = (): ReturnType<Activities['judgeStage']> =>
    act((activities, ref) => activities.judgeStage(ref, stageOf(10)), { traffic });
  const promote = async (): Promise<unknown> => {
    const { epoch } = await routeNow();
    return act((activities, ref) => activities.promote(ref, 'blue', epoch), { traffic });
  };
  const refusal = (what: string): object => ({
    type: 'GateFailed',
    message: expect.stringMatching(
      new RegExp(`^${what} is not begun: gate failed in stage 10 % meanwhile: longTransactions: `),
    ) as string,
  });
  const evidence = async (): Promise<{ failed?: object; openedAt: string; lookedAt?: string } | undefined> =>
    (
      await sides.sql<{ state: { openedAt: string } }>(
        'blue',
        "SELECT state FROM verdigris.progress WHERE step = 'stage evidence'",
      )
    )[0]?.state;

  /** As a client that forgets its transaction on green. */
  async function breakGreen(): Promise<void> {
    const client = new pg.Client(sides.green.config);
    await client.connect();
    closing.push(() => client.end());
    await client.query('BEGIN; SELECT txid_current()');
    await sleep(1_500);
  }

  it('is begun without another look while they are watched', async () => {
    await openStage(10, { traffic });
    expect((await judge()).outcome).toBe('pass');
    const asked = performance.now();
    await next();
    expect(performance.now() - asked).toBeLessThan(1_500);
    expect((await routeNow()).percent).toBe(50);
  });

  it('is begun when nobody has looked for a while and they have not failed', async () => {
    await openStage(10, { traffic });
    await judge();
    await sleep(1_600);
    await next();
    expect((await routeNow()).percent).toBe(50);
  });

  it.each([
    ['stage 50 %', next, { details: [{ greenReadPercent: 0, flagsOwed: null, gateFailed: true }] }],
    ['the promotion', promote, { nonRetryable: true }],
  ])('is not begun when one fails that nobody has looked at for a while: %s', async (what, begin, more) => {
    await openStage(10, { traffic });
    await judge();
    await breakGreen();
    await expect(begin()).rejects.toMatchObject({ ...refusal(what), ...more });
    expect((await routeNow()).percent).toBe(0);
    expect((await evidence())?.failed).toBeDefined();
    // Whoever is asked next is told the same, at once.
    const asked = performance.now();
    await expect(begin()).rejects.toMatchObject(refusal(what));
    expect(performance.now() - asked).toBeLessThan(1_500);
    // Opened anew, the stage begins with a clean sheet.
    await act((activities, ref) => activities.openStage(ref, stageOf(10)), { traffic });
    expect((await routeNow()).percent).toBe(10);
  });

  it('is not begun on the first look of a watch that has begun again after nobody had looked for a while', async () => {
    await openStage(10, { traffic });
    await judge();
    await breakGreen();
    const looked = async (): Promise<string | undefined> => (await evidence())?.lookedAt;
    const before = await looked();
    const context = new MockActivityEnvironment();
    const watch = act((activities, ref) => activities.watchGates(ref, stageOf(10)), { traffic, context });
    watch.catch(() => undefined);
    while ((await looked()) === before) await sleep(20);
    context.cancel();
    await expect(watch).rejects.toThrow();
    await expect(next()).rejects.toMatchObject(refusal('stage 50 %'));
  });

  it('stays refused when a worker that was frozen writes down what it has seen before', async () => {
    await openStage(10, { traffic });
    const context = new MockActivityEnvironment();
    const watch = act((activities, ref) => activities.watchGates(ref, stageOf(10)), { traffic, context });
    watch.catch(() => undefined);
    while ((await evidence()) === undefined) await sleep(20);
    const failed = {
      outcome: 'fail',
      lagSeconds: null,
      evidence: [{ metric: 'p99', outcome: 'fail', because: 'slow' }],
    };
    await sides.sql(
      'blue',
      `UPDATE verdigris.progress SET state = state || jsonb_build_object('failed', $1::jsonb) WHERE step = 'stage evidence'`,
      [JSON.stringify(failed)],
    );
    context.cancel();
    await expect(watch).rejects.toThrow();
    await expect(next()).rejects.toMatchObject({
      type: 'GateFailed',
      message: expect.stringContaining('p99: slow') as string,
    });
  });
});

describe('a live instance that does not follow', { timeout: 30_000 }, () => {
  it('the route of now is named, and the stage moves nobody', async () => {
    const route = await routeNow();
    await sides.stage(5);
    await instanceAt('stuck-1', route);
    await expect(openStage(10)).rejects.toMatchObject({
      type: 'GateFailed',
      message: expect.stringContaining('these instances do not follow the route in force: stuck-1') as string,
      details: [{ greenReadPercent: 5, flagsOwed: null }],
    });
    expect((await routeNow()).percent).toBe(5);
  });

  it('a stage is named, and its reads go back to blue', async () => {
    await instanceAt('stuck-1', await routeNow());
    const opening = openStage(10, { traffic: { flagd } });
    opening.catch(() => undefined);
    while ((await routeNow()).percent !== 10) await sleep(20);
    await expect(opening).rejects.toMatchObject({
      type: 'GateFailed',
      message: expect.stringMatching(/have not taken it over within 2 s: stuck-1/) as string,
      nonRetryable: false,
      details: [{ greenReadPercent: 0, flagsOwed: null }],
    });
    expect((await routeNow()).percent).toBe(0);
    expect(JSON.parse(await readFile(flagd.path, 'utf8'))).toMatchObject({ metadata: { greenReadPercent: 0 } });
  });

  it('keeps no stage open that a worker has left half open, as nobody watches it', async () => {
    const route = await routeNow();
    await sides.stage(10);
    await instanceAt('stuck-1', route);
    await expect(openStage(10)).rejects.toMatchObject({ details: [{ greenReadPercent: 0 }] });
    expect((await routeNow()).percent).toBe(0);
  });

  it('is waited for no longer once the run is rolled back', async () => {
    await instanceAt('stuck-1', await routeNow());
    const context = new MockActivityEnvironment();
    const opening = openStage(10, { context }).catch((error: unknown) => error);
    while ((await routeNow()).percent !== 10) await sleep(20);
    const asked = performance.now();
    context.cancel();
    await opening;
    expect(performance.now() - asked).toBeLessThan(1_000);
  });

  it('the way back is named until it does: those that write it down, and those that are asked', async () => {
    const page = await MetricsPage.open();
    closing.push(() => Promise.resolve(page.close()));
    page.text = undefined;
    const asked = { traffic: { scrape: ['routers'] }, environment: { VERDIGRIS_CONNECTION_ROUTERS: page.url } };
    await sides.stage(10);
    await instanceAt('stuck-1', await routeNow());
    const owed = await readsToBlue(asked);
    expect((await routeNow()).percent).toBe(0);
    expect(owed).toMatchObject({ unconfirmed: ['stuck-1', expect.stringContaining('HTTP 503')] });
    const { route, unconfirmed = [] } = owed ?? {};
    if (route === undefined) throw new Error('nothing is owed');
    expect(route).toMatchObject({ greenReadPercent: 0, generation: (await routeNow()).generation });

    let confirmed = false;
    const waiting = act((activities, ref) => activities.awaitConfirmed(ref, route, unconfirmed)).then((answer) => {
      confirmed = true;
      return answer;
    });
    await sleep(1_500);
    expect(confirmed).toBe(false);
    await instanceAt('stuck-1', await routeNow());
    expect(await waiting).toEqual({ unconfirmed: [] });
  });
});

describe('the end of a stage', { timeout: 30_000 }, () => {
  /** A stage that was opened so long ago. */
  async function openedBefore(hours: number, percent: number, asked: Asked = {}): Promise<void> {
    await openStage(percent, asked);
    await sides.sql(
      'blue',
      `UPDATE verdigris.progress SET state = jsonb_set(state, '{openedAt}',
         to_jsonb(to_char((now() - interval '${hours} hours') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))
        WHERE step = 'stage'`,
    );
  }

  const judging = (asked: Asked): ReturnType<Activities['judgeStage']> =>
    act((activities, ref) => activities.judgeStage(ref, { percent: 10, for: '6h' }), asked);
  const gates = [{ metric: 'errorRate', max: 0.001 } as const];

  it('that lasts longer than maxStageDuration is waited for so long after its time', async () => {
    await openedBefore(6.1, 10);
    const context = new MockActivityEnvironment();
    let ended = false;
    const judged = judging({ context, traffic: { gates, maxStageDuration: '4h' } }).then(
      () => (ended = true),
      () => undefined,
    );
    await sleep(3_500);
    expect(ended).toBe(false);
    context.cancel();
    await judged;
    expect(await judging({ traffic: { gates, maxStageDuration: '5m' } })).toMatchObject({ outcome: 'inconclusive' });
  });

  it('is no single look, also where it is late', async () => {
    const traffic = { gates: [{ metric: 'longTransactions', max: '1h' } as const], maxStageDuration: '4h' };
    await openedBefore(20, 10, { traffic });
    const began = performance.now();
    expect(await judging({ traffic })).toMatchObject({ outcome: 'pass' });
    // Three measurements, two seconds apart.
    expect(performance.now() - began).toBeGreaterThan(4_000);
  });
});

describe('a promotion', () => {
  it('is blocked, before anything is made, while an instance is too old for it: also without stages', async () => {
    await sides.router({ instance: 'old', version: '1.9' });
    const traffic = { stages: [], instances: { minVersion: '2.0' } };
    const { epoch } = await routeNow();
    // Those of the tests before may not have been forgotten yet.
    const heard = `SELECT FROM verdigris.router WHERE instance LIKE 'old-%'`;
    while ((await sides.sql('blue', heard)).length === 0) await sleep(20);
    await expect(act((activities, ref) => activities.promote(ref, 'blue', epoch), { traffic })).rejects.toMatchObject({
      type: 'PromotionBlocked',
      message: expect.stringMatching(
        /the promotion: not at version 2\.0: (.*, )?old-[0-9a-f]{6} \(version 1\.9, role /,
      ) as string,
      nonRetryable: true,
    });
  });
});
