import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { deliver } from '../../src/notify/webhook.js';
import { until } from '../support/migration.js';
import { NoticeReceiver, QUICK, sendingTo, TWO_DELIVERIES } from '../support/notice-receiver.js';
import { ScriptedRuns, untilCancelled } from '../support/scripted-run.js';
import { pauseUpdate, resumeUpdate, rollbackUpdate } from '../../workflows/messages.js';
import type { MigrationReport } from '../../workflows/lib/report.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterAll(() => runs.stop());

describe('notifications of a run', () => {
  it('to a receiver that takes nothing end with the run: the last ones are tried for minutes, then it says so', async () => {
    const tried: [string | undefined, number | undefined][] = [];
    const run = await runs.begin(
      {
        notify: (_run, _ref, _told, _target, notices, forMs) => {
          tried.push([notices.at(-1)?.event, forMs]);
          return { undelivered: notices.length, why: 'it answers 503' };
        },
      },
      { notify: [{ connection: 'hook' }] },
    );
    await until(run.handle, 'in standby', (s) => s.phase === 'standby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ by: 'ada', reason: 'enough' }] });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    const [event, forMs] = tried.at(-1) ?? [];
    expect(event).toBe('rolledBack');
    expect(forMs).toBeGreaterThan(240_000);
    expect(report.warnings.at(-1)).toMatch(
      /the webhook hook has not been told everything: the run has ended before \d+ notices could be delivered: it answers 503/,
    );
  });

  it('that are urgent are sent at once, also when there have been many', async () => {
    const held: number[] = [];
    const run = await runs.begin(
      {
        notify: (_run, _ref, _told, _target, notices) => {
          held.push(...notices.filter(({ event }) => event === 'held').map(({ sequence }) => sequence));
          return { undelivered: 0, why: '' };
        },
        verify: () => untilCancelled(),
      },
      { notify: [{ connection: 'hook' }] },
    );
    for (let times = 1; times <= 30; times++) {
      await run.saw('+verify', times);
      await run.handle.executeUpdate(pauseUpdate, { args: [{ by: 'ada', reason: 'a look' }] });
      await expect.poll(() => held.length, { timeout: 15_000, interval: 5 }).toBe(times);
      await run.handle.executeUpdate(resumeUpdate, { args: [{ by: 'ada', reason: 'a look' }] });
    }
    await run.handle.terminate();
  });

  it('go on with a secret of approvals that is too short: only questions come without links, and it is said why', async () => {
    const json = await NoticeReceiver.start();
    const run = await runs.begin(
      sendingTo({
        VERDIGRIS_CONNECTION_HOOK: json.url,
        VERDIGRIS_APPROVAL_SECRET: 'too short',
        VERDIGRIS_APPROVAL_URL: 'https://approve.example',
      }),
      {
        notify: [{ connection: 'hook' }],
        traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: ['promote'] } },
      },
    );
    const status = await until(run.handle, 'warned', (s) => s.waiting?.gate === 'promote' && s.warnings.length > 0);
    expect(status.warnings).toEqual([
      expect.stringMatching(/without links that approve them: VERDIGRIS_APPROVAL_SECRET is shorter than 32 .*openssl/),
    ]);
    const sent = json.requests.map(({ body }) => JSON.parse(body) as { event: string; links?: object[] });
    expect(sent.map(({ event }) => event)).toEqual(expect.arrayContaining(['phase', 'stage', 'approval']));
    expect(sent.flatMap(({ links = [] }) => links)).toEqual([]);
    await run.handle.terminate();
  });
});

describe('a delivery', () => {
  const never = new AbortController().signal;

  it.each([
    [500, 'it answers 500'],
    [302, 'it answers with a redirect (302), which is not followed'],
    ['hang' as const, 'no answer within 0.3 s'],
  ])('that meets %s for good is given up, with the reason and without the address', async (answer, why) => {
    const receiver = await NoticeReceiver.start();
    receiver.answers.push(...Array.from({ length: 500 }, () => answer));
    expect(
      await deliver({ url: receiver.url, secret: null }, TWO_DELIVERIES, { ...QUICK, giveUpAfterMs: 700 }, never),
    ).toEqual({
      undelivered: 2,
      why,
    });
    expect(new Set(receiver.requests.map(({ key }) => key))).toEqual(new Set(['r-1']));
  });
});
