import { createHmac } from 'node:crypto';
import type { Client } from '@temporalio/client';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { notifyActivities } from '../../activities/notify.js';
import { readLink } from '../../src/approval/link.js';
import type { ToldRun } from '../../src/notify/bodies.js';
import { shortBodyOf } from '../../src/notify/bodies.js';
import { deliver, DELIVERY_LIMITS } from '../../src/notify/webhook.js';
import { checkNotify } from '../../src/notify/preflight.js';
import { planSchema } from '../../src/plan/schema.js';
import { redactor } from '../../src/worker/redact.js';
import { statusOf, until } from '../support/migration.js';
import { NoticeReceiver, QUICK, sendingTo, TWO_DELIVERIES } from '../support/notice-receiver.js';
import { ScriptedRuns } from '../support/scripted-run.js';
import { approveUpdate, rollbackUpdate } from '../../workflows/messages.js';
import type { Notice } from '../../workflows/lib/notices.js';
import type { MigrationReport } from '../../workflows/lib/report.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterAll(() => runs.stop());

const HOOK_KEY = 'the key of the hook that signs';

describe('notifications of a run', () => {
  it('arrive in order, at least once, signed, and as lines for Slack; the address is nowhere in the history', async () => {
    const json = await NoticeReceiver.start();
    const slack = await NoticeReceiver.start();
    json.answers.push(500, 302);
    const run = await runs.begin(
      sendingTo({
        VERDIGRIS_CONNECTION_HOOK: json.url,
        VERDIGRIS_CONNECTION_HOOK_SECRET: HOOK_KEY,
        VERDIGRIS_CONNECTION_CHANNEL: slack.url,
        VERDIGRIS_APPROVAL_SECRET: 'a secret that is long enough to sign with',
        VERDIGRIS_APPROVAL_URL: 'https://approve.example',
      }),
      {
        notify: [
          { connection: 'hook' },
          { connection: 'channel', form: 'slack', events: ['approval', 'promoted', 'rolledBack'] },
        ],
        traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: ['promote'], by: ['ada'] } },
      },
    );
    // The receiver does not take what it is sent; the run goes on to its next question all the same.
    await until(run.handle, 'waiting', (s) => s.waiting?.gate === 'promote');
    await run.handle.executeUpdate(approveUpdate, { args: [{ gate: 'promote', by: 'ada', reason: 'go' }] });
    await until(run.handle, 'promoted', (s) => s.phase === 'standby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ by: 'ada', reason: 'slow <queries>' }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.warnings).toEqual([]);

    const taken = [...new Map(json.requests.map((request) => [request.key, request])).values()];
    const bodies = taken.map(({ body }) => JSON.parse(body) as { sequence: number; event: string; links?: object[] });
    expect(bodies.map(({ sequence }) => sequence)).toEqual(bodies.map((_, i) => i + 1));
    expect(taken.map(({ key }) => key)).toEqual(bodies.map(({ sequence }) => `${report.runId}-${sequence}`));
    expect(json.requests.filter(({ key }) => key.endsWith('-1'))).toHaveLength(3);
    const events = bodies.map(({ event }) => event);
    expect(events.slice(0, 3)).toEqual(['phase', 'phase', 'phase']);
    expect(events).toEqual(expect.arrayContaining(['stage', 'approval', 'promoted', 'rollingBack', 'rolledBack']));
    expect(events.at(-1)).toBe('rolledBack');
    const question = bodies.find(({ event }) => event === 'approval');
    expect(question).toMatchObject({
      waiting: {
        gate: 'promote',
        request: expect.stringMatching(/^promote-1-[0-9a-f]{6}$/) as string,
        evidence: expect.any(Array) as unknown[],
      },
      links: [{ by: 'ada', url: expect.stringMatching(/^https:\/\/approve\.example\/approve\//) as string }],
    });
    for (const { signature, body } of json.requests) {
      const [, seconds = '', mac = ''] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(signature) ?? [];
      expect(mac).toBe(createHmac('sha256', HOOK_KEY).update(`${seconds}.${body}`).digest('hex'));
    }

    const lines = slack.requests.map(({ body }) => (JSON.parse(body) as { text: string }).text);
    expect(lines[0]).toMatch(
      /approval \([-0-9T:.]+Z, writes on blue\): approval before writes move to green \(question promote-1-[0-9a-f]{6}\)\n• writes on blue/,
    );
    expect(lines[0]).toContain('May approve: ada');
    // A link that is made out to ada is not for a whole channel.
    expect(lines.join()).not.toContain('approve.example');
    expect(lines.at(-1)).toMatch(/rolledBack \(.*\): rolled back/);

    const history = await run.handle.fetchHistory();
    const text = JSON.stringify(history);
    for (const secret of ['T0P-SECRET-PATH', HOOK_KEY, 'approve.example', '127.0.0.1'])
      expect(text).not.toContain(secret);
    const payloads = Buffer.concat(
      (history.events ?? []).flatMap((event) =>
        (event.activityTaskScheduledEventAttributes?.input?.payloads ?? []).map(({ data }) => Buffer.from(data ?? [])),
      ),
    ).toString();
    expect(payloads).toMatch(/"promote-1-[0-9a-f]{6}"/);
    for (const secret of ['T0P-SECRET-PATH', HOOK_KEY, 'approve.example']) expect(payloads).not.toContain(secret);
  });

  it('that a receiver does not take for a while come later, from the first one on, in order', async () => {
    const taken: number[] = [];
    let away = true;
    let goOn = (): void => undefined;
    const missed = new Promise<void>((resolve) => (goOn = resolve));
    const run = await runs.begin(
      {
        notify: (_run, _ref, _told, _target, notices) => {
          // The first one arrives, then nothing more does.
          const taking = away ? notices.slice(0, taken.length === 0 ? 1 : 0) : notices;
          taken.push(...taking.map(({ sequence }) => sequence));
          return { undelivered: notices.length - taking.length, why: 'it answers 503' };
        },
        completeSchema: () => missed.then(() => ({ warnings: [] })),
      },
      {
        notify: [{ connection: 'hook' }],
        traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: ['promote'] } },
      },
    );
    const status = await until(run.handle, 'missed', (s) => s.warnings.length > 0);
    expect(status.warnings.join()).toMatch(/has not been told everything yet, and is told again: it answers 503/);
    expect(taken.length).toBe(1);
    // What is urgent does not wait for the next try that would have been.
    away = false;
    goOn();
    await until(run.handle, 'asked', (s) => s.waiting?.gate === 'promote');
    await until(run.handle, 'told', (s) => s.warnings.join().includes('takes what it is told again'));
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ by: 'ada', reason: 'enough' }] });
    await run.handle.result();
    expect(taken).toEqual(taken.map((_, i) => i + 1));
  });

  it("have links that expire by Temporal's clock, as approvals do, whatever the worker's says", async () => {
    const json = await NoticeReceiver.start();
    const secret = 'a secret that is long enough to sign with';
    const { notify } = notifyActivities({
      environment: {
        VERDIGRIS_CONNECTION_HOOK: json.url,
        VERDIGRIS_APPROVAL_SECRET: secret,
        VERDIGRIS_APPROVAL_URL: 'https://approve.example',
      },
      redact: redactor([]),
    });
    const ahead = 3 * 3_600_000;
    const lastStartedTime = { seconds: Math.floor((Date.now() + ahead) / 1_000), nanos: 0 };
    const describe = (): Promise<unknown> =>
      Promise.resolve({ raw: { pendingActivities: [{ activityId: 'test', lastStartedTime }] } });
    const workflow = { getHandle: () => ({ describe, signal: () => Promise.resolve() }) };
    const withAbortSignal = (_signal: AbortSignal, work: () => unknown): unknown => work();
    const client = { workflow, withAbortSignal } as unknown as Client;
    const plan = planSchema.parse({
      ...{ name: 'm', blue: { connection: 'b' }, green: { connection: 'g' }, notify: [{ connection: 'hook' }] },
      traffic: { approval: { before: ['promote'], validFor: '1h' } },
    });
    const [target] = plan.notify ?? [];
    if (target === undefined) throw new Error('the plan names nobody');
    const run = { name: 'm', workflowId: 'verdigris/m', runId: 'r' };
    const waiting = { for: 'approval', gate: 'promote', request: 'promote-1', why: 'writes move', since: 'T' } as const;
    const notice = { sequence: 1, event: 'approval', at: 'T', text: 'approval', waiting } as unknown as Notice;
    await new MockActivityEnvironment({ activityId: 'test' }, { client }).run(() =>
      notify({ plan, runId: 'r' }, run as ToldRun, target, [notice]),
    );
    const { links = [] } = JSON.parse(json.requests[0]?.body ?? '{}') as { links?: { url: string }[] };
    const link = readLink(links[0]?.url.split('/').at(-1) ?? '', secret);
    expect(Math.abs((link?.expires ?? 0) * 1_000 - Date.now() - ahead - 3_600_000)).toBeLessThan(60_000);
  });

  it('have keys of their own after a reset, which sets the sequence back and keeps the run: no other notice is taken for them', async () => {
    const json = await NoticeReceiver.start();
    const environment = { VERDIGRIS_CONNECTION_HOOK: json.url };
    const { notify } = notifyActivities({ environment, redact: redactor([]) });
    const plan = planSchema.parse({
      ...{ name: 'm', blue: { connection: 'b' }, green: { connection: 'g' }, notify: [{ connection: 'hook' }] },
    });
    const [target] = plan.notify ?? [];
    if (target === undefined) throw new Error('the plan names nobody');
    const run = { name: 'm', workflowId: 'verdigris/m', runId: 'first' };
    const notice = { sequence: 5, event: 'phase', at: 'T', text: 'verify' } as unknown as Notice;
    const tell = (runId: string, attempt: number): Promise<unknown> =>
      new MockActivityEnvironment({ attempt, workflowExecution: { workflowId: 'verdigris/m', runId } }).run(() =>
        notify({ plan, runId: 'first' }, run, target, [notice]),
      );
    for (const runId of ['first', 'second']) for (const attempt of [1, 2]) await tell(runId, attempt);
    expect(json.requests.map(({ key }) => key)).toEqual(['first-5', 'first-5', 'second-5', 'second-5']);
    const bodies = json.requests.map(({ body }) => JSON.parse(body) as { run: ToldRun; sequence: number });
    for (const body of bodies) expect(body).toMatchObject({ run: { runId: 'first' }, sequence: 5 });
  });

  it('whose webhook the worker does not know are said to be lost, and stop nothing', async () => {
    const run = await runs.begin(sendingTo({}), { notify: [{ connection: 'hook' }] });
    const status = await until(run.handle, 'in standby', (s) => s.phase === 'standby' && s.warnings.length > 0);
    expect(status.warnings.join()).toMatch(/knows no connection "hook"/);
    expect((await statusOf(run.handle)).outcome).toBe('running');
    await run.handle.terminate();
  });
});

