import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure, CancelledFailure } from '@temporalio/activity';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { happened } from '../../workflows/lib/notices.js';
import { renderDetails } from '../../workflows/lib/render-details.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { approveUpdate, pauseUpdate, resumeUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { asks, isQuestion } from '../support/asked-approvals.js';
import { statusOf, until } from '../support/migration.js';
import { ScriptedRuns, untilCancelled, type Overrides, type ScriptedRun } from '../support/scripted-run.js';

const BACK = { by: 'ada', reason: 'changed our mind' };
const ROUTE = {
  ...{ migration: 'm', epoch: 1, generation: 7, writesOn: 'blue', greenReadPercent: 0 },
  ...{ flag: 'use-green-db', opening: null },
};

/** What an opening ends with whose reads are where it says. */
function notOpen(message: string, greenReadPercent: number): ApplicationFailure {
  const details = [{ greenReadPercent, flagsOwed: null }];
  return ApplicationFailure.create({ type: 'GateFailed', message, nonRetryable: false, details });
}

let runs: ScriptedRuns;
beforeAll(async () => {
  runs = await ScriptedRuns.start();
}, 60_000);
afterAll(() => runs.stop());

describe.concurrent('a stage that an instance does not confirm', () => {
  const message = 'stage 10 %: these instances have not taken it over within 10 s: stuck-1\nNext step: see whether';

  function begin(overrides: Overrides): Promise<ScriptedRun> {
    const stages = [
      { percent: 1, for: '0s' },
      { percent: 10, for: '0s' },
    ];
    return runs.begin(overrides, { traffic: { stages, approval: { before: [] } } });
  }

  it('names it in the status with its reads on blue, and is opened again until it is confirmed', async () => {
    let tries = 0;
    const run = await begin({
      openStage: (_run, _ref, { percent }) => {
        if (percent === 10 && ++tries < 3) throw notOpen(message, 0);
        return { routers: 1 };
      },
    });
    const { waiting, greenReadPercent, outcome } = await until(run.handle, 'waiting', (s) =>
      (s.waiting?.why ?? '').includes('stuck-1'),
    );
    expect(waiting).toMatchObject({ for: 'gate', why: `${message.split('\n', 1)[0] ?? ''}; it is tried again` });
    expect({ greenReadPercent, outcome }).toEqual({ greenReadPercent: 0, outcome: 'running' });
    await run.saw('+watchStandby');
    expect(tries).toBe(3);
    await run.handle.terminate();
  });

  it('is rolled back at once, while it is opened and while it waits', async () => {
    for (const waits of [true, false]) {
      const run = await begin({
        openStage: (_run, _ref, { percent }) => {
          if (percent === 1) return { routers: 1 };
          if (waits) throw notOpen(message, 0);
          return untilCancelled();
        },
      });
      if (waits) await until(run.handle, 'waiting', (s) => (s.waiting?.why ?? '').includes('stuck-1'));
      else await run.saw('+openStage', 2);
      const asked = performance.now();
      await run.handle.signal('rollback', BACK);
      await run.saw('+readsToBlue');
      expect(performance.now() - asked).toBeLessThan(1_900);
      expect(await run.handle.result()).toMatchObject({ outcome: 'rolledBack' });
    }
  });

  it('leaves the stage before it watched, where that is still in force', async () => {
    const run = await begin({
      openStage: (_run, _ref, { percent }) => {
        if (percent === 1) return { routers: 1 };
        throw notOpen('stage 10 %: not at version 2.0: old', 1);
      },
      watchGates: (own, _ref, { percent }) => {
        if (percent !== 1 || own.log.filter((entry) => entry === '+openStage').length < 2) return untilCancelled();
        return [
          {
            ...{ at: new Date().toISOString(), where: 'stage 1 %', metric: 'errorRate', windowSeconds: 1 },
            ...{ outcome: 'fail', because: 'green is broken', onFail: 'rollback' },
            ...{ green: { requests: 9, errors: 9 }, blue: { requests: 9, errors: 0 } },
          },
        ];
      },
    });
    await expect(run.handle.result()).rejects.toMatchObject({
      cause: { message: expect.stringContaining('gate failed in stage 1 %: errorRate: green is broken') as string },
    });
  });
});

