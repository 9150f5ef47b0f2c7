import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import type { WorkflowFailedError } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { trafficWebhookActivities } from '../../activities/traffic-webhooks.js';
import type { PlanInput } from '../../src/plan/schema.js';
import { redactor } from '../../src/worker/redact.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { approveUpdate, pauseUpdate, resumeUpdate, retireUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { asks } from '../support/asked-approvals.js';
import { statusOf, until } from '../support/migration.js';
import {
  replayed,
  ScriptedRuns,
  slowly,
  untilCancelled,
  type Overrides,
  type ScriptedRun,
} from '../support/scripted-run.js';
import { isSigned, refusal, WebhookReceiver } from '../support/webhook-receiver.js';

const KEY = 'the key that the hook is called with';
const WHO = { by: 'ada', reason: 'the test says so' };

let runs: ScriptedRuns;
const open: WebhookReceiver[] = [];

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterAll(async () => {
  await runs.stop();
  for (const receiver of open.splice(0)) await receiver.close();
});

async function receiver(): Promise<WebhookReceiver> {
  const started = await WebhookReceiver.start();
  open.push(started);
  return started;
}

type Hook = NonNullable<NonNullable<PlanInput['traffic']>['webhooks']>[number];

/** A run whose webhook `hook` is that receiver; `other` is the second one, where there is one. */
async function begin(
  receivers: Readonly<Record<string, WebhookReceiver>>,
  traffic: PlanInput['traffic'] = {},
  overrides: Overrides = {},
  hook: Partial<Hook> = {},
  windows?: PlanInput['windows'],
  promote?: PlanInput['promote'],
): Promise<ScriptedRun> {
  const environment = Object.fromEntries(
    Object.entries(receivers).flatMap(([name, { url }]) => [
      [`VERDIGRIS_CONNECTION_${name.toUpperCase()}`, url],
      [`VERDIGRIS_CONNECTION_${name.toUpperCase()}_SECRET`, KEY],
    ]),
  );
  const { callWebhook } = trafficWebhookActivities({ environment, redact: redactor([KEY]) });
  return runs.begin(
    { callWebhook: (_run, ...args) => callWebhook(...args), ...overrides },
    {
      traffic: {
        stages: [{ percent: 10, for: '0s' }],
        approval: { before: [] },
        webhooks: Object.keys(receivers).map((connection) => ({ connection, timeout: '2s', ...hook })),
        ...traffic,
      },
      ...(windows === undefined ? {} : { windows }),
      ...(promote === undefined ? {} : { promote }),
    },
  );
}

const inStandby = (run: ScriptedRun) => until(run.handle, 'in standby', (s) => s.phase === 'standby');
const resultOf = async (run: ScriptedRun): Promise<MigrationReport> => (await run.handle.result()) as MigrationReport;

async function failureOf(run: ScriptedRun): Promise<string> {
  const error: unknown = await run.handle.result().catch((e: unknown) => e);
  return String((error as WorkflowFailedError).cause?.message);
}

/** Waits until the receiver has had what is wanted. */
async function saw(hook: WebhookReceiver, wanted: () => boolean): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!wanted()) {
    if (Date.now() > deadline) throw new Error(`never: ${hook.events.join(' ')}`);
    await sleep(10);
  }
}

