import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { WorkflowFailedError } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { statusOf, until } from '../support/migration.js';
import { replayed, ScriptedRuns, untilCancelled, type Overrides, type ScriptedRun } from '../support/scripted-run.js';
import type { PlanInput } from '../../src/plan/schema.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { pauseUpdate, retireUpdate, rollbackSignal, rollbackUpdate } from '../../workflows/messages.js';

let runs: ScriptedRuns;

beforeAll(async () => {
  runs = await ScriptedRuns.start();
});

afterAll(() => runs.stop());

const WHO = { by: 'grace', reason: 'the test says so' };

/** What only compensations call. */
const COMPENSATIONS = ['undoReplication', 'undoMigrations', 'releaseDatabases', 'removeFence', 'withdrawPromotion'];

/** An activity of each phase that takes a while to stop; `times` is the call that a test means. */
const RUNNING: readonly [phase: string, activity: string, overrides: Overrides, plan?: Partial<PlanInput>][] = [
  ['replicate', 'copySchema', { copySchema: () => untilCancelled(300) }],
  ['migrate', 'expandTables', { expandTables: () => untilCancelled(300) }],
  ['verify', 'verify', { verify: () => untilCancelled(300) }],
  ['traffic', 'judgeStage', { judgeStage: () => untilCancelled(300) }],
  [
    'traffic, in a stage',
    'watchGates',
    { watchGates: () => untilCancelled(300) },
    { traffic: { stages: [{ percent: 1, for: '1h' }], approval: { before: [] } } },
  ],
  ['promote', 'promote', { promote: (run, _ref, from) => (from === 'blue' ? untilCancelled(300) : run.move(from)) }],
  ['standby', 'watchStandby', { watchStandby: () => untilCancelled(300) }],
];

async function resultOf(run: ScriptedRun): Promise<MigrationReport> {
  return (await run.handle.result()) as MigrationReport;
}

async function failureOf(run: ScriptedRun): Promise<WorkflowFailedError> {
  const error: unknown = await run.handle.result().catch((e: unknown) => e);
  expect(error).toBeInstanceOf(WorkflowFailedError);
  return error as WorkflowFailedError;
}

/** Everything that ran before the first compensation had ended by then. */
function expectNothingWasRunning(run: ScriptedRun, what: string): void {
  const first = run.log.findIndex((entry) => COMPENSATIONS.some((name) => entry === `+${name}`));
  expect(first, what).toBeGreaterThan(0);
  const open = new Map<string, number>();
  for (const entry of run.log.slice(0, first)) {
    const name = entry.slice(1);
    open.set(name, (open.get(name) ?? 0) + (entry.startsWith('+') ? 1 : -1));
  }
  expect(
    [...open].filter(([, n]) => n > 0),
    what,
  ).toEqual([]);
}

describe.concurrent('compensation begins when the running activities have really stopped', () => {
  it('in every phase, asked for by message', async () => {
    await Promise.all(
      RUNNING.map(async ([phase, activity, overrides, plan]) => {
        const run = await runs.begin(overrides, plan);
        await run.saw(`+${activity}`);
        await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
        const report = await resultOf(run);
        expect(report.outcome, phase).toBe('rolledBack');
        expect(report.rollingBack?.notUndone, phase).toEqual([]);
        expectNothingWasRunning(run, phase);
        expect(run.writesOn, phase).toBe('blue');
      }),
    );
  });

  it('in every phase, by a cancel', async () => {
    await Promise.all(
      RUNNING.map(async ([phase, activity, overrides, plan]) => {
        const run = await runs.begin(overrides, plan);
        await run.saw(`+${activity}`);
        await run.handle.cancel();
        expect((await failureOf(run)).cause, phase).toBeInstanceOf(CancelledFailure);
        expectNothingWasRunning(run, phase);
        expect(run.writesOn, phase).toBe('blue');
        expect((await statusOf(run.handle)).outcome, phase).toBe('cancelled');
      }),
    );
  });

  it('in every phase, after a failure beside the running activity', async () => {
    let fail = (): void => undefined;
    const failed = new Promise<void>((resolve) => (fail = resolve));
    const watchRetainedWal: Overrides['watchRetainedWal'] = async () => {
      await failed;
      throw ApplicationFailure.nonRetryable('too much WAL', 'RetainedWalExceeded');
    };
    const phases = RUNNING.filter(([phase]) => phase !== 'standby');
    const begun = await Promise.all(
      phases.map(async ([phase, activity, overrides, plan]) => {
        const run = await runs.begin({ ...overrides, watchRetainedWal }, plan);
        await run.saw(`+${activity}`);
        return { run, phase };
      }),
    );
    fail();
    for (const { run, phase } of begun) {
      expect((await failureOf(run)).cause, phase).toMatchObject({ type: 'MigrationRolledBack' });
      expectNothingWasRunning(run, phase);
    }
  });
});

