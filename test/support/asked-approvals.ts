import { WorkflowUpdateFailedError, type WorkflowHandle } from '@temporalio/client';
import { expect } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { approveUpdate } from '../../workflows/messages.js';
import { until } from './migration.js';
import type { Overrides, ScriptedRun, ScriptedRuns } from './scripted-run.js';

/* Runs that ask for approvals, and what is sent to them. */

type ApprovalPlan = NonNullable<NonNullable<PlanInput['traffic']>['approval']>;

export async function beginAsking(
  runs: ScriptedRuns,
  approval: ApprovalPlan,
  overrides: Overrides = {},
  stages = [{ percent: 1, for: '0s' }],
): Promise<ScriptedRun> {
  return runs.begin(overrides, { traffic: { stages, approval } });
}

export async function asks(run: ScriptedRun, gate: string, request = `${gate}-1`): Promise<void> {
  await until(run.handle, `asked for ${request}`, (s) => s.waiting?.gate === gate && s.waiting.request === request);
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
