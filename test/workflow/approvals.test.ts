import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { WorkflowUpdateFailedError, type WorkflowHandle } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { run as cli } from '../../src/cli/run.js';
import { serveCommand } from '../../src/cli/approvals-commands.js';
import { statusOf, until } from '../support/migration.js';
import { ScriptedRuns, untilCancelled, type Overrides, type ScriptedRun } from '../support/scripted-run.js';
import { testTemporal } from '../support/temporal.js';
import type { PlanInput } from '../../src/plan/schema.js';
import {
  approveSignal,
  approveUpdate,
  pauseUpdate,
  resumeUpdate,
  retireUpdate,
  rollbackUpdate,
  type Message,
} from '../../workflows/messages.js';

let runs: ScriptedRuns;
const ends: AbortController[] = [];

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterEach(() => {
  for (const end of ends.splice(0)) end.abort();
  vi.unstubAllEnvs();
});
afterAll(() => runs.stop());

type ApprovalPlan = NonNullable<NonNullable<PlanInput['traffic']>['approval']>;

async function begin(
  approval: ApprovalPlan,
  overrides: Overrides = {},
  stages = [{ percent: 1, for: '0s' }],
): Promise<ScriptedRun> {
  return runs.begin(overrides, { traffic: { stages, approval } });
}

async function asks(run: ScriptedRun, gate: string, request = `${gate}-1`): Promise<void> {
  await until(run.handle, `asked for ${request}`, (s) => s.waiting?.gate === gate && s.waiting.request === request);
}

const yes = (
  by: string,
  gate: string,
  request?: string,
): { by: string; reason: string; gate: string; request?: string } => ({
  ...{ by, gate, reason: 'the numbers' },
  ...(request === undefined ? {} : { request }),
});

async function refusalOf(handle: WorkflowHandle, approval: ReturnType<typeof yes>): Promise<string> {
  const error: unknown = await handle.executeUpdate(approveUpdate, { args: [approval] }).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(WorkflowUpdateFailedError);
  return String((error as { cause?: Error }).cause?.message);
}

