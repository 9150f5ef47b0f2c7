import { Worker } from '@temporalio/worker';
import type { WorkflowFailedError, WorkflowHandle } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { trafficWebhookActivities } from '../../activities/traffic-webhooks.js';
import type { PlanInput } from '../../src/plan/schema.js';
import { redactor } from '../../src/worker/redact.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { progressSignal, rollbackUpdate } from '../../workflows/messages.js';
import { testBundle } from '../support/bundle.js';
import { until } from '../support/migration.js';
import { resetBefore, resetBeforeSignal } from '../support/reset.js';
import { ScriptedRuns, untilCancelled, type Overrides, type ScriptedRun } from '../support/scripted-run.js';
import { followedBy, inShort, WebhookReceiver, type ReceivedBody } from '../support/webhook-receiver.js';

/*
 * `temporal workflow reset` sets the memory of a run back. Its receivers remember what they have followed, and change
 * nothing for what is late.
 */

const WHO = { by: 'ada', reason: 'the test says so' };
const STAGES = [
  { percent: 10, for: '0s' },
  { percent: 50, for: '1h' },
];

let runs: ScriptedRuns;
const open: WebhookReceiver[] = [];

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterEach(async () => {
  for (const receiver of open.splice(0)) await receiver.close();
});
afterAll(() => runs.stop());

async function receiver(): Promise<WebhookReceiver> {
  const started = await WebhookReceiver.start();
  open.push(started);
  return started;
}

async function begin(
  hook: WebhookReceiver,
  overrides: Overrides = {},
  traffic: PlanInput['traffic'] = {},
  on: ('stage' | 'promote' | 'rollback')[] = ['stage', 'promote', 'rollback'],
): Promise<ScriptedRun> {
  const environment = { VERDIGRIS_CONNECTION_HOOK: hook.url, VERDIGRIS_CONNECTION_HOOK_SECRET: 'a key' };
  const { callWebhook } = trafficWebhookActivities({ environment, redact: redactor([]) });
  return runs.begin(
    { callWebhook: (_run, ...args) => callWebhook(...args), ...overrides },
    {
      traffic: {
        ...{ stages: STAGES, approval: { before: [] }, webhooks: [{ connection: 'hook', timeout: '2s', on }] },
        ...traffic,
      },
    },
  );
}

/** The run as it goes on since the reset. */
function again(run: ScriptedRun): WorkflowHandle {
  return runs.client.workflow.getHandle(run.handle.workflowId);
}

async function inStage(handle: WorkflowHandle, percent: number): Promise<void> {
  await until(handle, `in stage ${percent}`, (s) => s.greenReadPercent === percent && s.waiting?.for === 'stage');
}

/** The same once more from its history, of which a file does not tell the id of the execution. */
async function replayed(handle: WorkflowHandle): Promise<void> {
  const workflowBundle = await testBundle();
  await Worker.runReplayHistory({ workflowBundle }, await handle.fetchHistory(), handle.workflowId);
}

/** Has a receiver accept what it is asked and not follow yet, until the returned function is called. */
function accepting(hook: WebhookReceiver): () => void {
  const follow = hook.answer;
  let isEffective = false;
  hook.answer = (request, nth) =>
    isEffective ? follow(request, nth) : { status: 202, headers: { 'retry-after': '0' } };
  return () => {
    isEffective = true;
  };
}

function isRising(followed: readonly ReceivedBody[]): boolean {
  return followed.every(({ generation }, i) => generation > (followed[i - 1]?.generation ?? 0));
}