describe.concurrent('compensation runs to its end', () => {
  it('whatever fails in between: what could not be undone is in the report', async () => {
    const run = await runs.begin({
      undoMigrations: () => {
        throw ApplicationFailure.nonRetryable('a view is in the way', 'MigrationStepFailed');
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const error = await failureOf(run);
    expect(error.cause?.message).toMatch(/Not undone: undo the schema changes on green: a view is in the way/);
    expect(error.cause?.message).toMatch(/Next step: .*: verdigris doctor --blue b --green g --clean$/);
    for (const name of ['promote', 'removeFence', 'undoReplication', 'releaseDatabases']) run.at(`-${name}`);
    expect((await statusOf(run.handle)).outcome).toBe('failed');
  });

  it('but takes nothing away that writes on green need, when they are to stay there', async () => {
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        if (from === 'blue') return own.move(from);
        throw ApplicationFailure.nonRetryable('permission denied', 'SqlError');
      },
    });
    await run.saw('+watchStandby');
    await run.handle.cancel();
    await until(run.handle, 'blocked', (s) => s.waiting?.why === 'permission denied');
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    const error = await failureOf(run);
    expect(error.cause?.message).toMatch(/writes back to blue: writes stay on green/);
    expect(error.cause?.message).toMatch(/release both databases: left as it is, since writes are not back/);
    expect(run.log.filter((entry) => /undoReplication|releaseDatabases|removeFence/.test(entry))).toEqual([]);
  });

  it('and is not ended by `retire` once green has given the writes away: blue is opened', async () => {
    let isAway = true;
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        // Decided, and the new side can't be opened.
        const moved = own.move(from);
        if (from === 'green' && isAway) throw ApplicationFailure.nonRetryable('blue is away', 'ConnectionFailed');
        return moved;
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const told = await until(run.handle, 'told', (s) => /nobody takes writes.*blue is away/.test(s.waiting?.why ?? ''));
    expect(told).toMatchObject({ writesOn: 'blue', rollback: { safe: false } });
    expect(told.waiting?.answer).toMatch(/^verdigris doctor --blue b --green g --open --yes$/);
    await expect(run.handle.executeUpdate(retireUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringMatching(/green has given the writes to blue.*doctor/) as string },
    });
    await expect(
      run.handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] }),
    ).rejects.toMatchObject({ cause: { message: expect.stringMatching(/nobody takes writes/) as string } });
    isAway = false;
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    run.at('-releaseDatabases');
    await replayed(run);
  });

  it('also where `retire` came while nobody knew what has come of the try: green is asked first', async () => {
    let answers = false;
    let isAway = true;
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        const moved = own.move(from);
        if (from === 'green' && isAway) throw ApplicationFailure.nonRetryable('blue is away', 'ConnectionFailed');
        return moved;
      },
      writesOfGreen: (own, _ref, epoch) => {
        expect(epoch).toBe(2);
        if (!answers) throw ApplicationFailure.nonRetryable('green is away', 'ConnectionFailed');
        return own.writesOn === 'green' ? 'has them' : 'gave them away';
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'blocked', (s) => s.waiting?.why === 'blue is away');
    expect(await run.handle.executeUpdate(retireUpdate, { args: [WHO] })).toMatch(/unless green has given them away/);
    const waits = await until(run.handle, 'asks', (s) => /waits until green says/.test(s.waiting?.why ?? ''));
    expect(waits.waiting?.answer).toMatch(/--who-is-primary$/);
    answers = true;
    const told = await until(run.handle, 'refused', (s) => s.warnings.some((one) => /was not followed/.test(one)));
    expect(told.outcome).toBe('running');
    isAway = false;
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    await replayed(run);
  });

  it('nor by one that comes while green, which has been given the writes, is not open', async () => {
    let opened = false;
    let promotions = 0;
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        if (from === 'blue' && !opened) {
          if (promotions++ === 0) own.move(from);
          throw ApplicationFailure.nonRetryable('green refuses the login', 'ConnectionFailed');
        }
        return own.move(from);
      },
      writesOfGreen: () => (opened ? 'has them' : 'not opened'),
    });
    await until(run.handle, 'blocked', (s) =>
      /^finishing what was decided.*refuses the login/.test(s.waiting?.why ?? ''),
    );
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    const told = await until(run.handle, 'refused', (s) => s.warnings.some((one) => /was not followed/.test(one)));
    expect(told.warnings.at(-1)).toMatch(/green has been given the writes and is not open yet/);
    expect(told.outcome).toBe('running');
    opened = true;
    await failureOf(run);
    expect(run.writesOn).toBe('blue');
  });

  it('also where blue is lost before what was decided is finished: it says so, and hears `retire`', async () => {
    const run = await runs.begin({
      promote: (own, _ref, from) => {
        if (own.writesOn === 'blue') return own.move(from);
        // As of a server that is away: tried again by Temporal, without end where nobody bounds it.
        throw ApplicationFailure.create({ type: 'ConnectionFailed', message: 'blue is away', nonRetryable: false });
      },
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'told', (s) => /^finishing what was decided.*blue is away/.test(s.waiting?.why ?? ''));
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect((await failureOf(run)).cause?.message).toMatch(/writes stay on green/);
    expect(run.writesOn).toBe('green');
  });

  it('however long it is refused: what somebody mends does not end it', async () => {
    let isMended = false;
    const refusing = <T>(work: () => T): T => {
      if (isMended) return work();
      throw ApplicationFailure.nonRetryable('password authentication failed', 'ConnectionFailed');
    };
    const run = await runs.begin({
      whereWritesAre: (own) => refusing(() => ({ writesOn: own.writesOn, epoch: own.epoch })),
    });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(run.handle, 'blocked', (s) => /^asking the databases.*password/.test(s.waiting?.why ?? ''));
    isMended = true;
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.writesOn).toBe('blue');
  });

  it('and is not misled by a blue that was restored: it waits, and green keeps what it needs', async () => {
    const run = await runs.begin({
      whereWritesAre: (_own, _ref, known) => {
        expect(known).toBe(2);
        throw ApplicationFailure.nonRetryable('green says that it has them since epoch 2', 'WritesUncertain');
      },
    });
    await run.saw('+watchStandby');
    await run.handle.cancel();
    await until(run.handle, 'blocked', (s) => /since epoch 2/.test(s.waiting?.why ?? ''));
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    await failureOf(run);
    expect(run.log.filter((entry) => /undoReplication|releaseDatabases|removeFence/.test(entry))).toEqual([]);
  });

  it('when it is cancelled, or asked for again, while it runs', async () => {
    let go = (): void => undefined;
    const wait = new Promise<void>((resolve) => (go = resolve));
    const run = await runs.begin({ undoReplication: () => wait });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await run.saw('+undoReplication');
    await run.handle.cancel();
    await expect(run.handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringMatching(/is being rolled back/) as string },
    });
    await run.handle.signal(rollbackSignal, WHO);
    await until(run.handle, 'told', (s) => s.decisions.some((d) => d.ignored !== undefined));
    go();
    const report = await resultOf(run);
    expect(report.outcome).toBe('rolledBack');
    expect(run.log.filter((entry) => entry === '+undoReplication')).toHaveLength(1);
    run.at('-releaseDatabases');
  });
});