describe.concurrent('a gate that has failed before the watch could say so', () => {
  const stages = [
    { percent: 1, for: '0s' },
    { percent: 10, for: '0s' },
  ];
  const failed = (onFail: 'rollback' | 'pause'): object => ({
    ...{ at: new Date().toISOString(), where: 'stage 1 %', metric: 'errorRate', windowSeconds: 1 },
    ...{ outcome: 'fail', because: 'green is broken', onFail },
    ...{ green: { requests: 9, errors: 9 }, blue: { requests: 9, errors: 0 } },
  });
  const refused = (nonRetryable: boolean): ApplicationFailure =>
    ApplicationFailure.create({
      ...{ type: 'GateFailed', message: 'it is not begun: gate failed in stage 1 % meanwhile', nonRetryable },
      details: [{ greenReadPercent: 0, flagsOwed: null, gateFailed: true }],
    });
  const count = (run: ScriptedRun, entry: string): number => run.log.filter((one) => one === entry).length;

  it('rolls the run back when the next stage is to open, which says what stage it comes after', async () => {
    const before: unknown[] = [];
    const run = await runs.begin(
      {
        openStage: (_run, _ref, { percent }, _notAfter, inForce) => {
          before.push(inForce?.percent);
          if (percent === 10) throw refused(false);
          return { routers: 1 };
        },
        watchGates: (own) => (count(own, '+openStage') < 2 ? untilCancelled() : [failed('rollback')]),
      },
      { traffic: { stages, approval: { before: [] } } },
    );
    await expect(run.handle.result()).rejects.toMatchObject({
      cause: { message: expect.stringContaining('gate failed in stage 1 %: errorRate: green is broken') as string },
    });
    expect(before).toEqual([undefined, 1]);
  });

  it.each(['rollback', 'pause'] as const)('does what it says when writes are to move: %s', async (onFail) => {
    let isOver = false;
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        if (count(own, '+promote') === 1) throw refused(true);
        return own.move(from);
      },
      watchGates: (own) => {
        if (isOver || !own.log.includes('-promote')) return untilCancelled();
        isOver = true;
        return [failed(onFail)];
      },
    });
    if (onFail === 'rollback') {
      await expect(run.handle.result()).rejects.toMatchObject({
        cause: { message: expect.stringContaining('gate failed in stage 1 %: errorRate: green is broken') as string },
      });
      expect(count(run, '+promote')).toBe(1);
      return;
    }
    const { waiting } = await until(run.handle, 'held', (status) => status.waiting?.for === 'resume');
    expect(waiting?.why).toContain('errorRate: green is broken; all reads are on blue');
    await run.handle.executeUpdate(resumeUpdate, { args: [BACK] });
    await run.saw('-promote', 2);
    // Opened, judged and compared anew before that.
    expect([count(run, '+openStage'), count(run, '+judgeStage')]).toEqual([2, 2]);
    await run.handle.terminate();
  });
});

