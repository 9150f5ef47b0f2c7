import { allHandlersFinished, CancellationScope, condition, workflowInfo } from '@temporalio/workflow';
import type { PlanInput } from '../src/plan/schema.js';
import { whileSchemaStays } from './guard-schema.js';
import { whileWalIsBounded } from './guard-wal.js';
import { migrate } from './migrate.js';
import { preflight, untilReplicationMayBegin } from './preflight.js';
import { promote } from './promote.js';
import { replicate } from './replicate.js';
import { retire } from './retire.js';
import { rollBack } from './rollback.js';
import { shiftTraffic, undoUnknownStages } from './shift-traffic.js';
import { standby } from './standby.js';
import { hasUnknownSteps, undoUnknownSteps } from './undo-unknown-steps.js';
import { verify } from './verify.js';
import { isCancelled } from './lib/failure.js';
import { lookAtHistory } from './lib/history-room.js';
import { MigrationRun } from './lib/migration-run.js';
import { OwedConfirmations } from './lib/owed-confirmations.js';
import { OwedFlags } from './lib/owed-flags.js';
import { Notifications } from './lib/notifications.js';
import { publishChanges } from './lib/publish.js';
import { registerMessages } from './lib/register-messages.js';
import { reportOf, type MigrationReport } from './lib/report.js';
import { Saga } from './lib/saga.js';
import { Story } from './lib/story.js';

/**
 * Moves a live PostgreSQL database (blue) to a new server with a new schema (green), with zero downtime.
 *
 * Ends: completed (the report says so), rolled back by message (completes, outcome `rolledBack`), rolled back by a
 * failure (fails with type `MigrationRolledBack`), cancelled (Temporal cancel: rolled back, then closed as cancelled).
 */
export async function blueGreenMigration(input: PlanInput): Promise<MigrationReport> {
  const { workflowId, firstExecutionRunId, namespace } = workflowInfo();
  const run = new MigrationRun({ name: nameOf(input), workflowId, runId: firstExecutionRunId, namespace }, isoNow);
  const story = new Story(run);
  const saga = new Saga();
  const flags = new OwedFlags(run);
  const confirmations = new OwedConfirmations(run);
  run.onFlagsOwed = (ref, owed) => flags.owe(ref, owed);
  run.onReadsBack = (ref, owed) => {
    const { route, why } = owed ?? {};
    if (route !== undefined && why !== undefined) flags.owe(ref, { route, why });
    confirmations.owe(ref, owed);
  };
  registerMessages(run, (message) => {
    if (message === 'rollback') story.abandon();
    if (message === 'pause') story.interrupt();
  });
  const notifications = new Notifications(run, isoNow);
  publishChanges(run, () => {
    lookAtHistory(run);
    notifications.look();
  });

  try {
    await story.tell(async () => {
      const ref = await preflight(story, input);
      await untilReplicationMayBegin(story, ref);
      await whileWalIsBounded(story, ref, () =>
        whileSchemaStays(story, ref, async () => {
          await replicate(story, ref, saga);
          await migrate(story, ref, saga);
          await verify(story, ref);
          await shiftTraffic(story, ref, saga);
          await promote(story, ref, saga);
        }),
      );
      await standby(story, ref);
      await retire(story, ref);
    });
    await CancellationScope.nonCancellable(() => confirmations.settled());
    const unwritten = await CancellationScope.nonCancellable(() => flags.settled());
    if (unwritten !== null) run.warn([`flagd's file: ${unwritten}`]);
    run.end('completed', `completed: green is the primary, ${run.leftOnBlue ?? 'blue is left fenced and intact'}`);
  } catch (error) {
    await CancellationScope.nonCancellable(() => {
      // Before a promotion everything goes back at once, and one call says so.
      if (run.promotionStarted) story.webhooks.tell('rollingBack');
      const back = (): Promise<void> => {
        undoUnknownStages(story, saga);
        return rollBack(run, saga, { flags, confirmations }, error, isCancelled(error));
      };
      return hasUnknownSteps(story, saga) ? undoUnknownSteps(story, input, saga).then(back) : back();
    });
  } finally {
    if (story.webhooks.areThere) await CancellationScope.nonCancellable(() => story.webhooks.end());
    await CancellationScope.nonCancellable(() => notifications.flush());
  }
  await CancellationScope.nonCancellable(() => condition(allHandlersFinished));
  return reportOf(run);
}

function isoNow(): string {
  return new Date(Date.now()).toISOString();
}

/** The input has not been checked yet. */
function nameOf(input: unknown): string {
  const name = typeof input === 'object' && input !== null && 'name' in input ? input.name : undefined;
  return typeof name === 'string' ? name : 'unnamed';
}
