import { ApplicationFailure, condition, setHandler, workflowInfo } from '@temporalio/workflow';
import type { PlanInput } from '../../src/plan/schema.js';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { approveUpdate, statusQuery } from '../../workflows/messages.js';

/** Stands in for the migration where a test is about the command line: waits for one approval, then completes. */
export async function blueGreenMigration(input: PlanInput): Promise<void> {
  const { workflowId, runId } = workflowInfo();
  let approved = false;
  const status = (): MigrationStatus => ({
    name: input.name,
    workflowId,
    runId,
    outcome: approved ? 'completed' : 'running',
    phase: 'promote',
    phases: [],
    now: approved ? 'done' : 'waiting for an approval',
    progress: [],
    waiting: approved
      ? null
      : {
          for: 'approval',
          why: 'approval before promote',
          gate: 'promote',
          since: '2026-11-22T00:00:00Z',
          answer: 'temporal …',
        },
    paused: false,
    writesOn: 'blue',
    greenReadPercent: 100,
    lagSeconds: 0.1,
    rollback: { safe: true, why: 'blue takes the writes' },
    rollingBack: null,
    verification: null,
    promotion: null,
    decisions: [],
    warnings: [],
  });
  setHandler(statusQuery, status);
  setHandler(
    approveUpdate,
    ({ gate }) => {
      approved = true;
      return `approved: ${gate}`;
    },
    {
      validator: ({ gate }) => {
        if (gate !== 'promote')
          throw ApplicationFailure.nonRetryable(`approve refused: not "${gate}"`, 'MessageRefused');
      },
    },
  );
  await condition(() => approved);
}