describe.concurrent('a stage that could not be opened for long', () => {
  it('is asked for again when its approval has expired meanwhile; it says until when it may be opened', async () => {
    let isDeployed = false;
    const limits: unknown[] = [];
    const run = await runs.begin(
      {
        openStage: (_run, _ref, _stage, notAfter) => {
          limits.push(notAfter);
          if (!isDeployed) throw notOpen('stage 10 %: not at version 2.0: old', 0);
          return { routers: 1 };
        },
      },
      { traffic: { stages: [{ percent: 10, for: '0s' }], approval: { before: [10], validFor: '1s' } } },
    );
    const approve = async (nth: string): Promise<number> => {
      const request = await asks(run, 'stage-10', nth);
      await run.handle.executeUpdate(approveUpdate, { args: [{ ...BACK, gate: 'stage-10', request }] });
      return Date.now();
    };
    const approved = await approve('stage-10-1');
    await run.saw('-openStage');
    isDeployed = true;
    const { waiting } = await until(run.handle, 'asked again', (s) => isQuestion(s.waiting, 'stage-10-2'));
    expect(waiting?.why).toMatch(/counts no more since/);
    expect(limits).toHaveLength(1);
    expect(Math.abs(Date.parse(String(limits[0])) - approved - 1_000)).toBeLessThan(900);
    await approve('stage-10-2');
    await run.saw('+watchStandby');
    expect(limits).toHaveLength(2);
    await run.handle.terminate();
  });

  it('waits for its next window, also when that has closed in the very last moment', async () => {
    let looks = 0;
    const limits: unknown[] = [];
    const end = new Date(Date.now() + 3_600_000).toISOString();
    const run = await runs.begin(
      {
        lookAtWindow: () => ({
          // Open when it was waited for, closed at the last look.
          open: ++looks !== 2,
          changesAt: looks === 2 || looks === 3 ? new Date(Date.now() + 500).toISOString() : end,
          changesAtText: 'Tue 2026-11-24 01:00 Europe/Berlin',
        }),
        openStage: (_run, _ref, _stage, notAfter) => {
          limits.push([looks, notAfter]);
          return { routers: 1 };
        },
      },
      {
        windows: { traffic: ['daily 01:00-05:00'] },
        traffic: { stages: [{ percent: 10, for: '0s' }], approval: { before: [] } },
      },
    );
    await run.saw('+watchStandby');
    expect(limits).toEqual([[4, end]]);
    await run.handle.terminate();
  });
});

describe.concurrent('a stage that a worker is to open which', () => {
  const WRONG = `blue: the connection "b" can't be opened: the password or the user is wrong (28P01)`;

  it.each([
    ['does not know a connection', 'ConnectionUnknown', 'blue: the worker knows no connection "b"', 'set'],
    ['is not let in', 'ConnectionFailed', WRONG, 'check'],
  ])(
    '%s is said to wait for that, with what to do, all reads on blue, and is opened later',
    async (_, type, line, toDo) => {
      const stages = [{ percent: 10, for: '0s' }];
      let tries = 0;
      const run = await runs.begin(
        {
          openStage: () => {
            if (++tries > 1) return { routers: 1 };
            const message = `${line}\nNext step: ${toDo} VERDIGRIS_CONNECTION_B`;
            throw ApplicationFailure.create({ type, message, nonRetryable: false });
          },
        },
        { traffic: { stages, approval: { before: [] } } },
      );
      const { waiting, outcome } = await until(run.handle, 'waiting', (s) => s.waiting?.for === 'gate');
      expect(waiting?.why).toBe(`${line}; ${toDo} VERDIGRIS_CONNECTION_B; it is tried again`);
      expect(outcome).toBe('running');
      await until(run.handle, 'open', (s) => s.phase === 'standby');
      expect(run.log.slice(run.at('+openStage'), run.at('+openStage', run.at('-openStage')))).toContain('-readsToBlue');
      await run.handle.executeUpdate(rollbackUpdate, { args: [BACK] });
      await run.handle.result();
    },
  );
});

describe.concurrent('a stage whose opening fails for good', () => {
  it('rolls the run back at once, whatever the plan says of failures: nobody would watch what it has left', async () => {
    const run = await runs.begin(
      {
        openStage: () => {
          throw ApplicationFailure.nonRetryable('writes are on green already', 'StaleEpoch');
        },
      },
      { onFailure: 'hold' },
    );
    await expect(run.handle.result()).rejects.toMatchObject({ cause: { type: 'MigrationRolledBack' } });
    expect(run.log).toContain('-readsToBlue');
  });
});

