import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { asks, isQuestion } from '../support/asked-approvals.js';
import { until } from '../support/migration.js';
import type { Evidence } from '../../workflows/lib/evidence.js';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { approveUpdate, pauseUpdate, resumeUpdate } from '../../workflows/messages.js';
import { replayed, ScriptedRuns, untilCancelled, type ScriptedRun } from '../support/scripted-run.js';

const SIDE = { requests: 100, errors: 0 };

function evidence(outcome: Evidence['outcome'], more: Partial<Evidence> = {}): Evidence {
  return {
    ...{ metric: 'errorRate', outcome, because: `it is ${outcome}`, windowSeconds: 60, green: SIDE, blue: SIDE },
    ...{ at: '2026-11-28T00:00:00.000Z', where: 'stage 1 %', ...more },
  };
}

const BY = { by: 'ada', reason: 'looked at it' };

function held(run: ScriptedRun): Promise<MigrationStatus> {
  return until(run.handle, 'held', (status) => status.waiting?.for === 'resume');
}

let runs: ScriptedRuns;
beforeAll(async () => {
  runs = await ScriptedRuns.start();
}, 60_000);
afterAll(() => runs.stop());

describe.concurrent('a gate that does not pass', () => {
  it('and is inconclusive never lets the stage end by itself: each time somebody has to answer, who is told what is missing', async () => {
    let judged = 0;
    const run = await runs.begin({
      judgeStage: () => {
        const outcome = ++judged < 3 ? ('inconclusive' as const) : ('pass' as const);
        return { outcome, evidence: [evidence(outcome)], lagSeconds: 0 };
      },
    });
    for (const time of [1, 2]) {
      const { waiting, lagAt } = await held(run);
      expect(judged).toBe(time);
      // When the gates saw it, not when the run heard of it.
      expect(lagAt).toBe(evidence('pass').at);
      expect(waiting?.why).toContain('errorRate: it is inconclusive');
      expect(run.log).not.toContain('+promote');
      expect(run.log).not.toContain('+readsToBlue');
      await run.handle.executeUpdate(resumeUpdate, { args: [BY] });
      await run.saw('+judgeStage', time + 1);
    }
    await run.saw('+watchStandby');
    expect(judged).toBe(3);
    await run.handle.terminate();
  });

  it('and says pause takes the reads back and keeps everything else; the stage is opened again on resume', async () => {
    let judged = 0;
    const run = await runs.begin({
      judgeStage: () =>
        ++judged === 1
          ? { outcome: 'fail', evidence: [evidence('fail', { onFail: 'pause' })], lagSeconds: 0 }
          : { outcome: 'pass', evidence: [evidence('pass')], lagSeconds: 0 },
    });
    const status = await held(run);
    expect(status).toMatchObject({ outcome: 'running', greenReadPercent: 0 });
    expect(run.log).toContain('-readsToBlue');
    expect(run.log.some((entry) => /undoReplication|removeFence|releaseDatabases/.test(entry))).toBe(false);
    await run.handle.executeUpdate(resumeUpdate, { args: [BY] });
    await run.saw('+openStage', 2);
    await run.saw('+watchStandby');
    await run.handle.terminate();
  });

  it('and says pause is not rolled back by a dry run that fails beside it', async () => {
    let judged = 0;
    const run = await runs.begin({
      judgeStage: () =>
        ++judged === 1
          ? {
              outcome: 'fail',
              evidence: [
                evidence('fail', { metric: 'p99', dryRun: true, onFail: 'rollback' }),
                evidence('fail', { onFail: 'pause' }),
              ],
              lagSeconds: 0,
            }
          : { outcome: 'pass', evidence: [evidence('pass')], lagSeconds: 0 },
    });
    const { outcome, waiting } = await held(run);
    expect(outcome).toBe('running');
    expect(waiting?.why).toContain('errorRate: it is fail');
    expect(waiting?.why).not.toContain('p99');
    await run.handle.terminate();
  });

  const compared = (differingRows: number) => ({
    ...{ scope: 'changed', tables: 1, rowsVerified: 5, differingRows, at: '2026-11-28T00:00:00.000Z' },
    examples: differingRows === 0 ? [] : ['public.orders id = 7'],
  });
  const traffic = { stages: [{ percent: 1, for: '0s' }], approval: { before: [] }, onFail: 'pause' as const };

  it('and compares rows takes the reads back at the first one that differs, and lets the stage end when none does', async () => {
    let times = 0;
    const run = await runs.begin(
      { verify: (_run, _ref, _source, scope) => compared(scope === 'changed' && ++times === 1 ? 1 : 0) },
      { traffic: { ...traffic, gates: [{ metric: 'rowDifferences' }] } },
    );
    const status = await held(run);
    expect(status).toMatchObject({ outcome: 'running', greenReadPercent: 0 });
    expect(status.waiting?.why).toContain('rowDifferences: 1 of 5 compared rows differ: public.orders id = 7');
    expect(run.log).not.toContain('+promote');
    await run.handle.executeUpdate(resumeUpdate, { args: [BY] });
    await run.saw('+watchStandby');
    expect(times).toBeGreaterThan(1);
    expect(run.log.filter((entry) => entry === '+openStage')).toHaveLength(2);
    await run.handle.terminate();
  });

  it('and compares rows as a dry run shows what differs and ends nothing', async () => {
    const gates = [
      { metric: 'rowDifferences' as const, dryRun: true },
      { metric: 'lag' as const, max: '1s' },
    ];
    let times = 0;
    const run = await runs.begin(
      { verify: (_run, _ref, _source, scope) => compared(scope === 'changed' && ++times === 1 ? 1 : 0) },
      { traffic: { ...traffic, gates } },
    );
    await run.saw('+promote');
    expect(run.log).not.toContain('+readsToBlue');
    expect(await run.handle.query<Evidence[]>('evidence')).toContainEqual(
      expect.objectContaining({ metric: 'rowDifferences', outcome: 'fail', dryRun: true }),
    );
    await run.handle.terminate();
  });

  it('and says pause has the approval of its stage asked for again: the first one has been used', async () => {
    let judged = 0;
    const run = await runs.begin(
      {
        judgeStage: () =>
          ++judged === 1
            ? { outcome: 'fail', evidence: [evidence('fail', { onFail: 'pause' })], lagSeconds: 0 }
            : { outcome: 'pass', evidence: [evidence('pass')], lagSeconds: 0 },
      },
      { traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: ['traffic', 1] } } },
    );
    const approve = async (gate: string, nth: string): Promise<void> => {
      const request = await asks(run, gate, nth);
      await run.handle.executeUpdate(approveUpdate, { args: [{ ...BY, gate, request }] });
    };
    await approve('traffic', 'traffic-1');
    await approve('stage-1', 'stage-1-1');
    await held(run);
    await run.handle.executeUpdate(resumeUpdate, { args: [BY] });
    await approve('traffic', 'traffic-2');
    await asks(run, 'stage-1', 'stage-1-2');
    expect(run.log.filter((entry) => entry === '+openStage')).toHaveLength(1);
    await approve('stage-1', 'stage-1-2');
    await run.saw('+openStage', 2);
    await run.saw('+watchStandby');
    await run.handle.terminate();
  });
});