describe('what is told of a plan', () => {
  const plan = planSchema.parse({
    ...{ name: 'told', blue: { connection: 'b' }, green: { connection: 'g' } },
    notify: [{ connection: 'ops-hook' }, { connection: 'channel', form: 'slack', events: ['promoted'] }],
  });
  const at = 'VERDIGRIS_CONNECTION_OPS_HOOK';
  const known = { [at]: 'https://hook.example/T0P-SECRET', VERDIGRIS_CONNECTION_CHANNEL: 'https://slack.example/x' };
  const found = (environment: Record<string, string>): string[] =>
    checkNotify(plan, environment).map(({ severity, check, object, message, remedy }) =>
      [severity, check, object, message, remedy].join(' | '),
    );

  it('is refused before anything is touched where the worker does not know where to', () => {
    expect(found(known)).toEqual([]);
    expect(found({ ...known, [at]: 'https://me:word@hook.example/' })).toEqual([]);
    expect(found({ ...known, [at]: 'https://me:50%@hook.example/' })).toEqual([
      expect.stringMatching(/is not the URL of a webhook/),
    ]);
    expect(found({})).toEqual([
      expect.stringMatching(
        /^error \| notify-webhook \| ops-hook \| .*knows no connection.*set VERDIGRIS_CONNECTION_OPS/,
      ),
      expect.stringMatching(/^error \| notify-webhook \| channel \| /),
    ]);
    const noUrl = found({ ...known, [at]: 'hook.example/T0P-SECRET' });
    expect(noUrl).toEqual([expect.stringMatching(/is not the URL of a webhook/)]);
    expect(noUrl.join()).not.toContain('T0P-SECRET');
  });

  it('has a warning where questions will come without links', () => {
    const url = { VERDIGRIS_APPROVAL_URL: 'https://approve.example' };
    expect(found({ ...known, ...url, VERDIGRIS_APPROVAL_SECRET: 'x'.repeat(32) })).toEqual([]);
    // Nobody asks for links.
    expect(found({ ...known, VERDIGRIS_APPROVAL_SECRET: 'short' })).toEqual([]);
    expect(found({ ...known, ...url, VERDIGRIS_APPROVAL_SECRET: 'short' })).toEqual([
      expect.stringMatching(/^warning \| approval-secret \| .*shorter than 32 characters/),
    ]);
    expect(found({ ...known, ...url, VERDIGRIS_APPROVAL_SECRET_FILE: '/nowhere/at/all' })).toEqual([
      expect.stringMatching(/^warning \| approval-secret \| .*can't be read/),
    ]);
  });
});

describe('a delivery', () => {
  const never = new AbortController().signal;

  it('is sent again after a hang, an error and a redirect, and the next one waits for it', async () => {
    const receiver = await NoticeReceiver.start();
    receiver.answers.push('hang', 503, 302, 429, 200, 200);
    expect(
      await deliver(
        { url: receiver.url, secret: null },
        TWO_DELIVERIES,
        { ...QUICK, timeoutMs: 1_500, giveUpAfterMs: 20_000 },
        never,
      ),
    ).toEqual({ undelivered: 0, why: '' });
    expect(receiver.requests.map(({ key }) => key)).toEqual(['r-1', 'r-1', 'r-1', 'r-1', 'r-1', 'r-2']);
    expect(receiver.requests[0]?.signature).toBe('undefined');
  });

  it('that is refused for what it says is sent in a few words, and those behind it are sent', async () => {
    const receiver = await NoticeReceiver.start();
    receiver.refuses = (body) => (body.includes('DROP TABLE') ? 413 : undefined);
    const { notify } = notifyActivities({ environment: { VERDIGRIS_CONNECTION_HOOK: receiver.url }, redact: String });
    const run = { name: 'shop', workflowId: 'verdigris/shop', runId: 'r1' };
    const common = { at: '2026-11-29T22:00:00.000Z', phase: 'traffic', writesOn: 'blue', greenReadPercent: 0 };
    const more = { ...common, lagSeconds: null, lagAt: null, rollbackSafe: true };
    const waiting = { for: 'resume', why: 'DROP TABLE a', since: common.at } as const;
    const notices: Notice[] = [
      { ...more, sequence: 1, event: 'held', text: 'held: DDL on blue: DROP TABLE a', waiting },
      { ...more, sequence: 2, event: 'approval', text: 'approval before writes move' },
    ];
    const plan = planSchema.parse({ name: 'shop', blue: { connection: 'b' }, green: { connection: 'g' } });
    const target = { connection: 'hook', form: 'json' as const };
    const answer = await new MockActivityEnvironment().run(() => notify({ plan, runId: 'r1' }, run, target, notices));
    expect(answer).toEqual({
      ...{ undelivered: 0, why: '' },
      warnings: ['the webhook hook has been told of notice 1 (held) in a few words alone: sent whole, it answers 413'],
    });
    const bodies = receiver.requests.map(({ body }) => JSON.parse(body) as Notice);
    expect(bodies.map(({ sequence }) => sequence)).toEqual([1, 1, 1, 2]);
    expect(bodies[2]).toMatchObject({ event: 'held', text: expect.stringContaining('`verdigris status`') as string });
    expect(new Set(receiver.requests.slice(0, 3).map(({ key }) => key)).size).toBe(1);
  });

  it('of a question in a few words still says which question, and who may answer', () => {
    const run = { name: 'shop', workflowId: 'verdigris/shop', runId: 'r1' };
    const question = { gate: 'promote', request: 'promote-1-3f9c1a', mayApprove: ['ada'] };
    const waiting = { ...question, answer: 'temporal workflow update', evidence: ['DROP TABLE a'] };
    const told = { sequence: 1, text: 'writes move', at: 'T', writesOn: 'blue', waiting };
    const short = (event: string): unknown => JSON.parse(shortBodyOf('json', run, { ...told, event }));
    expect(short('approval')).toHaveProperty('waiting', question);
    expect(short('held')).not.toHaveProperty('waiting');
  });

  it('that is refused in a few words, too, stays first in its line: such a receiver takes nothing', async () => {
    const receiver = await NoticeReceiver.start();
    receiver.refuses = () => 403;
    const messages = TWO_DELIVERIES.map((one) => ({ ...one, short: '{}' }));
    const limits = { ...QUICK, giveUpAfterMs: 300 };
    expect(await deliver({ url: receiver.url, secret: null }, messages, limits, never)).toEqual({
      ...{ undelivered: 2, why: 'it answers 403' },
    });
  });

  it('to nobody is given up too', async () => {
    const receiver = await NoticeReceiver.start();
    receiver.close();
    const { undelivered, why } = await deliver(
      { url: receiver.url, secret: null },
      TWO_DELIVERIES,
      { ...QUICK, giveUpAfterMs: 200 },
      never,
    );
    expect([undelivered, why]).toEqual([2, "it can't be reached (ECONNREFUSED)"]);
    expect(DELIVERY_LIMITS.giveUpAfterMs).toBeLessThan(300_000);
  });
});