describe('webhooks of a run that was reset', () => {
  const compared = {
    scope: 'all',
    tables: 1,
    rowsVerified: 1,
    differingRows: 0,
    examples: [],
    at: new Date().toISOString(),
  };
  it.each<{ when: string; to: string; activity: 'preflight' | 'verify' | 'fenceGreen'; nth: number; answer: unknown }>([
    { when: 'while rows are compared', to: 'verify', activity: 'verify', nth: 2, answer: compared },
    {
      ...{ when: 'when it has just come to the stages again', to: 'verify' },
      ...{ activity: 'fenceGreen', nth: 3, answer: null },
    },
    {
      ...{ when: 'before it has claimed its databases again', to: 'preflight' },
      ...{ activity: 'preflight', nth: 2, answer: { warnings: [] } },
    },
  ])('to a point before its stages are told of a rollback $when', async ({ to, activity, nth, answer }) => {
    const hook = await receiver();
    const followed = followedBy(hook);
    let begun = 0;
    const run = await begin(hook, { [activity]: () => (++begun === nth ? untilCancelled() : answer) });
    await inStage(run.handle, 50);
    await resetBefore(run.handle, to);
    await run.saw(`+${activity}`, nth);
    await again(run).executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = (await again(run).result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(inShort(followed)).toEqual(['stage 10', 'stage 50', 'rolledBack 0']);
    expect(report.rollingBack?.undone[0]).toBe('all reads back to blue');
    expect(report.rollingBack?.undone.at(-1)).toBe('webhooks lead to blue');
    // The databases say first that blue has the writes.
    expect(run.at('-whereWritesAre')).toBeLessThan(run.log.lastIndexOf('+callWebhook'));
    await replayed(again(run));
  });

  it('to a point before its stages are led back when it comes to them again, and asked anew for each', async () => {
    const hook = await receiver();
    const followed = followedBy(hook);
    const run = await begin(hook);
    await inStage(run.handle, 50);
    await resetBefore(run.handle, 'verify');
    await expect.poll(() => followed.length, { timeout: 20_000 }).toBeGreaterThan(2);
    await inStage(again(run), 50);
    await again(run).executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(((await again(run).result()) as MigrationReport).outcome).toBe('rolledBack');
    const all = ['stage 10', 'stage 50', 'readsBack 0', 'stage 10', 'stage 50', 'rolledBack 0'];
    expect(inShort(followed)).toEqual(all);
    expect(hook.requests).toHaveLength(all.length);
    expect(new Set(hook.requests.map(({ key }) => key)).size).toBe(all.length);
    expect(isRising(followed)).toBe(true);
    await replayed(again(run));
  });

  it('while they were being asked are asked anew: something later may have been followed since', async () => {
    const hook = await receiver();
    const followed = followedBy(hook);
    const effective = accepting(hook);
    const run = await begin(hook);
    await run.saw('+callWebhook');
    await run.handle.signal(progressSignal, []);
    await expect.poll(() => hook.requests.length, { timeout: 20_000 }).toBeGreaterThan(2);
    effective();
    await inStage(run.handle, 50);
    await resetBeforeSignal(run.handle, progressSignal.name);
    await inStage(again(run), 50);
    expect(inShort(followed)).toEqual(['stage 10', 'stage 50', 'stage 10', 'stage 50']);
    expect(isRising(followed)).toBe(true);
    await replayed(again(run));
    await again(run).terminate();
  });

  it('while they were being asked are asked nothing more once green has the writes', async () => {
    const hook = await receiver();
    const followed = followedBy(hook);
    const effective = accepting(hook);
    const stages = [{ percent: 100, for: '0s' }];
    const run = await begin(hook, {}, { stages }, ['stage', 'rollback']);
    await run.saw('+callWebhook');
    await run.handle.signal(progressSignal, []);
    await expect.poll(() => hook.requests.length, { timeout: 20_000 }).toBeGreaterThan(2);
    effective();
    await until(run.handle, 'in standby', (s) => s.phase === 'standby');
    const before = hook.requests.length;
    await resetBeforeSignal(run.handle, progressSignal.name);
    const { failure } = await until(
      again(run),
      'ended, or in standby',
      (s) => s.outcome !== 'running' || s.phase === 'standby',
    );
    expect(failure).toMatch(/green has the writes/);
    await expect(again(run).result()).rejects.toThrow();
    // What was on its way then is sent once more by Temporal, as the call that it was.
    expect(hook.requests).toHaveLength(before + 1);
    expect(new Set(hook.requests.map(({ text }) => text)).size).toBe(1);
    expect(new Set(inShort(followed))).toEqual(new Set(['stage 100']));
    await replayed(again(run));
  });

  it('while green has the writes stay where they are, also those that are not called for the promotion', async () => {
    const hook = await receiver();
    const followed = followedBy(hook);
    const stages = [{ percent: 100, for: '0s' }];
    const run = await begin(hook, {}, { stages }, ['stage', 'rollback']);
    await until(run.handle, 'in standby', (s) => s.phase === 'standby');
    await resetBefore(run.handle, 'callWebhook');
    const error: unknown = await again(run)
      .result()
      .catch((e: unknown) => e);
    expect(String((error as WorkflowFailedError).cause?.message)).toMatch(/green has the writes/);
    expect(String((error as WorkflowFailedError).cause?.message)).toMatch(
      /webhooks lead to blue: left as it is, since reads are not back/,
    );
    expect(inShort(followed)).toEqual(['stage 100']);
    expect(hook.requests).toHaveLength(1);
    await replayed(again(run));
  });
});

describe('a run that an earlier version has begun', () => {
  it('counts its calls on from there: a later one has a higher generation', async () => {
    const hook = await receiver();
    const followed = followedBy(hook);
    await runs.down();
    const old = ['generations of webhooks go by the clock', 'a run that was reset calls its webhooks anew'];
    await runs.up({ patchActivationCallback: ({ patchId }) => !old.includes(patchId) });
    const run = await begin(hook);
    await inStage(run.handle, 50);
    expect(followed.map(({ generation }) => generation)).toEqual([1, 2]);
    await runs.down();
    await runs.up();
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    expect(((await run.handle.result()) as MigrationReport).outcome).toBe('rolledBack');
    expect(inShort(followed)).toEqual(['stage 10', 'stage 50', 'rolledBack 0']);
    expect(followed.at(-1)?.generation).toBeGreaterThan(Date.parse('2026-01-01'));
    expect(isRising(followed)).toBe(true);
    await replayed(run.handle);
  });
});