describe.concurrent('approvals of a run', () => {
  it('by the wrong person, before their time, twice or late: an update is refused with the reason, a signal is kept as ignored', async () => {
    const run = await begin({ before: ['traffic', 'promote'], by: ['ada', 'grace'], quorum: 2 });
    const { handle } = run;
    await asks(run, 'traffic');

    const wrong: [what: ReturnType<typeof yes>, why: RegExp][] = [
      [yes('mallory', 'traffic'), /may not approve this: the plan names ada, grace/],
      [yes('ada', 'promote'), /waits for the approval "traffic", not "promote"/],
      [yes('ada', 'traffic', 'traffic-0'), /answers another question/],
    ];
    for (const [approval, why] of wrong) {
      expect(await refusalOf(handle, approval)).toMatch(why);
      await handle.signal(approveSignal, approval);
    }
    expect(await handle.executeUpdate(approveUpdate, { args: [yes('ada', 'traffic')] })).toMatch(/^noted: 1 of 2/);
    expect(await refusalOf(handle, yes('Ada', 'traffic'))).toMatch(/has approved this already/);
    await handle.signal(approveSignal, yes(' ADA', 'traffic'));
    await handle.signal(approveSignal, yes('grace', 'traffic', 'traffic-1'));

    await asks(run, 'promote');
    // Late: the question is over. The same words would have been right a moment ago.
    expect(await refusalOf(handle, yes('grace', 'traffic', 'traffic-1'))).toMatch(/waits for the approval "promote"/);
    await handle.signal(approveSignal, yes('grace', 'traffic', 'traffic-1'));
    const status = await until(handle, 'all told', (s) => s.decisions.length === 7);
    expect(status.decisions.map((d) => [d.by, d.ignored ?? 'followed'])).toEqual([
      ['mallory', expect.stringMatching(/may not/)],
      ['ada', expect.stringMatching(/not "promote"/)],
      ['ada', expect.stringMatching(/another question/)],
      ['ada', 'followed'],
      [' ADA', expect.stringMatching(/already/)],
      ['grace', 'followed'],
      ['grace', expect.stringMatching(/waits for the approval "promote"/)],
    ]);
    expect(run.log).not.toContain('+promote');
    for (const by of ['ada', 'grace'])
      await handle.executeUpdate(approveUpdate, { args: [yes(by, 'promote', 'promote-1')] });
    await until(handle, 'promoted', (s) => s.phase === 'standby');
    await handle.terminate();
  });

  it('that have expired before the promotion could begin are asked for again', async () => {
    const run = await begin({ before: ['promote'], validFor: '4s' });
    await asks(run, 'promote');
    await run.handle.executeUpdate(pauseUpdate, { args: [yes('ada', '')] });
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote')] });
    await sleep(4_100);
    await run.handle.executeUpdate(resumeUpdate, { args: [yes('ada', '')] });
    await asks(run, 'promote', 'promote-2');
    expect((await statusOf(run.handle)).waiting?.why).toMatch(/counts no more since/);
    expect(run.log).not.toContain('+promote');
    // Sent twice, the first one's second copy comes now.
    await run.handle.signal(approveSignal, yes('ada', 'promote'));
    const told = await until(run.handle, 'ignored', (s) => s.decisions.at(-1)?.ignored !== undefined);
    expect(told.decisions.at(-1)?.ignored).toMatch(/send it with "request": "promote-2"/);
    expect(run.log).not.toContain('+promote');
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote', 'promote-2')] });
    await run.saw('-promote');
    await run.handle.terminate();
  });

  it('that nobody gives are asked for again, and gates keep their authority meanwhile', async () => {
    const stages = [
      { percent: 1, for: '0s' },
      { percent: 10, for: '0s' },
    ];
    let fail: (evidence: unknown) => void = () => undefined;
    let watches = 0;
    const run = await begin(
      { before: [10], remindAfter: '1s' },
      {
        watchGates: () => {
          watches += 1;
          if (watches === 1) return untilCancelled();
          return Promise.race([untilCancelled(), new Promise((resolve) => (fail = resolve))]);
        },
      },
      stages,
    );
    await asks(run, 'stage-10');
    const told = await until(run.handle, 'reminded', (s) => (s.waiting?.reminders ?? 0) > 0);
    expect(told.warnings.join()).toMatch(/nobody has answered the question stage-10-1/);
    const numbers = { requests: 100, errors: 50 };
    fail([
      {
        at: 'T',
        where: 'stage 1 %',
        metric: 'errorRate',
        outcome: 'fail',
        because: '50 of 100 failed',
        windowSeconds: 1,
        green: numbers,
        blue: numbers,
      },
    ]);
    await expect(run.handle.result()).rejects.toMatchObject({ cause: { type: 'MigrationRolledBack' } });
    expect(run.log).toContain('+readsToBlue');
  });

  it('before the retirement are asked for when the window ends, also by message: whoever ends it has not approved', async () => {
    const run = await begin({ before: ['retire'], by: ['ada', 'grace'], quorum: 2 });
    const { handle } = run;
    await until(handle, 'in standby', (s) => s.waiting?.for === 'standby');
    const mallory: { args: [Message] } = { args: [{ by: 'mallory', reason: 'enough' }] };
    expect(await handle.executeUpdate(retireUpdate, mallory)).toMatch(/ends now; the approval "retire" is asked for/);
    await asks(run, 'retire');
    const again: unknown = await handle.executeUpdate(retireUpdate, mallory).catch((error: unknown) => error);
    expect(String((again as { cause?: Error }).cause?.message)).toMatch(
      /waits for the approval "retire": send approve/,
    );
    expect(await refusalOf(handle, yes('mallory', 'retire'))).toMatch(/may not approve this/);
    expect(await handle.executeUpdate(approveUpdate, { args: [yes('ada', 'retire')] })).toMatch(/^noted: 1 of 2/);
    expect(run.log).not.toContain('+retire');
    await handle.executeUpdate(approveUpdate, { args: [yes('grace', 'retire')] });
    expect(await handle.result()).toMatchObject({ outcome: 'completed' });
    expect(run.log).toContain('+retire');
  });

  it('that have expired before a stage could open, or the retirement begin, are asked for again', async () => {
    const run = await begin({ before: [1, 'retire'], validFor: '1s' });
    const { handle } = run;
    const expire = async (gate: string): Promise<void> => {
      await asks(run, gate);
      await handle.executeUpdate(pauseUpdate, { args: [yes('ada', '')] });
      await handle.executeUpdate(approveUpdate, { args: [yes('ada', gate)] });
      await sleep(1_100);
      await handle.executeUpdate(resumeUpdate, { args: [yes('ada', '')] });
      await asks(run, gate, `${gate}-2`);
      expect((await statusOf(handle)).waiting?.why).toMatch(/counts no more since/);
    };
    await expire('stage-1');
    expect(run.log).not.toContain('+openStage');
    await handle.executeUpdate(approveUpdate, { args: [yes('ada', 'stage-1', 'stage-1-2')] });
    await until(handle, 'in standby', (s) => s.waiting?.for === 'standby');
    await handle.executeUpdate(retireUpdate, { args: [yes('ada', '')] });
    await expire('retire');
    expect(run.log).not.toContain('+retire');
    await handle.executeUpdate(approveUpdate, { args: [yes('ada', 'retire', 'retire-2')] });
    expect(await handle.result()).toMatchObject({ outcome: 'completed' });
  });

  it('end with the question when the run is rolled back while it waits', async () => {
    const run = await begin({ before: ['traffic'] });
    await asks(run, 'traffic');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ by: 'ada', reason: 'no' }] });
    expect(await refusalOf(run.handle, yes('ada', 'traffic')).catch((e: unknown) => String(e))).toMatch(
      /rolled back|completed|ended/,
    );
    expect(await run.handle.result()).toMatchObject({ outcome: 'rolledBack' });
  });
});

