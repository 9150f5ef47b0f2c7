import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import pLimit from 'p-limit';
import { expect } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { rollbackUpdate } from '../../workflows/messages.js';
import { statusOf } from './migration.js';
import { failureOf, resultOf } from './run-end.js';
import { untilCancelled, type Overrides, type ScriptedRun, type ScriptedRuns } from './scripted-run.js';

/* Runs that are given up in each phase, while an activity of it runs that takes a while to stop. */

type RunningPhase = readonly [phase: string, activity: string, overrides: Overrides, plan?: Partial<PlanInput>];

/** What only compensations call. */
const COMPENSATIONS = ['undoReplication', 'undoMigrations', 'releaseDatabases', 'removeFence', 'withdrawPromotion'];

/** An activity of each phase that takes a while to stop. */
export const RUNNING: readonly RunningPhase[] = [
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

/** Every third phase: the three offsets together are all of them. */
export function everyThird(offset: 0 | 1 | 2): readonly RunningPhase[] {
  return RUNNING.filter((_phase, nth) => nth % 3 === offset);
}

/** More runs at a time overload the server for what runs beside them. */
const portion = pLimit(6);

async function inEach(phases: readonly RunningPhase[], giveUp: (...phase: RunningPhase) => Promise<void>) {
  await Promise.all(phases.map((phase) => portion(() => giveUp(...phase))));
}

/** Everything that ran before the first compensation had ended by then. */
export function expectNothingWasRunning(run: ScriptedRun, what: string): void {
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

/** A rollback by message in these phases begins when everything has stopped. */
export async function rollBackByMessage(runs: ScriptedRuns, phases: readonly RunningPhase[]): Promise<void> {
  await inEach(phases, async (phase, activity, overrides, plan) => {
    const run = await runs.begin(overrides, plan);
    await run.saw(`+${activity}`);
    await run.handle.executeUpdate(rollbackUpdate, { args: [{ by: 'grace', reason: 'the test says so' }] });
    const report = await resultOf(run);
    expect(report.outcome, phase).toBe('rolledBack');
    expect(report.rollingBack?.notUndone, phase).toEqual([]);
    expectNothingWasRunning(run, phase);
    expect(run.writesOn, phase).toBe('blue');
  });
}

/** One by a cancel, too. */
export async function rollBackByCancel(runs: ScriptedRuns, phases: readonly RunningPhase[]): Promise<void> {
  await inEach(phases, async (phase, activity, overrides, plan) => {
    const run = await runs.begin(overrides, plan);
    await run.saw(`+${activity}`);
    await run.handle.cancel();
    expect((await failureOf(run)).cause, phase).toBeInstanceOf(CancelledFailure);
    expectNothingWasRunning(run, phase);
    expect(run.writesOn, phase).toBe('blue');
    expect((await statusOf(run.handle)).outcome, phase).toBe('cancelled');
  });
}

/** And one after something beside the running activity has failed. In the standby window nothing does that. */
export async function rollBackByFailure(runs: ScriptedRuns, phases: readonly RunningPhase[]): Promise<void> {
  const failing = phases.filter(([phase]) => phase !== 'standby');
  await inEach(failing, async (phase, activity, overrides, plan) => {
    let fail = (): void => undefined;
    const failed = new Promise<void>((resolve) => (fail = resolve));
    const watchRetainedWal: Overrides['watchRetainedWal'] = async () => {
      await failed;
      throw ApplicationFailure.nonRetryable('too much WAL', 'RetainedWalExceeded');
    };
    const run = await runs.begin({ ...overrides, watchRetainedWal }, plan);
    await run.saw(`+${activity}`);
    fail();
    expect((await failureOf(run)).cause, phase).toMatchObject({ type: 'MigrationRolledBack' });
    expectNothingWasRunning(run, phase);
  });
}
