import { ApplicationFailure, patched, workflowInfo } from '@temporalio/workflow';
import { formatDuration, parseDuration } from '../../src/plan/duration.js';
import type { Plan } from '../../src/plan/schema.js';
import { longestClosed, type WindowOf } from '../../src/plan/window-times.js';
import type { MigrationRun } from './migration-run.js';

/*
 * A workflow that meets a time-out of Temporal is terminated: nothing is undone, slots and feeds stay, and nobody watches
 * them. Who has started the run may not know of the time-out: it is a habit of some wrappers.
 */

const MEANS = 'without a rollback: its slots and feeds stay then, and nobody watches them';

/**
 * Warns of a time-out that the run was started with. One that is too short for what the plan says is refused.
 *
 * @throws ApplicationFailure PreflightFailed: nothing has been touched
 */
export function refuseShortTimeout(run: MigrationRun, plan: Plan): void {
  const ends = endsByTemporal();
  if (ends === null || !patched('a run that Temporal would end is refused')) return;
  const at = new Date(ends).toISOString();
  const left = Math.max(0, ends - Date.now());
  const least = timeOf(plan);
  if (left < least) {
    throw ApplicationFailure.nonRetryable(
      `the run was started with a time-out, nothing was touched: Temporal would end it at ${at}, ${formatDuration(left)} from now, ${MEANS}; the windows, stages and the standby window of the plan alone may take ${formatDuration(least)}\nNext step: start it without --execution-timeout and --run-timeout`,
      'PreflightFailed',
    );
  }
  run.warn([
    `the run was started with a time-out: at ${at} Temporal ends it as it is, ${MEANS}. Have it end before that (\`retire\`, or \`rollback\`); better start it without --execution-timeout and --run-timeout`,
  ]);
}

/** When Temporal ends the run, ms since 1970; null where it never does. */
function endsByTemporal(): number | null {
  const { startTime, runStartTime, executionTimeoutMs = 0, runTimeoutMs = 0 } = workflowInfo();
  const ends = [
    ...(executionTimeoutMs > 0 ? [startTime.getTime() + executionTimeoutMs] : []),
    ...(runTimeoutMs > 0 ? [runStartTime.getTime() + runTimeoutMs] : []),
  ];
  return ends.length === 0 ? null : Math.min(...ends);
}

const WINDOWS: readonly WindowOf[] = ['replicate', 'migrate', 'traffic', 'promote'];

/** What the plan itself says of its time, ms: copies, comparisons and people come to that. */
function timeOf({ replicate, windows, traffic, standby }: Plan): number {
  const closed = WINDOWS.map((what) => longestClosed(windows?.[what] ?? []));
  const durations = [replicate.holdFor, ...traffic.stages.map((stage) => stage.for), standby.for].map(parseDuration);
  return [...closed, ...durations].reduce((sum, ms) => sum + ms, 0);
}