describe.concurrent('a rollback that comes in the same instant', () => {
  it('as the decision: green is opened first, then writes go back', async () => {
    const run = await runs.begin({
      promote: async (own, _ref, from) => {
        if (from === 'green' || own.writesOn === 'green') return own.move(from);
        // The COMMIT goes through, and the answer does not arrive: the activity ends as cancelled.
        await untilCancelled().catch(() => own.move('blue'));
        throw new CancelledFailure('cancelled');
      },
    });
    await run.saw('+promote');
    await run.handle.signal(rollbackSignal, WHO);
    const report = await resultOf(run);
    expect(report.outcome).toBe('rolledBack');
    expect(run.writesOn).toBe('blue');
    const asked = run.at('+whereWritesAre');
    const opened = run.at('+promote', asked);
    const finished = run.at('+finishPromotion', opened);
    // The rollback finishes what was decided: the feed to blue is on before writes go there.
    expect(run.at('+promote', finished)).toBeGreaterThan(finished);
    expect(run.log.filter((entry) => entry === '+finishPromotion')).toHaveLength(2);
    expect(run.epoch).toBe(3);
  });

  it('as the end of the standby window: it was accepted, so nothing is taken down', async () => {
    const run = await runs.begin({ watchStandby: () => untilCancelled(400) });
    await run.saw('+watchStandby');
    await run.handle.executeUpdate(retireUpdate, { args: [WHO] });
    // The window has ended, and the watch is about to stop.
    await sleep(100);
    await run.handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = await resultOf(run);
    expect(report.outcome).toBe('rolledBack');
    expect(run.log).not.toContain('+retire');
    expect(run.writesOn).toBe('blue');
  });

  it('as the start: nothing is begun', async () => {
    const run = await runs.begin({ lintPlan: () => untilCancelled(50) });
    await run.handle.signal(rollbackSignal, WHO);
    expect((await resultOf(run)).outcome).toBe('rolledBack');
    expect(run.log).not.toContain('+claimDatabases');
  });
});

describe.concurrent('a run that is paused', () => {
  it('is rolled back by a cancel', async () => {
    const run = await runs.begin({ verify: () => untilCancelled() });
    await run.saw('+verify');
    await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
    await run.saw('-verify');
    await until(run.handle, 'paused', (s) => s.waiting?.for === 'resume');
    await run.handle.cancel();
    expect((await failureOf(run)).cause).toBeInstanceOf(CancelledFailure);
    run.at('-releaseDatabases');
    expectNothingWasRunning(run, 'paused');
  });
});