describe.concurrent('a pause while a stage is opened', () => {
  const stages = [
    { percent: 1, for: '0s' },
    { percent: 10, for: '0s' },
  ];
  /** The first opening of the second stage is stopped, and says so. */
  function begin(lastWord: (() => Error) | null, more: Overrides = {}): Promise<ScriptedRun> {
    let tries = 0;
    const openStage: Overrides['openStage'] = async (_run, _ref, { percent }) => {
      if (percent === 1 || ++tries > 1) return { routers: 1 };
      await untilCancelled().catch(() => undefined);
      if (lastWord !== null) throw lastWord();
      return { routers: 1 };
    };
    return runs.begin({ openStage, ...more }, { traffic: { stages, approval: { before: [] } } });
  }
  const hasMoved = (moved: boolean) => (): Error => new CancelledFailure('broken off', [{ hasMoved: moved }]);
  const paused = (run: ScriptedRun): Promise<unknown> =>
    until(run.handle, 'paused', (s) => s.waiting?.why === 'paused by message');

  async function pauseInOpening(run: ScriptedRun): Promise<void> {
    await run.saw('+openStage', 2);
    await run.handle.executeUpdate(pauseUpdate, { args: [BACK] });
    await run.saw('-openStage', 2);
  }

  it('stops it before the reads move: those of the stage before stay, watched, and it is opened on resume', async () => {
    const run = await begin(hasMoved(false));
    await pauseInOpening(run);
    await paused(run);
    expect(await statusOf(run.handle)).toMatchObject({ greenReadPercent: 1, paused: true });
    expect(run.log).not.toContain('+readsToBlue');
    expect(run.log.at(-1)).toBe('+watchGates');
    await sleep(300);
    expect(run.log.filter((entry) => entry === '+openStage')).toHaveLength(2);
    await run.handle.executeUpdate(resumeUpdate, { args: [BACK] });
    await run.saw('+openStage', 3);
    await run.saw('+watchStandby');
    await run.handle.terminate();
  });

  it.each([
    ['has moved them', hasMoved(true)],
    ['can not say it', (): Error => new CancelledFailure('cancelled')],
    ['dies with its connection', (): Error => notOpen('the connection was lost', 10)],
  ])('takes the reads back when it %s: nobody would watch them', async (_when, lastWord) => {
    const run = await begin(lastWord);
    await pauseInOpening(run);
    await paused(run);
    expect(await statusOf(run.handle)).toMatchObject({ greenReadPercent: 0 });
    expect(run.at('-openStage')).toBeLessThan(run.at('-readsToBlue'));
    await run.handle.executeUpdate(resumeUpdate, { args: [BACK] });
    await run.saw('+openStage', 3);
    await run.saw('+watchStandby');
    await run.handle.terminate();
  });

  it('comes too late for one that is open by then: it is a stage like any other, paused', async () => {
    const run = await begin(null);
    await pauseInOpening(run);
    await paused(run);
    expect(await statusOf(run.handle)).toMatchObject({ greenReadPercent: 10 });
    expect(run.log).not.toContain('+readsToBlue');
    await run.handle.executeUpdate(resumeUpdate, { args: [BACK] });
    await run.saw('+watchStandby');
    expect(run.log.filter((entry) => entry === '+openStage')).toHaveLength(2);
    await run.handle.terminate();
  });

  it('by DDL on blue stops it, too', async () => {
    let isNoticed = false;
    const run = await begin(hasMoved(false), {
      watchSchema: async (own, _ref, side) => {
        if (side === 'green' || isNoticed) return untilCancelled();
        await own.saw('+openStage', 2);
        isNoticed = true;
        return { what: 'table public.coupons is new' };
      },
    });
    await run.saw('-openStage', 2);
    await until(run.handle, 'held', (s) => (s.held ?? null) !== null && s.waiting?.for === 'resume');
    await sleep(300);
    expect(run.log.filter((entry) => entry === '+openStage')).toHaveLength(2);
    await run.handle.executeUpdate(resumeUpdate, { args: [BACK] });
    await run.saw('+watchStandby');
    await run.handle.terminate();
  });
});

