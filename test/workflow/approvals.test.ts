import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure } from '@temporalio/common';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { linkUrl, readLink, signLink, type ApprovalLink } from '../../src/approval/link.js';
import { run as cli } from '../../src/cli/run.js';
import { serveCommand } from '../../src/cli/approvals-commands.js';
import { asks, beginAsking, isQuestion, refusalOf, yes } from '../support/asked-approvals.js';
import { statusOf, until } from '../support/migration.js';
import { resetBefore } from '../support/reset.js';
import { replayed, type ScriptedRun, ScriptedRuns, untilCancelled } from '../support/scripted-run.js';
import { testTemporal } from '../support/temporal.js';
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
const folders: string[] = [];

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterEach(() => {
  for (const end of ends.splice(0)) end.abort();
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
  vi.unstubAllEnvs();
});
afterAll(() => runs.stop());

describe.concurrent('approvals of a run', () => {
  it('of a promotion that was blocked is asked for anew also where failures hold the run: no resume uses it again', async () => {
    let tries = 0;
    const run = await runs.begin(
      {
        promote: (own, _ref, from) => {
          if (tries++ > 0) return own.move(from);
          throw ApplicationFailure.nonRetryable('pid 7 writes since an hour', 'PromotionBlocked');
        },
      },
      { onFailure: 'hold', traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: ['promote'] } } },
    );
    await asks(run, 'promote');
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote')] });
    const again = await asks(run, 'promote', 'promote-2');
    expect((await statusOf(run.handle)).waiting?.why).toBe('pid 7 writes since an hour');
    await expect(run.handle.executeUpdate(resumeUpdate, { args: [yes('ada', '')] })).rejects.toMatchObject({
      cause: { message: expect.stringMatching(/not paused/) as string },
    });
    expect(tries).toBe(1);
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote', again)] });
    await run.saw('+watchStandby');
    expect(run.writesOn).toBe('green');
    await replayed(run);
    await run.handle.terminate();
  });

  it('of a promotion before which a server was started anew still counts: what has changed is compared once more', async () => {
    let tries = 0;
    const run = await runs.begin(
      {
        promote: (own, _ref, from) => {
          if (tries++ > 0) return own.move(from);
          throw ApplicationFailure.create({
            ...{ message: 'green was started anew since', type: 'ServerReplaced', nonRetryable: true },
            details: [{ isRestarted: true }],
          });
        },
      },
      { traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: ['promote'] } } },
    );
    await asks(run, 'promote');
    const compared = (): number => run.log.filter((entry) => entry === '+verify').length;
    const sofar = compared();
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote')] });
    await run.saw('+watchStandby');
    expect(compared()).toBe(sofar + 1);
    expect((await statusOf(run.handle)).warnings).toContainEqual(
      expect.stringContaining('green was started anew since'),
    );
    await replayed(run);
    await run.handle.terminate();
  });

  it('that takes its time has what was written meanwhile compared before writes move', async () => {
    const approval = { before: ['promote' as const] };
    const begin = (comparedWithin: string): Promise<ScriptedRun> =>
      runs.begin({}, { traffic: { stages: [{ percent: 1, for: '0s' }], approval }, promote: { comparedWithin } });
    // Its plan was read by a version that did not know the setting.
    const older = await runs.begin(
      {
        lintPlan: (own, input) => {
          const { plan } = own.lint(input);
          return { plan: { ...plan, promote: { ...plan.promote, comparedWithin: undefined } }, warnings: [] };
        },
      },
      { traffic: { stages: [{ percent: 1, for: '0s' }], approval } },
    );
    await asks(older, 'promote');
    await older.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote')] });
    await older.saw('+promote');
    await older.handle.terminate();
    const both = await Promise.all([begin('1s'), begin('10m')]);
    const [slow, quick] = await Promise.all(
      both.map(async (run) => {
        await asks(run, 'promote');
        await sleep(1_500);
        await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote')] });
        await run.saw('+promote');
        await replayed(run);
        await run.handle.terminate();
        return run.log.filter((entry) => entry === '+verify').length;
      }),
    );
    expect([slow, quick]).toEqual([3, 2]);
  });

  it.each([
    ['before its tries, approved', ['promote' as const]],
    ['before its tries, without an approval', []],
    ['in its tries', []],
  ])(
    'of a run that is paused %s: what has changed since is compared once more before writes move',
    async (when, before) => {
      const isTried = when === 'in its tries';
      let reached = (): void => undefined;
      let goOn = (): void => undefined;
      const isReached = new Promise<void>((resolve) => (reached = resolve));
      const mayGoOn = new Promise<void>((resolve) => (goOn = resolve));
      let tries = 0;
      const run = await runs.begin(
        {
          // The last look before writes move.
          lookAtSchema: async () => {
            if (isTried) return { what: null };
            reached();
            await mayGoOn;
            return { what: null };
          },
          promote: (own, _ref, from) => {
            if (!isTried || ++tries > 1) return own.move(from);
            reached();
            return untilCancelled();
          },
        },
        { traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before } }, promote: { comparedWithin: '2s' } },
      );
      if (before.length > 0) {
        await asks(run, 'promote');
        await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote')] });
      }
      await isReached;
      const compared = (): number => run.log.filter((entry) => entry === '+verify').length;
      const sofar = compared();
      await run.handle.executeUpdate(pauseUpdate, { args: [yes('ada', '')] });
      goOn();
      await until(run.handle, 'paused', (s) => s.waiting?.for === 'resume');
      await sleep(2_500);
      expect(run.writesOn).toBe('blue');
      await run.handle.executeUpdate(resumeUpdate, { args: [yes('ada', '')] });
      await until(run.handle, 'promoted', (s) => s.phase === 'standby');
      expect(compared()).toBe(sofar + 1);
      expect(run.log.lastIndexOf('-verify')).toBeLessThan(run.log.lastIndexOf('+promote'));
      // What was approved still is.
      const { decisions } = await statusOf(run.handle);
      expect(decisions.filter(({ message }) => message === 'approve')).toHaveLength(before.length);
      await replayed(run, 'promotion-paused');
      await run.handle.terminate();
    },
  );

  it('of a promotion names the tables that only green has: what is written there has no way back', async () => {
    const onlyOnGreen = ['public.coupons'];
    const at = new Date().toISOString();
    const verify = (scope: 'all' | 'changed') => ({
      ...{ scope, at, tables: 1, rowsVerified: 1, differingRows: 0, examples: [], onlyOnGreen },
    });
    const run = await runs.begin(
      { verify: (_run, _ref, _source, scope) => verify(scope) },
      { traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: ['traffic', 'promote'] } } },
    );
    const evidence = async (): Promise<string> => (await statusOf(run.handle)).waiting?.evidence?.join('\n') ?? '';
    await asks(run, 'traffic');
    expect(await evidence()).not.toMatch(/coupons/);
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'traffic')] });
    await asks(run, 'promote');
    expect(await evidence()).toMatch(/what is written into public\.coupons once green serves has no way back/);
    await run.handle.terminate();
  });

  it('by the wrong person, before their time, twice or late: an update is refused with the reason, a signal is kept as ignored', async () => {
    const run = await beginAsking(runs, { before: ['traffic', 'promote'], by: ['ada', 'grace'], quorum: 2 });
    const { handle } = run;
    const traffic = await asks(run, 'traffic');

    const wrong: [what: ReturnType<typeof yes>, why: RegExp][] = [
      [yes('mallory', 'traffic'), /may not approve this: the plan names ada, grace/],
      [yes('ada', 'promote'), /waits for the approval "traffic", not "promote"/],
      [yes('ada', 'traffic', traffic.replace('-1-', '-0-')), /answers another question/],
    ];
    for (const [approval, why] of wrong) {
      expect(await refusalOf(handle, approval)).toMatch(why);
      await handle.signal(approveSignal, approval);
    }
    expect(await handle.executeUpdate(approveUpdate, { args: [yes('ada', 'traffic')] })).toMatch(/^noted: 1 of 2/);
    expect(await refusalOf(handle, yes('Ada', 'traffic'))).toMatch(/has approved this already/);
    await handle.signal(approveSignal, yes(' ADA', 'traffic'));
    await handle.signal(approveSignal, yes('grace', 'traffic', traffic));

    const promote = await asks(run, 'promote');
    // Late: the question is over. The same words would have been right a moment ago.
    expect(await refusalOf(handle, yes('grace', 'traffic', traffic))).toMatch(/waits for the approval "promote"/);
    await handle.signal(approveSignal, yes('grace', 'traffic', traffic));
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
      await handle.executeUpdate(approveUpdate, { args: [yes(by, 'promote', promote)] });
    await until(handle, 'promoted', (s) => s.phase === 'standby');
    await handle.terminate();
  });

  it('of some are not shown as given when they have ended, though nobody sends anything', async () => {
    const run = await beginAsking(runs, { before: ['promote'], quorum: 2, validFor: '5s' });
    await asks(run, 'promote');
    expect(await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote')] })).toMatch(/^noted: 1 of 2/);
    expect((await statusOf(run.handle)).waiting?.approvals).toMatchObject([{ by: 'ada' }]);
    await until(run.handle, 'ended', (s) => s.waiting?.approvals?.length === 0, 20_000);
    expect(await run.handle.executeUpdate(approveUpdate, { args: [yes('grace', 'promote')] })).toMatch(
      /^noted: 1 of 2/,
    );
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote')] });
    await run.saw('+promote');
    await replayed(run);
    await run.handle.terminate();
  });

  it('before the retirement are asked for when the window ends, also by message: whoever ends it has not approved', async () => {
    const run = await beginAsking(runs, { before: ['retire'], by: ['ada', 'grace'], quorum: 2 });
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
});

describe.concurrent('the command that a question has shown', () => {
  it("answers no question of the next run of that name; without the question's id an approval counts as before", async () => {
    const first = await beginAsking(runs, { before: ['promote'] });
    const shown = await asks(first, 'promote');
    expect((await statusOf(first.handle)).waiting?.answer).toContain(`"request":"${shown}"`);
    await first.handle.executeUpdate(rollbackUpdate, { args: [{ by: 'ada', reason: 'the plan is to be mended' }] });
    await first.handle.result();

    const { workflowId } = first.handle;
    const next = await beginAsking(runs, { before: ['promote'] }, {}, undefined, { workflowId });
    const asked = await asks(next, 'promote');
    const refused = `that answers another question ("${shown}"); the run asks "${asked}" now`;
    expect(await refusalOf(next.handle, yes('ada', 'promote', shown))).toContain(refused);
    await next.handle.signal(approveSignal, yes('ada', 'promote', shown));
    const told = await until(next.handle, 'ignored', (s) => s.decisions.length === 1);
    expect(told.decisions[0]?.ignored).toBe(refused);
    expect(await refusalOf(next.handle, yes('ada', 'promote', 'promote-1'))).toContain(`the run asks "${asked}" now`);
    expect(next.log).not.toContain('+promote');
    await next.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote')] });
    await next.saw('-promote');
    await replayed(next);
    await next.handle.terminate();
  });

  it('answers no question that the run asks anew after a reset', async () => {
    const run = await beginAsking(runs, { before: ['promote'] });
    const shown = await asks(run, 'promote');
    await resetBefore(run.handle, 'openStage');
    const reset = runs.client.workflow.getHandle(run.handle.workflowId);
    const { waiting } = await until(
      reset,
      'asked anew',
      (s) => isQuestion(s.waiting, 'promote-1') && s.waiting?.request !== shown,
    );
    expect(await refusalOf(reset, yes('ada', 'promote', shown))).toContain(`the run asks "${waiting?.request}" now`);
    await reset.executeUpdate(approveUpdate, { args: [yes('ada', 'promote', waiting?.request)] });
    await run.saw('-promote');
    await replayed(run);
    await reset.terminate();
  });
});

describe('a signed link to a run', () => {
  it('made by the command line approves once, by POST; the secret is nowhere in the history', async () => {
    const secret = randomBytes(32).toString('hex');
    const folder = mkdtempSync(join(tmpdir(), 'verdigris-approval-secret-'));
    folders.push(folder);
    const secretFile = join(folder, 'secret');
    writeFileSync(secretFile, secret);
    vi.stubEnv('VERDIGRIS_APPROVAL_SECRET_FILE', secretFile);
    const { address } = testTemporal();
    const run = await beginAsking(runs, { before: ['promote'], by: ['ada', 'grace'], quorum: 2, validFor: '2h' });
    await asks(run, 'promote');

    const end = new AbortController();
    ends.push(end);
    const said: string[] = [];
    const noted: string[] = [];
    const terminal = { out: (text: string) => said.push(text), note: (text: string) => noted.push(text) };
    const flags = { address, host: '127.0.0.1', port: 0, timeout: 10, signal: end.signal };
    const serving = serveCommand(terminal, flags);
    await vi.waitFor(() => expect(said).not.toEqual([]), { timeout: 20_000 });
    expect(noted).toEqual([expect.stringMatching(/is not set here: .* needs --url/)]);
    const base = /http:\S+/.exec(said[0] ?? '')?.[0] ?? '';

    const link = async (who: string, ...more: string[]): Promise<[number, string]> => {
      const out: string[] = [];
      const code = await cli(
        ['approvals', 'link', run.handle.workflowId, '--for', who, '--url', base, '--address', address, ...more],
        { out: (text) => out.push(text), note: (text) => out.push(text) },
      );
      return [code, out.join('')];
    };
    const tokenOf = (url: string): string => url.split('/').at(-1) ?? 'none';
    const expiresIn = (url: string): number => (readLink(tokenOf(url), secret)?.expires ?? 0) - Date.now() / 1_000;
    const [[, ada], [, grace]] = await Promise.all([link('ada'), link('grace')]);
    // As long as the plan says that an approval counts, unless another time is given.
    expect(Math.abs(expiresIn(ada) - 2 * 3_600)).toBeLessThan(60);
    expect(Math.abs(expiresIn((await link('ada', '--valid-for', '10m'))[1]) - 600)).toBeLessThan(60);
    expect((await link(' GRACE '))[0]).toBe(0);
    expect(await link('mallory')).toEqual([1, expect.stringMatching(/does not name "mallory"[\s\S]*: ada, grace/)]);
    // As somebody would make one who has the secret.
    const mallory = linkUrl(base, signLink({ ...claimsOf(ada, secret), by: 'mallory' }, secret));
    const links = [ada, grace, mallory];
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
    for (const text of [secret, ...links.map(tokenOf)]) expect(history).not.toContain(text);
    // A secret that is changed makes the links of before worthless, without a restart.
    const changed = randomBytes(32).toString('hex');
    writeFileSync(secretFile, changed);
    expect((await post(grace))[0]).toBe(403);
    expect((await post(linkUrl(base, signLink(claimsOf(grace, secret), changed))))[0]).toBe(410);
    await run.handle.terminate();
    end.abort();
    expect(await serving).toBe(0);
  });

  function claimsOf(url: string, secret: string): ApprovalLink {
    const claims = readLink(url.split('/').at(-1) ?? '', secret);
    if (claims === undefined) throw new Error('it is none of ours');
    return claims;
  }
});