describe.concurrent('webhooks of a run', () => {
  it('are asked before reads and writes move and told after, each intent with a key of its own; no secret is in the history', async () => {
    const hook = await receiver();
    const order: string[] = [];
    hook.answer = ({ body: { event } }) => {
      order.push(event);
      return 200;
    };
    const run = await begin(
      { hook },
      {
        stages: [
          { percent: 10, for: '0s' },
          { percent: 100, for: '0s' },
        ],
      },
      {
        openStage: (_run, _ref, { percent }) => {
          order.push(`route ${percent}`);
          return { routers: 0 };
        },
        promote: (own, _ref, from) => {
          order.push(`moved from ${from}`);
          return own.move(from);
        },
        readsToBlue: () => void order.push('reads to blue'),
      },
    );
    await inStandby(run);
    await saw(hook, () => hook.of('promoted').length > 0);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = await resultOf(run);
    expect(report.outcome).toBe('rolledBack');
    expect(report.warnings).toEqual([]);
    expect(report.rollingBack?.undone.at(-1)).toBe('webhooks lead to blue');

    expect(order.slice(0, 6)).toEqual(['stage', 'route 10', 'stage', 'route 100', 'promoting', 'moved from blue']);
    // The way back of the writes first finishes what was decided, then moves them.
    const moved = order.lastIndexOf('moved from green');
    expect(order.indexOf('rollingBack')).toBeLessThan(moved);
    expect(order.indexOf('rolledBack')).toBeGreaterThan(moved);
    expect(order.filter((event) => event === 'rolledBack')).toHaveLength(1);

    const bodies = hook.requests.map(({ body }) => body);
    const seen = bodies.map((b) => [b.event, b.epoch, b.writesOn, b.greenReadPercent, b.mayRefuse]);
    expect(seen).toEqual([
      ['stage', 1, 'blue', 10, true],
      ['stage', 1, 'blue', 100, true],
      ['promoting', 1, 'blue', 100, true],
      ['promoted', 2, 'green', 100, false],
      ['rollingBack', 2, 'green', 100, false],
      ['rolledBack', 3, 'blue', 0, false],
    ]);
    const generations = bodies.map(({ generation }) => generation);
    expect(generations.every((one, i) => Number.isSafeInteger(one) && one > (generations[i - 1] ?? 0))).toBe(true);
    expect(hook.requests.map(({ key }) => key)).toEqual(generations.map((n) => `${report.runId}-${n}`));
    expect(hook.requests.every((request) => isSigned(request, KEY))).toBe(true);

    const history = await run.handle.fetchHistory();
    const text = JSON.stringify(history, (_name, value: unknown) =>
      value instanceof Uint8Array ? Buffer.from(value).toString() : value,
    );
    expect(text).toContain('callWebhook');
    for (const secret of ['T0P-SECRET-PATH', KEY, hook.url]) expect(text).not.toContain(secret);
  });

  it('hold a stage that one of them refuses, with its reason: nothing moves, the others are led back, and resume asks anew', async () => {
    const [hook, other] = [await receiver(), await receiver()];
    let refuses = true;
    other.answer = ({ body }) => (refuses && body.event === 'stage' ? refusal(`the TTL is a day, said ${KEY}`) : 200);
    const run = await begin({ hook, other });
    const held = await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    expect(held.waiting?.why).toBe(
      'reads of 10 % of the users go to green: the webhook other refuses: the TTL is a day, said ***',
    );
    expect(held.waiting?.answer).toContain('--name resume');
    expect(held.greenReadPercent).toBe(0);
    expect(run.log).not.toContain('+openStage');
    await saw(hook, () => hook.of('readsBack').length > 0);
    expect(hook.of('readsBack')[0]?.body).toMatchObject({ greenReadPercent: 0 });

    refuses = false;
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await inStandby(run);
    // A receiver that keeps its answers by key would refuse the same key for ever.
    expect(new Set(other.of('stage').map(({ key }) => key)).size).toBe(2);
    expect(other.events).toEqual(['stage', 'readsBack', 'stage', 'promoting', 'promoted']);
    const generations = other.requests.map(({ body }) => body.generation);
    expect(generations).toEqual([...new Set(generations)].sort((a, b) => a - b));
    await run.handle.terminate();
  });

  it('roll the run back where the plan says so', async () => {
    const hook = await receiver();
    hook.answer = ({ body }) => (body.event === 'stage' ? refusal('change freeze', 422) : 200);
    const run = await begin({ hook }, {}, {}, { onRefuse: 'rollback' });
    expect(await failureOf(run)).toMatch(/the webhook hook refuses: change freeze/);
    const status = await statusOf(run.handle);
    expect(status.rollingBack?.notUndone).toEqual([]);
    expect(run.log).not.toContain('+openStage');
    expect(hook.events.at(-1)).toBe('rolledBack');
  });

  it('send a promotion that one refuses back to its approval with the reason; it is not tried', async () => {
    const hook = await receiver();
    let refuses = true;
    hook.answer = ({ body }) => (refuses && body.event === 'promoting' ? refusal('the sale ends at six') : 200);
    const run = await begin({ hook });
    const asked = await until(run.handle, 'asked', (s) => s.waiting?.gate === 'promote');
    expect(asked.waiting?.why).toBe(
      'writes are about to move to green: the webhook hook refuses: the sale ends at six',
    );
    expect(run.log).not.toContain('+promote');
    await saw(hook, () => hook.events.includes('notPromoted'));
    refuses = false;
    await run.handle.executeUpdate(approveUpdate, { args: [{ ...WHO, gate: 'promote' }] });
    await inStandby(run);
    expect(new Set(hook.of('promoting').map(({ key }) => key)).size).toBe(2);
    await saw(hook, () => hook.events.includes('promoted'));
    await run.handle.terminate();
  });

  it('are told when a promotion that they agreed to could not go through, and asked again before the next try', async () => {
    const hook = await receiver();
    let blocked = true;
    const run = await begin(
      { hook },
      {},
      {
        promote: (own, _ref, from) => {
          if (blocked) throw ApplicationFailure.nonRetryable('pid 7 writes since an hour', 'PromotionBlocked');
          return own.move(from);
        },
      },
    );
    await until(run.handle, 'asked', (s) => s.waiting?.gate === 'promote');
    blocked = false;
    await run.handle.executeUpdate(approveUpdate, { args: [{ ...WHO, gate: 'promote' }] });
    await inStandby(run);
    await saw(hook, () => hook.events.includes('promoted'));
    expect(hook.events).toEqual(['stage', 'promoting', 'notPromoted', 'promoting', 'promoted']);
    await run.handle.terminate();
  });

  it('go back while the run is paused, also where it looks once more whether blue is quiet after they have agreed', async () => {
    const hook = await receiver();
    let looks = 0;
    const awaitQuiet: Overrides['awaitQuiet'] = () => {
      const hasAgreed = hook.events.at(-1) === 'promoting';
      return hasAgreed && ++looks === 1 ? untilCancelled() : { quiet: true };
    };
    const run = await begin({ hook }, {}, { awaitQuiet }, {}, { below: { transactionsPerSecond: 1_000 } });
    await saw(hook, () => looks > 0);
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await saw(hook, () => hook.events.includes('notPromoted'));
    expect((await statusOf(run.handle)).paused).toBe(true);
    expect(run.log).not.toContain('+promote');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await inStandby(run);
    await saw(hook, () => hook.events.includes('promoted'));
    expect(hook.events).toEqual(['stage', 'promoting', 'notPromoted', 'promoting', 'promoted']);
    await replayed(run);
    await run.handle.terminate();
  });

  it('are led back once, and at once, by a pause where a stage that they lead to looks once more whether blue is quiet', async () => {
    const hook = await receiver();
    let looks = 0;
    const awaitQuiet: Overrides['awaitQuiet'] = () => {
      const hasAgreed = hook.events.at(-1) === 'stage';
      return hasAgreed && ++looks === 1 ? untilCancelled() : { quiet: true };
    };
    const run = await begin({ hook }, {}, { awaitQuiet }, {}, { below: { transactionsPerSecond: 1_000 } });
    await saw(hook, () => looks > 0);
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await saw(hook, () => hook.events.includes('readsBack'));
    expect((await statusOf(run.handle)).paused).toBe(true);
    expect(run.log).not.toContain('+openStage');
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await inStandby(run);
    await saw(hook, () => hook.events.includes('promoted'));
    expect(hook.events).toEqual(['stage', 'readsBack', 'stage', 'promoting', 'promoted']);
    await replayed(run);
    await run.handle.terminate();
  });

  it('that take their time to agree stay ready while what has changed meanwhile is compared, and are asked once', async () => {
    const hook = await receiver();
    const { callWebhook } = trafficWebhookActivities({
      environment: { VERDIGRIS_CONNECTION_HOOK: hook.url, VERDIGRIS_CONNECTION_HOOK_SECRET: KEY },
      redact: redactor([KEY]),
    });
    let asked = (): void => undefined;
    let goOn = (): void => undefined;
    const isAsked = new Promise<void>((resolve) => (asked = resolve));
    const mayAgree = new Promise<void>((resolve) => (goOn = resolve));
    const run = await begin(
      { hook },
      {},
      {
        callWebhook: async (_run, ...args) => {
          const answer = await callWebhook(...args);
          if (hook.events.at(-1) !== 'promoting') return answer;
          asked();
          await mayAgree;
          return answer;
        },
      },
      {},
      undefined,
      { comparedWithin: '1s' },
    );
    await isAsked;
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await sleep(1_500);
    const compared = run.log.filter((entry) => entry === '+verify').length;
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    goOn();
    await inStandby(run);
    expect(run.log.slice(0, run.at('+promote')).filter((entry) => entry === '+verify')).toHaveLength(compared + 1);
    await saw(hook, () => hook.events.includes('promoted'));
    expect(hook.events).not.toContain('notPromoted');
    expect(new Set(hook.of('promoting').map(({ key }) => key)).size).toBe(1);
    await replayed(run);
    await run.handle.terminate();
  });

  it('are asked again when the run was paused between their agreement and the promotion', async () => {
    const hook = await receiver();
    let tries = 0;
    const promote: Overrides['promote'] = (own, _ref, from) => (++tries === 1 ? untilCancelled() : own.move(from));
    const run = await begin({ hook }, {}, { promote });
    await run.saw('+promote');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await run.saw('-promote');
    // The pause may last for days: nobody stays ready for so long.
    await saw(hook, () => hook.events.includes('notPromoted'));
    expect((await statusOf(run.handle)).paused).toBe(true);
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await inStandby(run);
    await saw(hook, () => hook.events.includes('promoted'));
    expect(hook.events).toEqual(['stage', 'promoting', 'notPromoted', 'promoting', 'promoted']);
    expect(new Set(hook.of('promoting').map(({ key }) => key)).size).toBe(2);
    await replayed(run);
    await run.handle.terminate();
  });

  it('are led back by a pause when they have agreed to a stage that is not open yet, and asked anew on resume', async () => {
    const hook = await receiver();
    let tries = 0;
    const openStage: Overrides['openStage'] = async () => {
      if (++tries > 1) return { routers: 1 };
      await untilCancelled().catch(() => undefined);
      throw new CancelledFailure('broken off', [{ hasMoved: false }]);
    };
    const run = await begin({ hook }, {}, { openStage });
    await run.saw('+openStage');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await saw(hook, () => hook.of('readsBack').length > 0);
    expect((await statusOf(run.handle)).paused).toBe(true);
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await inStandby(run);
    expect(hook.events.slice(0, 3)).toEqual(['stage', 'readsBack', 'stage']);
    expect(new Set(hook.of('stage').map(({ key }) => key)).size).toBe(2);
    await run.handle.terminate();
  });

  it('that have refused a stage are not asked for it again before an approval that has expired is given anew', async () => {
    const hook = await receiver();
    let refuses = true;
    hook.answer = ({ body }) => (refuses && body.event === 'stage' ? refusal('not today') : 200);
    const run = await begin({ hook }, { approval: { before: [10], validFor: '1s' } });
    const approve = async (nth: string): Promise<void> => {
      const request = await asks(run, 'stage-10', nth);
      await run.handle.executeUpdate(approveUpdate, { args: [{ ...WHO, gate: 'stage-10', request }] });
    };
    await approve('stage-10-1');
    await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    await sleep(1_100);
    refuses = false;
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await asks(run, 'stage-10', 'stage-10-2');
    expect(hook.of('stage')).toHaveLength(1);
    await approve('stage-10-2');
    await inStandby(run);
    await run.handle.terminate();
  });

  it('are waited for while they have accepted and are not effective, and asked with the same key after a pause', async () => {
    const hook = await receiver();
    let effective = false;
    hook.answer = ({ body }) =>
      body.event === 'stage' && !effective ? { status: 202, headers: { 'retry-after': '0' } } : 200;
    const run = await begin({ hook });
    await saw(hook, () => hook.of('stage').length > 2);
    expect(run.log).not.toContain('+openStage');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await run.saw('-callWebhook');
    const asked = hook.requests.length;
    await sleep(700);
    expect(hook.requests).toHaveLength(asked);
    effective = true;
    await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await inStandby(run);
    const stages = hook.of('stage');
    expect(stages.length).toBeGreaterThan(asked);
    expect(new Set(stages.map(({ key, text }) => key + text)).size).toBe(1);
    await run.handle.terminate();
  });

  it('are told of the rollback, though what they were told before was taken while it was being given up', async () => {
    const hook = await receiver();
    const told: string[] = [];
    const callWebhook: Overrides['callWebhook'] = async (_run, _called, _target, call) => {
      if (call.event === 'stage') return { outcome: 'failed', why: 'mend it' };
      // Its answer has come when it is cancelled, and not before.
      if (call.event === 'readsBack') await untilCancelled().catch(() => undefined);
      else await slowly(1_500);
      told.push(call.event);
      return { outcome: 'done' };
    };
    const run = await begin({ hook }, {}, { callWebhook });
    await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    await run.saw('+callWebhook', 2);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(told).toEqual(['readsBack', 'rolledBack']);
  });

  it('that answer with an error that a person must mend hold the stage and say which', async () => {
    const hook = await receiver();
    hook.answer = () => 401;
    const run = await begin({ hook });
    const held = await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    expect(held.waiting?.why).toMatch(/the webhook hook can't be asked: it answers 401$/);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'undone', (s) => s.rollingBack?.undone.includes('release both databases') === true);
    // The way back does not depend on it; it is told again and again, until somebody has mended it.
    hook.answer = () => 200;
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    // A request that was given up may still arrive after the next one: receivers go by the generation.
    const newest = [...hook.requests].sort((a, b) => a.body.generation - b.body.generation).at(-1);
    expect(newest?.body.event).toBe('rolledBack');
  });

  it('whose address or secret the worker lacks hold the stage too', async () => {
    const run = await begin({}, { webhooks: [{ connection: 'nowhere' }] });
    const held = await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    expect(held.waiting?.why).toMatch(/knows no connection "nowhere"/);
    await run.handle.terminate();
  });

  it('that are down do not keep a rollback from anything, and are in the report as not told', async () => {
    const hook = await receiver();
    const run = await begin({ hook }, {}, {}, { deadline: '2s' });
    await inStandby(run);
    await saw(hook, () => hook.events.includes('promoted'));
    await hook.close();
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const message = await failureOf(run);
    expect(message).toMatch(
      /Not undone: webhooks lead to blue: hook has not been told rolledBack: .*Lead the traffic behind it to blue by hand/,
    );
    const { rollingBack, warnings } = await statusOf(run.handle);
    expect(rollingBack?.undone).toEqual(
      expect.arrayContaining(['writes back to blue', 'all reads back to blue', 'release both databases']),
    );
    expect(rollingBack?.notUndone).toHaveLength(1);
    expect(warnings.join()).toMatch(/has not been told "rolledBack".*ECONNREFUSED/);
    expect(run.writesOn).toBe('blue');
  });

  it('that are down when writes have moved are told until they are: the standby window goes on, the retirement waits', async () => {
    const hook = await receiver();
    const run = await begin(
      { hook },
      {},
      {
        promote: async (own, _ref, from) => {
          if (from === 'blue') await hook.close();
          return own.move(from);
        },
      },
      { deadline: '1s' },
    );
    await inStandby(run);
    const warned = await until(run.handle, 'warned', (s) => s.warnings.length > 0);
    expect(warned.warnings.join()).toMatch(/hook has not been told "promoted" \(writes have moved to green\)/);
    expect(warned.phase).toBe('standby');
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    const waits = await until(run.handle, 'waiting', (s) => s.waiting?.why.includes('the retirement waits') === true);
    expect(waits.waiting?.answer).toContain('--name retire');
    expect(run.log).not.toContain('+retire');
    await hook.listen();
    const report = await resultOf(run);
    expect(report.outcome).toBe('completed');
    expect(report.warnings.at(-1)).toBe('the webhook hook has been told "promoted" now');
    expect(new Set(hook.of('promoted').map(({ key }) => key)).size).toBe(1);
  });

  it('that stay down keep nobody from retiring who says so once more, and are in the report', async () => {
    const hook = await receiver();
    const promote: Overrides['promote'] = async (own, _ref, from) => {
      await hook.close();
      return own.move(from);
    };
    const run = await begin({ hook }, {}, { promote }, { deadline: '1s' });
    await inStandby(run);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await until(run.handle, 'waiting', (s) => s.waiting?.why.includes('the retirement waits') === true);
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    const report = await resultOf(run);
    expect(report.outcome).toBe('completed');
    expect(report.warnings.at(-1)).toMatch(/the run has ended, and the webhook hook has not been told promoted/);
  });

  it('are led back at the same moment as the reads when a gate fails, also while they are being asked for the next stage', async () => {
    const hook = await receiver();
    let fails = false;
    hook.answer = ({ body }) => {
      if (body.event !== 'stage' || body.greenReadPercent !== 50) return 200;
      fails = true;
      return { status: 202, headers: { 'retry-after': '0' } };
    };
    const stages = [
      { percent: 10, for: '0s' },
      { percent: 50, for: '0s' },
    ];
    const run = await begin(
      { hook },
      { stages, onFail: 'pause' },
      {
        watchGates: async (_run, _ref, stage) => {
          if (stage.percent !== 10) return untilCancelled();
          const deadline = Date.now() + 20_000;
          while (!fails && Date.now() < deadline) await Promise.race([sleep(20), untilCancelled()]);
          fails = false;
          return [
            {
              ...{ at: new Date().toISOString(), where: 'stage 10 %', metric: 'errorRate', windowSeconds: 1 },
              ...{ outcome: 'fail', because: 'green is broken', onFail: 'pause' },
              ...{ green: { requests: 9, errors: 9 }, blue: { requests: 9, errors: 0 } },
            },
          ];
        },
      },
    );
    const held = await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    expect(held.waiting?.why).toMatch(/green is broken; all reads are on blue/);
    await saw(hook, () => hook.events.includes('readsBack'));
    run.at('+readsToBlue');
    const calls = hook.requests.map(({ body }) => body);
    const back = calls.find(({ event }) => event === 'readsBack');
    expect(back?.greenReadPercent).toBe(0);
    expect(back?.generation).toBe(Math.max(...calls.map(({ generation }) => generation)));
    // Nothing of the stage that was given up comes after it.
    await sleep(500);
    expect(hook.events.at(-1)).toBe('readsBack');
    hook.answer = () => 200;
    fails = false;
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(hook.events.at(-1)).toBe('rolledBack');
  });

  it('are told of a failed gate when it fails, not when everything that runs has stopped', async () => {
    const hook = await receiver();
    let stopped = false;
    const run = await begin(
      { hook },
      {},
      {
        judgeStage: () => ({
          ...{ outcome: 'fail', lagSeconds: 0 },
          evidence: [
            {
              ...{ at: new Date().toISOString(), where: 'stage 10 %', metric: 'errorRate', windowSeconds: 1 },
              ...{ outcome: 'fail', because: 'green is broken', onFail: 'rollback' },
              ...{ green: { requests: 9, errors: 9 }, blue: { requests: 9, errors: 0 } },
            },
          ],
        }),
        watchSchema: () => untilCancelled(3_000).finally(() => (stopped = true)),
      },
    );
    await saw(hook, () => hook.events.includes('rolledBack'));
    expect(stopped).toBe(false);
    expect(run.log).not.toContain('+removeFence');
    await expect(run.handle.result()).rejects.toMatchObject({ cause: { type: 'MigrationRolledBack' } });
    expect(hook.events).toEqual(['stage', 'rolledBack']);
  });

  it('are called for what the plan says only', async () => {
    const [hook, other] = [await receiver(), await receiver()];
    const webhooks: Hook[] = [
      { connection: 'hook', on: ['stage', 'rollback'] },
      { connection: 'other', on: ['promote', 'rollback'] },
    ];
    const run = await begin({ hook, other }, { webhooks });
    await inStandby(run);
    await saw(other, () => other.events.includes('promoted'));
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await resultOf(run);
    expect(hook.events).toEqual(['stage', 'rollingBack', 'rolledBack']);
    expect(other.events).toEqual(['promoting', 'promoted', 'rollingBack', 'rolledBack']);
  });

  it('are not called for a rollback before any traffic has moved', async () => {
    const hook = await receiver();
    const run = await begin({ hook }, { approval: { before: ['traffic'] } });
    await until(run.handle, 'asked', (s) => s.waiting?.gate === 'traffic');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(hook.requests).toEqual([]);
  });
});