describe.concurrent('gates that fall silent once their stage has passed', () => {
  /** A run that asks for its promotion; the test says what the watch of the gates ends with. */
  const begin = async (): Promise<{ run: ScriptedRun; say: (told: Evidence[]) => unknown; known: unknown[] }> => {
    const words: Evidence[][] = [];
    const known: unknown[] = [];
    const run = await runs.begin(
      {
        watchGates: async (_run, _ref, _stage, told) => {
          known.push(told);
          const over = untilCancelled();
          // Whichever watch lives by then: the one behind the question may begin a moment after it is asked.
          while (words.length === 0) await Promise.race([over, sleep(20)]);
          return words.shift();
        },
        judgeStage: () => ({ outcome: 'pass', evidence: [evidence('pass')], lagSeconds: 0 }),
      },
      { traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: ['promote'] } } },
    );
    await asks(run, 'promote');
    return { run, say: (told) => words.push(told), known };
  };
  const approved = async (run: ScriptedRun): Promise<void> => {
    const request = await asks(run, 'promote');
    await run.handle.executeUpdate(approveUpdate, { args: [{ ...BY, gate: 'promote', request }] });
    await run.saw('+watchStandby');
  };
  const WITHIN = { timeout: 15_000 };
  const alarms = ({ alarms = [] }: MigrationStatus): string[] => alarms.map(({ about }) => about);

  it('are told to whoever is asked, by an alarm and beside the question, until they answer again', async () => {
    const { run, say, known } = await begin();
    say([evidence('inconclusive')]);
    const { waiting, warnings } = await until(run.handle, 'told', (status) => alarms(status).includes('gates'));
    expect(waiting?.evidence?.join('\n')).toMatch(
      /ALARM \(gates\) .*stage 1 % has passed, but its gates don't any more: errorRate: it is inconclusive/,
    );
    expect(waiting?.evidence?.join('\n')).toContain('gate errorRate: inconclusive, it is inconclusive');
    expect(warnings.join()).toContain("its gates don't any more");
    await vi.waitFor(() => expect(known.at(-1)).toEqual({ silent: true }), WITHIN);
    say([evidence('pass')]);
    const again = await until(run.handle, 'over', (status) => !alarms(status).includes('gates'));
    expect(again.waiting?.evidence?.join('\n')).toContain('gate errorRate: pass');
    await approved(run);
    await replayed(run);
    await run.handle.terminate();
  });

  it('end no question when they have nothing to say but that all is well again', async () => {
    const { run, say, known } = await begin();
    say([evidence('inconclusive', { metric: 'haproxy' })]);
    await vi.waitFor(() => expect(known.at(-1)).toEqual({ silent: true }), WITHIN);
    say([]);
    await until(run.handle, 'over', (status) => !alarms(status).includes('gates'));
    await approved(run);
    await replayed(run);
    await run.handle.terminate();
  });

  it('hold nothing back, and are no alarm any more once writes have moved', async () => {
    const { run, say } = await begin();
    say([evidence('error')]);
    await until(run.handle, 'told', (status) => alarms(status).includes('gates'));
    await approved(run);
    expect(alarms(await run.handle.query('status'))).toEqual([]);
    await run.handle.terminate();
  });

  it('fail all the same when they fail', async () => {
    const { run, say, known } = await begin();
    say([evidence('inconclusive')]);
    await vi.waitFor(() => expect(known.at(-1)).toEqual({ silent: true }), WITHIN);
    say([evidence('fail', { onFail: 'pause' })]);
    const { waiting, alarms: left } = await held(run);
    expect(waiting?.why).toContain('gate failed in stage 1 %');
    expect(left).toEqual([]);
    await run.handle.terminate();
  });
});