describe.concurrent('an abort that an instance does not confirm', () => {
  const PLAN = { traffic: { stages: [{ percent: 10, for: '1h' }], approval: { before: [] } } };
  const owed = { route: ROUTE, unconfirmed: ['stuck-1'], warnings: ['HAProxy "h" was started meanwhile'] };

  it('names it in the status until it does, and goes on meanwhile', async () => {
    let confirms = false;
    let asked: unknown[] = [];
    const run = await runs.begin(
      {
        judgeStage: () => ({
          ...{ outcome: 'fail', lagSeconds: 0 },
          evidence: [
            {
              ...{ at: new Date().toISOString(), where: 'stage 10 %', metric: 'errorRate', windowSeconds: 1 },
              ...{ outcome: 'fail', because: 'green is broken', onFail: 'pause' },
              ...{ green: { requests: 9, errors: 9 }, blue: { requests: 9, errors: 0 } },
            },
          ],
        }),
        readsToBlue: () => owed,
        awaitConfirmed: async (_run, _ref, route, known) => {
          asked = [route, known];
          while (!confirms) await Promise.race([sleep(20), untilCancelled()]);
          return { unconfirmed: [] };
        },
      },
      { traffic: { ...PLAN.traffic, stages: [{ percent: 10, for: '0s' }] } },
    );
    const held = await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    expect(held).toMatchObject({ greenReadPercent: 0, unconfirmed: ['stuck-1'] });
    expect(held.warnings.join()).toContain('these instances have not confirmed it: stuck-1');
    expect(held.warnings).toContain('HAProxy "h" was started meanwhile');
    expect(renderDetails(held)).toContain('0 % of the users; that they are back is not confirmed by stuck-1');
    const before = { status: { ...held, greenReadPercent: 10 }, evidence: [] };
    expect(happened(before, { status: held, evidence: [] })).toContainEqual([
      'stage',
      'reads of 0 % of the users are on green, not confirmed by stuck-1',
    ]);
    await run.saw('+awaitConfirmed');
    expect(asked).toEqual([{ epoch: 1, generation: 7 }, ['stuck-1']]);
    confirms = true;
    await until(run.handle, 'confirmed', (s) => s.unconfirmed?.length === 0);
    expect(renderDetails(await statusOf(run.handle))).not.toContain('not confirmed by');
    await run.handle.terminate();
  });

  it('and an opening that was taken back: whom it could not tell is told by the run', async () => {
    const asked: unknown[] = [];
    const details = { greenReadPercent: 0, flagsOwed: null, readsOwed: { route: ROUTE, unconfirmed: ['HAProxy "h"'] } };
    const run = await runs.begin(
      {
        openStage: () => {
          const told = { type: 'GateFailed', message: 'not confirmed', nonRetryable: false, details: [details] };
          throw ApplicationFailure.create(told);
        },
        awaitConfirmed: (_run, _ref, route, known) => {
          asked.push([route, known]);
          return untilCancelled();
        },
      },
      PLAN,
    );
    const status = await until(run.handle, 'named', (s) => (s.unconfirmed ?? []).length > 0);
    expect(status).toMatchObject({ greenReadPercent: 0, unconfirmed: ['HAProxy "h"'] });
    await run.saw('+awaitConfirmed');
    expect(asked[0]).toMatchObject([{ epoch: 1, generation: 7 }, ['HAProxy "h"']]);
    await run.handle.terminate();
  });

  it('is rolled back all the same; the report names it, and says of no time that it has ended the reads', async () => {
    const run = await runs.begin({ readsToBlue: () => owed, awaitConfirmed: () => ({ unconfirmed: null }) }, PLAN);
    await run.saw('+openStage');
    await run.handle.signal('rollback', BACK);
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({
      ...{ outcome: 'rolledBack', unconfirmed: ['stuck-1'] },
      now: 'rolled back: blue serves everything; not confirmed by stuck-1',
      rollingBack: { trafficBackMs: null, notUndone: [] },
    });
    expect(run.log).toContain('-releaseDatabases');
  });

  it('and says so of no such time either where writes had moved: it has not been asked yet when they are back', async () => {
    const run = await runs.begin({ readsToBlue: () => owed, awaitConfirmed: () => ({ unconfirmed: null }) });
    await run.saw('+watchStandby');
    await run.handle.signal('rollback', BACK);
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', unconfirmed: ['stuck-1'] });
    expect(report.rollingBack).toMatchObject({ trafficBackMs: null, notUndone: [] });
  });

  it('is asked about no longer than ten seconds when the run is over', { timeout: 60_000 }, async () => {
    const run = await runs.begin({ readsToBlue: () => owed, awaitConfirmed: () => untilCancelled() }, PLAN);
    await run.saw('+openStage');
    await run.handle.signal('rollback', BACK);
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', unconfirmed: ['stuck-1'] });
  });
});
