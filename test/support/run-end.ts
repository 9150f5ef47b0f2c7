import { WorkflowFailedError } from '@temporalio/client';
import { expect } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import type { ScriptedRun } from './scripted-run.js';

/** The report of a run that ends well. */
export async function resultOf(run: ScriptedRun): Promise<MigrationReport> {
  return (await run.handle.result()) as MigrationReport;
}

/** How a run ends that fails or is cancelled. */
export async function failureOf(run: ScriptedRun): Promise<WorkflowFailedError> {
  const error: unknown = await run.handle.result().catch((e: unknown) => e);
  expect(error).toBeInstanceOf(WorkflowFailedError);
  return error as WorkflowFailedError;
}