describe('a signed link to a run', () => {
  it('made by the command line approves once, by POST; the secret is nowhere in the history', async () => {
    const secret = randomBytes(32).toString('hex');
    vi.stubEnv('VERDIGRIS_APPROVAL_SECRET', secret);
    const { address } = testTemporal();
    const run = await begin({ before: ['promote'], by: ['ada', 'grace'], quorum: 2 });
    await asks(run, 'promote');

    const end = new AbortController();
    ends.push(end);
    const said: string[] = [];
    const terminal = { out: (text: string) => said.push(text), note: () => undefined };
    const flags = { address, host: '127.0.0.1', port: 0, timeout: 10, signal: end.signal };
    const serving = serveCommand(terminal, flags);
    await vi.waitFor(() => expect(said).not.toEqual([]));
    const base = /http:\S+/.exec(said[0] ?? '')?.[0] ?? '';

    const linkFor = async (who: string): Promise<string> => {
      const out: string[] = [];
      const code = await cli(
        ['approvals', 'link', run.handle.workflowId, '--for', who, '--url', base, '--address', address],
        { out: (text) => out.push(text), note: (text) => out.push(text) },
      );
      expect(code).toBe(0);
      return out.join('');
    };
    const links = await Promise.all(['ada', 'grace', 'mallory'].map(linkFor));
    const [ada = '', grace = '', mallory = ''] = links;
    const post = async (url: string): Promise<[number, string]> => {
      const response = await fetch(url, {
        method: 'POST',
        headers: { accept: 'application/json' },
        body: new URLSearchParams({ reason: 'by link' }),
      });
      return [response.status, ((await response.json()) as { text: string }).text];
    };

    expect(await (await fetch(ada)).text()).toContain('You approve as <strong>ada</strong>');
    expect(await post(mallory)).toEqual([409, expect.stringMatching(/may not approve/)]);
    // Pressed twice at once: one approval.
    const twice = await Promise.all([post(ada), post(ada)]);
    expect(twice.map(([status]) => status).filter((status) => status === 200).length).toBeGreaterThan(0);
    expect(await post(ada)).toEqual([410, expect.stringMatching(/has been used: ada/)]);
    expect((await statusOf(run.handle)).waiting?.approvals).toHaveLength(1);
    expect(await post(grace)).toEqual([200, expect.stringMatching(/^approved: promote, by ada, grace/)]);
    await run.saw('-promote');
    expect((await post(grace))[0]).toBe(410);

    const status = await statusOf(run.handle);
    expect(status.decisions.map(({ by, ignored }) => [by, ignored])).toEqual([
      ['ada', undefined],
      ['grace', undefined],
    ]);
    const history = JSON.stringify(await run.handle.fetchHistory());
    const tokens = links.map((link) => link.split('/').at(-1) ?? 'none');
    for (const text of [secret, ...tokens]) expect(history).not.toContain(text);
    await run.handle.terminate();
    expect((await post(grace))[0]).toBeGreaterThanOrEqual(410);
    end.abort();
    expect(await serving).toBe(0);
  });
});
