import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import { lastLines } from '../../src/embedded/last-lines.js';
import type { PlanInput } from '../../src/plan/schema.js';
import { TASK_QUEUE, WORKFLOW_TYPE } from '../../src/workflow-names.js';
import type { MigrationStatus, Phase } from '../../workflows/lib/status.js';
import { activityTimes, type ActivityTime } from './activity-times.js';
import { NotMeasured, type Bench } from './bench.js';
import { watchMemory, type PeakMemory } from './process-memory.js';
import { freshWorker } from './worker.js';

/** Each look is a task of the worker that is measured. The run's own times are what counts: nobody waits for a look. */
const POLL_MS = 1_000;
/** The same where somebody is to be told of a phase as it begins. */
const POLL_FOR_PHASES_MS = 250;
const LOOK_FOR_STUCK_MS = 3_000;
const TRIES = 5;
const DEADLINE_MS = 4 * 3_600_000;

export interface MigrationTimes {
  /** From the start of the workflow until every row is on green and it follows blue: the verification begins then. */
  readonly seconds: number;
  /** The same without the look at both databases before anything is touched. */
  readonly secondsWithoutPreflight: number;
  readonly phases: Readonly<Partial<Record<Phase, number>>>;
  readonly activities: readonly ActivityTime[];
  /** The worker's, from the moment in which it was ready. */
  readonly memory: PeakMemory | null;
  /** Absent when the run was ended before it. */
  readonly verification?: { readonly rows: number; readonly differing: number; readonly seconds: number };
}

export interface MigrationOptions {
  /** The phase in which the run is ended: `traffic` lets the verification finish. Default: `traffic`. */
  readonly until?: 'verify' | 'traffic';
  /** Told each phase as it begins, within the time between two looks. */
  readonly onPhase?: (phase: Phase) => Promise<void>;
}

/**
 * A migration as a user runs it: a worker, the workflow on the Temporal server, until it waits before the traffic. Then
 * it is terminated; the next fresh start takes away what it has left.
 *
 * @throws NotMeasured when the run ends before that, with the reason that it gives.
 */
export async function runMigration(
  bench: Bench,
  plan: PlanInput,
  options: MigrationOptions = {},
): Promise<MigrationTimes> {
  const worker = await freshWorker(bench, plan.name);
  const connection = await Connection.connect({ address: bench.temporal.address });
  try {
    const memory = watchMemory(worker.pid);
    const client = new Client({ connection });
    const handle = await client.workflow.start(WORKFLOW_TYPE, {
      taskQueue: TASK_QUEUE,
      workflowId: `verdigris/${plan.name}`,
      args: [plan],
    });
    try {
      const status = await follow(bench, handle, worker.logFile, options);
      const peakMemory = memory.stop();
      const startedAt = (await handle.describe()).startTime.getTime();
      return {
        ...timesOf(status, startedAt),
        activities: await activityTimes(handle, startedAt),
        memory: peakMemory,
      };
    } finally {
      memory.stop();
      await handle.terminate('measured').catch(() => undefined);
    }
  } finally {
    await connection.close();
    await worker.process.stop();
  }
}

async function follow(
  bench: Bench,
  handle: WorkflowHandle,
  logFile: string,
  { until = 'traffic', onPhase }: MigrationOptions,
): Promise<MigrationStatus> {
  const deadline = performance.now() + DEADLINE_MS;
  let phase: Phase | undefined;
  let doing: string | undefined;
  let nextLook = performance.now() + LOOK_FOR_STUCK_MS;
  for (;;) {
    bench.signal.throwIfAborted();
    const status = await handle.query<MigrationStatus>('status').catch(() => undefined);
    if (status !== undefined) {
      if (status.now !== doing) bench.say(`  ${handle.workflowId}: ${(doing = status.now)}`);
      if (status.phase !== phase) {
        phase = status.phase;
        await onPhase?.(phase);
      }
      if (status.outcome !== 'running' || status.rollingBack !== null) {
        throw new NotMeasured(await whyEnded(handle, status));
      }
      if (status.waiting?.for === 'resume') throw new NotMeasured(`the run holds: ${status.waiting.why}`);
      if (status.phase === until && (until === 'verify' || status.waiting?.for === 'approval')) return status;
    } else if ((await handle.describe()).status.name !== 'RUNNING') {
      throw new NotMeasured(await whyEnded(handle, status));
    }
    if (performance.now() > nextLook) {
      const why = await whatIsStuck(handle);
      if (why !== undefined) throw new NotMeasured(why);
      nextLook = performance.now() + LOOK_FOR_STUCK_MS;
    }
    if (performance.now() > deadline) throw new NotMeasured(`no end within ${DEADLINE_MS / 3_600_000} h`);
    const rest = onPhase === undefined ? POLL_MS : POLL_FOR_PHASES_MS;
    await sleep(rest, undefined, { signal: bench.signal }).catch(() => bench.signal.throwIfAborted());
    if (phase === undefined && performance.now() > deadline - DEADLINE_MS + 60_000) {
      throw new NotMeasured(`the worker does not answer:\n${lastLines(logFile)}`);
    }
  }
}

/** A run holds by trying again what may pass by itself; for a benchmark, what has failed so often has failed. */
async function whatIsStuck(handle: WorkflowHandle): Promise<string | undefined> {
  const { raw } = await handle.describe();
  const stuck = raw.pendingActivities?.find(({ attempt }) => (attempt ?? 0) >= TRIES);
  if (stuck === undefined) return undefined;
  return `${stuck.activityType?.name ?? 'an activity'} fails again and again: ${firstLine(stuck.lastFailure?.message ?? 'no error is known')}`;
}

async function whyEnded(handle: WorkflowHandle, status: MigrationStatus | undefined): Promise<string> {
  if (status?.rollingBack) return firstLine(status.rollingBack.reason);
  try {
    await handle.result();
    return `the run ended as ${status?.outcome ?? 'completed'}`;
  } catch (error) {
    let cause: unknown = error;
    while (cause instanceof Error && cause.cause instanceof Error) cause = cause.cause;
    return firstLine(cause instanceof Error ? cause.message : String(cause));
  }
}

function firstLine(text: string): string {
  return text.split('\n')[0] ?? '';
}

function timesOf(status: MigrationStatus, startedAt: number): Omit<MigrationTimes, 'activities' | 'memory'> {
  const begun = (phase: Phase): number => {
    const found = status.phases.find((one) => one.phase === phase);
    if (found === undefined) throw new Error(`the run has no phase ${phase}`);
    return Date.parse(found.startedAt);
  };
  const phases = Object.fromEntries(
    status.phases
      .filter(({ finishedAt }) => finishedAt !== null)
      .map(({ phase, startedAt, finishedAt }) => [
        phase,
        (Date.parse(finishedAt ?? startedAt) - Date.parse(startedAt)) / 1_000,
      ]),
  );
  return {
    seconds: (begun('verify') - startedAt) / 1_000,
    secondsWithoutPreflight: (begun('verify') - begun('replicate')) / 1_000,
    phases,
    ...(status.verification === null
      ? {}
      : {
          verification: {
            rows: status.verification.rowsVerified,
            differing: status.verification.differingRows,
            seconds: (begun('traffic') - begun('verify')) / 1_000,
          },
        }),
  };
}
