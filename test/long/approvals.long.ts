import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { asks, beginAsking, refusalOf, yes } from '../support/asked-approvals.js';
import { statusOf, until } from '../support/migration.js';
import { replayed, ScriptedRuns, untilCancelled } from '../support/scripted-run.js';
import {
  approveSignal,
  approveUpdate,
  pauseUpdate,
  resumeUpdate,
  retireUpdate,
  rollbackUpdate,
} from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});
afterAll(() => runs.stop());

describe.concurrent('approvals of a run', () => {
  it('that have expired before the promotion could begin are asked for again', async () => {
    const run = await beginAsking(runs, { before: ['promote'], validFor: '4s' });
    await asks(run, 'promote');
    await run.handle.executeUpdate(pauseUpdate, { args: [yes('ada', '')] });
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote')] });
    await sleep(4_100);
    await run.handle.executeUpdate(resumeUpdate, { args: [yes('ada', '')] });
    const again = await asks(run, 'promote', 'promote-2');
    expect((await statusOf(run.handle)).waiting?.why).toMatch(/counts no more since/);
    expect(run.log).not.toContain('+promote');
    // Sent twice, the first one's second copy comes now.
    await run.handle.signal(approveSignal, yes('ada', 'promote'));
    const told = await until(run.handle, 'ignored', (s) => s.decisions.at(-1)?.ignored !== undefined);
    expect(told.decisions.at(-1)?.ignored).toContain(`send it with "request": "${again}"`);
    expect(run.log).not.toContain('+promote');
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'promote', again)] });
    await run.saw('-promote');
    await run.handle.terminate();
  });

  it('that expire while the watch of the standby window ends are asked for again before the retirement', async () => {
    const run = await beginAsking(
      runs,
      { before: ['retire'], validFor: '1s' },
      { watchStandby: () => untilCancelled(1_500) },
    );
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(retireUpdate, { args: [yes('ada', '')] });
    await asks(run, 'retire');
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'retire')] });
    await asks(run, 'retire', 'retire-2');
    expect((await statusOf(run.handle)).waiting?.why).toMatch(/the retirement counts no more since/);
    expect(run.log).not.toContain('+retire');
    await run.handle.terminate();
  });

  it('that nobody gives are asked for again, and gates keep their authority meanwhile', async () => {
    const stages = [
      { percent: 1, for: '0s' },
      { percent: 10, for: '0s' },
    ];
    let fail: (evidence: unknown) => void = () => undefined;
    let watches = 0;
    const run = await beginAsking(
      runs,
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

  it('of the first reads are asked for again where a later stage is opened after a failed gate', async () => {
    let judged = 0;
    const side = { requests: 100, errors: 0 };
    const failed = {
      ...{ at: 'T', where: 'stage 50 %', metric: 'errorRate', outcome: 'fail' as const, because: 'it failed' },
      ...{ windowSeconds: 1, green: side, blue: side, onFail: 'pause' as const },
    };
    const run = await beginAsking(
      runs,
      { before: ['traffic'] },
      {
        judgeStage: () => {
          judged += 1;
          return { outcome: judged === 2 ? 'fail' : 'pass', evidence: judged === 2 ? [failed] : [], lagSeconds: 0 };
        },
      },
      [
        { percent: 1, for: '0s' },
        { percent: 50, for: '0s' },
      ],
    );
    await asks(run, 'traffic');
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'traffic')] });
    await until(run.handle, 'held', (s) => s.waiting?.for === 'resume');
    await run.handle.executeUpdate(resumeUpdate, { args: [yes('bob', '')] });
    const again = await asks(run, 'traffic', 'traffic-2');
    const opened = (): number => run.log.filter((entry) => entry === '+openStage').length;
    expect(opened()).toBe(2);
    expect((await statusOf(run.handle)).waiting?.why).toContain('approval before reads go to green again');
    await run.handle.executeUpdate(approveUpdate, { args: [yes('ada', 'traffic', again)] });
    await until(run.handle, 'in standby', (s) => s.waiting?.for === 'standby');
    expect(opened()).toBe(3);
    await replayed(run);
    await run.handle.terminate();
  });

  it('that have expired before a stage could open, or the retirement begin, are asked for again', async () => {
    const run = await beginAsking(runs, { before: [1, 'retire'], validFor: '3s' });
    const { handle } = run;
    const expire = async (gate: string): Promise<string> => {
      await asks(run, gate);
      await handle.executeUpdate(pauseUpdate, { args: [yes('ada', '')] });
      await handle.executeUpdate(approveUpdate, { args: [yes('ada', gate)] });
      await sleep(3_100);
      await handle.executeUpdate(resumeUpdate, { args: [yes('ada', '')] });
      const again = await asks(run, gate, `${gate}-2`);
      expect((await statusOf(handle)).waiting?.why).toMatch(/counts no more since/);
      return again;
    };
    const stage = await expire('stage-1');
    expect(run.log).not.toContain('+openStage');
    await handle.executeUpdate(approveUpdate, { args: [yes('ada', 'stage-1', stage)] });
    await until(handle, 'in standby', (s) => s.waiting?.for === 'standby');
    await handle.executeUpdate(retireUpdate, { args: [yes('ada', '')] });
    const retire = await expire('retire');
    expect(run.log).not.toContain('+retire');
    await handle.executeUpdate(approveUpdate, { args: [yes('ada', 'retire', retire)] });
    expect(await handle.result()).toMatchObject({ outcome: 'completed' });
  });

  it('end with the question when the run is rolled back while it waits', async () => {
    const run = await beginAsking(runs, { before: ['traffic'] });
    await asks(run, 'traffic');
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ by: 'ada', reason: 'no' }] });
    expect(await refusalOf(run.handle, yes('ada', 'traffic')).catch((e: unknown) => String(e))).toMatch(
      /rolled back|completed|ended/,
    );
    expect(await run.handle.result()).toMatchObject({ outcome: 'rolledBack' });
  });
});
