import { WorkflowUpdateFailedError, type WorkflowHandle } from '@temporalio/client';
import { expect } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import type { Waiting } from '../../workflows/lib/status.js';
import { approveUpdate } from '../../workflows/messages.js';
import { until } from './migration.js';
import type { Overrides, ScriptedRun, ScriptedRuns, StartOptions } from './scripted-run.js';

/* Runs that ask for approvals, and what is sent to them. */

type ApprovalPlan = NonNullable<NonNullable<PlanInput['traffic']>['approval']>;

export async function beginAsking(
  runs: ScriptedRuns,
  approval: ApprovalPlan,
  overrides: Overrides = {},
  stages = [{ percent: 1, for: '0s' }],
  start: StartOptions = {},
): Promise<ScriptedRun> {
  return runs.begin(overrides, { traffic: { stages, approval } }, start);
}

/** Whether that is the question which is meant by, say, `promote-2`: its id ends with what only this run has. */
export function isQuestion(waiting: Waiting | null, nth: string): boolean {
  return waiting?.request?.replace(/-[0-9a-f]{6}$/, '') === nth && waiting.request !== nth;
}

/** Waits for a question. @returns its id */
export async function asks(run: ScriptedRun, gate: string, nth = `${gate}-1`): Promise<string> {
  const { waiting } = await until(run.handle, `asked for ${nth}`, (s) => isQuestion(s.waiting, nth));
  return waiting?.request ?? '';
}

export const yes = (
  by: string,
  gate: string,
  request?: string,
): { by: string; reason: string; gate: string; request?: string } => ({
  ...{ by, gate, reason: 'the numbers' },
  ...(request === undefined ? {} : { request }),
});

export async function refusalOf(handle: WorkflowHandle, approval: ReturnType<typeof yes>): Promise<string> {
  const error: unknown = await handle.executeUpdate(approveUpdate, { args: [approval] }).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(WorkflowUpdateFailedError);
  return String((error as { cause?: Error }).cause?.message);
}