/** The gates of a stage fail, with `pause`, when the test says so: once. */
class FailsOnce {
  #fail: () => void = () => undefined;
  readonly #fails = new Promise<void>((resolve) => (this.#fail = resolve));
  #isOver = false;

  fail(): void {
    this.#fail();
  }

  readonly watchGates = async (): Promise<Evidence[]> => {
    if (this.#isOver) return untilCancelled();
    await Promise.race([this.#fails, untilCancelled()]);
    this.#isOver = true;
    return [evidence('fail', { onFail: 'pause' })];
  };
}

/** How often an entry is in the log of a run. */
function times(run: ScriptedRun, entry: string): number {
  return run.log.filter((one) => one === entry).length;
}

/** How often a run has begun to wait for a stage to last. */
async function waits(run: ScriptedRun, summary: string): Promise<number> {
  const { events } = await run.handle.fetchHistory();
  const summaries = (events ?? [])
    .filter((event) => (event.timerStartedEventAttributes ?? null) !== null)
    .map((event) => Buffer.from(event.userMetadata?.summary?.data ?? []).toString());
  return summaries.filter((one) => one.includes(summary)).length;
}

describe.concurrent('a gate that failed and paused the run', () => {
  const judged = (outcome: Evidence['outcome']) => ({
    ...{ outcome, lagSeconds: 0 },
    evidence: [evidence(outcome, { onFail: 'pause' })],
  });
  const asked = (run: ScriptedRun, nth: string): Promise<MigrationStatus> =>
    until(run.handle, nth, (status) => isQuestion(status.waiting, nth));
  const approve = async (run: ScriptedRun, gate: string, nth: string): Promise<void> => {
    const request = await asks(run, gate, nth);
    await run.handle.executeUpdate(approveUpdate, { args: [{ ...BY, gate, request }] });
  };

  it('has its stage last its time again, not only show the newest evidence', async () => {
    let looks = 0;
    const run = await runs.begin(
      { judgeStage: () => judged(++looks === 1 ? 'fail' : 'pass') },
      { traffic: { stages: [{ percent: 1, for: '1s' }], approval: { before: [] } } },
    );
    await held(run);
    await run.handle.executeUpdate(resumeUpdate, { args: [BY] });
    await run.saw('+watchStandby');
    expect(looks).toBe(2);
    expect(await waits(run, 'stage 1 % for 1s')).toBe(2);
    await run.handle.terminate();
  });

  it('while the next stage was to be approved has its own judged anew before that is asked again', async () => {
    const gates = new FailsOnce();
    const stages = [
      { percent: 10, for: '1s' },
      { percent: 50, for: '0s' },
    ];
    const run = await runs.begin(
      { watchGates: gates.watchGates, judgeStage: () => judged('pass') },
      { traffic: { stages, approval: { before: [50] } } },
    );
    await asked(run, 'stage-50-1');
    gates.fail();
    await held(run);
    await run.handle.executeUpdate(resumeUpdate, { args: [BY] });
    const { waiting } = await asked(run, 'stage-50-2');
    expect(waiting?.why).toContain('asked anew: a gate has failed since');
    expect([times(run, '+openStage'), times(run, '+judgeStage')]).toEqual([2, 2]);
    expect(await waits(run, 'stage 10 % for 1s')).toBe(2);
    await approve(run, 'stage-50', 'stage-50-2');
    await run.saw('+openStage', 3);
    await run.saw('+watchStandby');
    await run.handle.terminate();
  });

  it('makes an approval void that was given for what comes next: for a stage, and for the promotion', async () => {
    const closed = (): object => {
      const changesAt = new Date(Date.now() + (isOpen ? 3_600_000 : 1_000)).toISOString();
      return { open: isOpen, changesAt, changesAtText: 'Tue 2026-11-24 01:00 Europe/Berlin' };
    };
    let isOpen = true;
    const begin = (what: 'traffic' | 'promote', gates: FailsOnce): Promise<ScriptedRun> =>
      runs.begin(
        { watchGates: gates.watchGates, judgeStage: () => judged('pass'), lookAtWindow: closed },
        {
          windows: { [what]: ['daily 01:00-05:00'] },
          traffic: {
            stages: [
              { percent: 10, for: '0s' },
              { percent: 50, for: '0s' },
            ],
            approval: { before: [50, 'promote'] },
          },
        },
      );
    for (const [what, gate, judgedBefore] of [
      ['traffic', 'stage-50', 1],
      ['promote', 'promote', 2],
    ] as const) {
      isOpen = true;
      const gates = new FailsOnce();
      const run = await begin(what, gates);
      if (gate === 'promote') await approve(run, 'stage-50', 'stage-50-1');
      await asked(run, `${gate}-1`);
      isOpen = false;
      await approve(run, gate, `${gate}-1`);
      await until(run.handle, 'waiting', (status) => status.waiting?.for === 'window');
      gates.fail();
      await held(run);
      isOpen = true;
      await run.handle.executeUpdate(resumeUpdate, { args: [BY] });
      if (gate === 'promote') await approve(run, 'stage-50', 'stage-50-2');
      await asked(run, `${gate}-2`);
      expect(times(run, '+judgeStage'), gate).toBe(judgedBefore + 1);
      expect(times(run, '+openStage'), gate).toBe(judgedBefore + 1);
      expect(run.log).not.toContain('+promote');
      await approve(run, gate, `${gate}-2`);
      if (gate === 'stage-50') await approve(run, 'promote', 'promote-1');
      await run.saw('-promote');
      await run.handle.terminate();
    }
  });

  it('while rows were compared has its stage judged anew, and then compared', async () => {
    const gates = new FailsOnce();
    let comparing: () => void = () => undefined;
    const compares = new Promise<void>((resolve) => (comparing = resolve));
    const run = await runs.begin(
      {
        watchGates: gates.watchGates,
        judgeStage: () => judged('pass'),
        verify: async (own, _ref, _source, scope) => {
          if (scope === 'changed' && times(own, '+verify') === 2) {
            comparing();
            await untilCancelled();
          }
          return { scope, tables: 1, rowsVerified: 1, differingRows: 0, examples: [], at: new Date().toISOString() };
        },
      },
      {
        traffic: {
          ...{ stages: [{ percent: 1, for: '0s' }], approval: { before: [] } },
          gates: [{ metric: 'rowDifferences' as const }],
        },
      },
    );
    await compares;
    gates.fail();
    await held(run);
    await run.handle.executeUpdate(resumeUpdate, { args: [BY] });
    await run.saw('+watchStandby');
    expect(times(run, '+judgeStage')).toBe(2);
    expect(run.log.lastIndexOf('+judgeStage')).toBeLessThan(run.log.lastIndexOf('+verify'));
    await run.handle.terminate();
  });

  it('after the run was paused before the promotion has everything that leads to one done again', async () => {
    const gates = new FailsOnce();
    const run = await runs.begin(
      {
        watchGates: gates.watchGates,
        judgeStage: () => judged('pass'),
        promote: (own, _ref, from) => (times(own, '+promote') === 1 ? untilCancelled() : own.move(from)),
      },
      { traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: [] } } },
    );
    await run.saw('+promote');
    const compared = times(run, '+verify');
    await run.handle.executeUpdate(pauseUpdate, { args: [BY] });
    await run.saw('+whereWritesAre');
    gates.fail();
    await until(run.handle, 'held', (status) => status.waiting?.why.includes('all reads are on blue') === true);
    await run.handle.executeUpdate(resumeUpdate, { args: [BY] });
    await run.saw('-promote', 2);
    expect([times(run, '+judgeStage'), times(run, '+openStage')]).toEqual([2, 2]);
    expect(times(run, '+verify')).toBe(compared + 1);
    expect(run.log.lastIndexOf('+judgeStage')).toBeLessThan(run.log.lastIndexOf('+verify'));
    await run.handle.terminate();
  });
});

describe.concurrent('gates while the run stands still', () => {
  const traffic = { stages: [{ percent: 1, for: '0s' }], approval: { before: [] }, onFail: 'rollback' as const };

  it('keep their authority when it was paused in a stage', async () => {
    let fail: (evidence: Evidence[]) => void = () => undefined;
    let judge: () => void = () => undefined;
    const run = await runs.begin(
      {
        judgeStage: async () => {
          await new Promise<void>((resolve) => (judge = resolve));
          return { outcome: 'pass', evidence: [evidence('pass')], lagSeconds: 0 };
        },
        watchGates: () => Promise.race([untilCancelled(), new Promise((resolve) => (fail = resolve))]),
      },
      { traffic },
    );
    await run.saw('+judgeStage');
    await run.handle.executeUpdate(pauseUpdate, { args: [BY] });
    const watches = run.log.filter((entry) => entry === '+watchGates').length;
    judge();
    await until(run.handle, 'paused', (status) => status.waiting?.why === 'paused by message');
    await run.saw('+watchGates', watches + 1);
    fail([evidence('fail')]);
    await expect(run.handle.result()).rejects.toThrow();
    expect(run.log.indexOf('+readsToBlue')).toBeGreaterThan(0);
    expect(run.log).not.toContain('+promote');
  });

  it('keep their authority when it was paused after the promotion was approved', async () => {
    let fail: (evidence: Evidence[]) => void = () => undefined;
    const run = await runs.begin(
      {
        lookAtSchema: () => untilCancelled(),
        watchGates: () => Promise.race([untilCancelled(), new Promise((resolve) => (fail = resolve))]),
      },
      { traffic },
    );
    await run.saw('+lookAtSchema');
    const watches = run.log.filter((entry) => entry === '+watchGates').length;
    await run.handle.executeUpdate(pauseUpdate, { args: [BY] });
    await run.saw('+watchGates', watches + 1);
    fail([evidence('fail')]);
    await expect(run.handle.result()).rejects.toThrow();
    expect(run.log).not.toContain('+promote');
    expect(run.log).toContain('+readsToBlue');
  });

  it('that can not be asked any more end at once what is waited for', async () => {
    const run = await runs.begin(
      {
        // The comparison before the promotion, while the last stage is watched.
        verify: async (_run, _ref, _source, scope) => {
          if (scope === 'changed') await untilCancelled(300);
          return { scope, tables: 1, rowsVerified: 1, differingRows: 0, examples: [], at: new Date().toISOString() };
        },
        watchGates: (run) =>
          Promise.race([
            untilCancelled(),
            run.saw('+verify', 2).then(() => {
              throw ApplicationFailure.nonRetryable('blue: there is no such database', 'ConnectionFailed');
            }),
          ]),
      },
      { traffic },
    );
    await expect(run.handle.result()).rejects.toThrow();
    expect(run.log).toContain('-verify');
    expect(run.log).not.toContain('+promote');
    const { events } = await run.handle.fetchHistory();
    expect(events?.filter((event) => Boolean(event.workflowTaskFailedEventAttributes))).toEqual([]);
  });
});
