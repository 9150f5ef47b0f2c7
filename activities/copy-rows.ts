import { setTimeout as sleep } from 'node:timers/promises';
import { Context } from '@temporalio/activity';
import { IllegalStateError } from '@temporalio/common';
import { WorkflowNotFoundError } from '@temporalio/client';
import { formatTableName } from '../src/plan/table-name.js';
import { copyParcel, type ParcelResult } from '../src/postgres/bootstrap/copy/copy-parcel.js';
import type { CopyContext } from '../src/postgres/bootstrap/copy/copy-context.js';
import { readCopyState } from '../src/postgres/bootstrap/copy/copy-state.js';
import type { HolderAttempt } from '../src/postgres/bootstrap/copy/held-snapshots.js';
import { finishCopy, type FinishResult } from '../src/postgres/bootstrap/copy/finish-copy.js';
import { followCopy } from '../src/postgres/bootstrap/copy/follow-copy.js';
import { planCopy } from '../src/postgres/bootstrap/copy/plan-copy.js';
import type { Parcel } from '../src/postgres/bootstrap/copy/plan-parcels.js';
import { holdSnapshots } from '../src/postgres/bootstrap/copy/snapshot-holder.js';
import { notVacuumed, vacuumCopied } from '../src/postgres/bootstrap/copy/vacuum-copied.js';
import { recordEvent } from '../src/postgres/state.js';
import { answerWithin, together } from '../src/timing.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { buildSettings } from './build-settings.js';
import { perform, performWhileBlueServes, sessionsOnBoth, type ActivityDependencies, type Work } from './context.js';
import { movedTables, publishForward } from './run-tables.js';
import { schemaStep, stepContext } from './step-context.js';

/** What the workflow is told of a parcel. */
export interface ParcelSummary {
  readonly id: number;
  readonly label: string;
  readonly bytes: number;
  /** The table of the plan whose rows it has, where it has those of one alone. An older worker does not say. */
  readonly table?: string;
}

/** Snapshots are mostly there within a tenth of a second: close looks at first, then ever fewer, ms. */
const FIRST_LOOK_MS = 5;
const LOOK_EVERY_MS = 50;

/** Activities of phase 2 for bootstrap `copy`: rows from exported snapshots, in parallel, on any worker. */
export function copyRowsActivities(dependencies: ActivityDependencies) {
  return {
    /** Publications, the plan's new columns on green, and what is copied how. The same answer each time. */
    planCopy: (ref: RunRef): Promise<{ parcels: readonly ParcelSummary[]; tables: number }> =>
      perform(dependencies, ref, async (work) => {
        const [blue, green] = await together(work.session('blue', 'plan copy'), schemaStep(work, 'plan copy'));
        const tables = await publishForward(blue, work.run, ref.plan);
        const parcels = await planCopy(contextOf(work, ref), blue, green, tables);
        return {
          parcels: parcels.map(summaryOf),
          tables: new Set(parcels.flatMap(({ pieces }) => pieces.map(({ root }) => JSON.stringify(root)))).size,
        };
      }),

    /** Makes the slots with their snapshots and holds them until it is cancelled. */
    holdSnapshot: (ref: RunRef): Promise<'released' | 'lost'> =>
      performWhileBlueServes(
        dependencies,
        ref,
        (work) => holdSnapshots(contextOf(work, ref), attemptOf(Context.current())),
        // It opens its own, and the parcels want theirs.
        0,
      ),

    /** Returns when parcels can be copied, or will not be any more. */
    awaitSnapshot: (ref: RunRef): Promise<'ready' | 'lost'> =>
      perform(dependencies, ref, async (work) => {
        const green = await work.session('green', 'await snapshot');
        const began = performance.now();
        for (;;) {
          const state = await readCopyState(green, work.run.runId);
          if (state?.phase === 'ready') return 'ready';
          if (state?.phase === 'lost' || state?.phase === 'closed') return 'lost';
          const rest = Math.min(LOOK_EVERY_MS, Math.max(FIRST_LOOK_MS, (performance.now() - began) / 10));
          await sleep(rest, undefined, { signal: work.signal });
        }
      }),

    copyParcel: (ref: RunRef, id: number): Promise<ParcelResult> =>
      perform(dependencies, ref, (work) => copyParcel(contextOf(work, ref), id)),

    /** Nothing is copied any more; what is not complete is emptied; triggers stand before anybody else writes. */
    finishCopy: (ref: RunRef): Promise<FinishResult> =>
      performWhileBlueServes(dependencies, ref, async (work) => {
        const [blue, green] = await together(work.session('blue', 'finish copy'), schemaStep(work, 'finish copy'));
        const result = await finishCopy(contextOf(work, ref), blue, green);
        await recordEvent(blue, work.run.runId, 'rows copied', result);
        return result;
      }),

    /** Statistics and visibility of what has been copied: the first reads of green are as fast as later ones. */
    vacuumCopied: (ref: RunRef): Promise<void> =>
      perform(dependencies, ref, async (work) => {
        const green = await work.session('green', 'vacuum');
        const left = await notVacuumed(green, await movedTables(green, ref.plan));
        if (left.length === 0) return;
        await vacuumCopied(stepContext(work, green, 'green'), left, await buildSettings(work, ref));
      }),

    /** Green follows blue; tables that were not copied are copied by PostgreSQL itself. */
    followCopy: (ref: RunRef): Promise<{ tables: number }> =>
      performWhileBlueServes(dependencies, ref, async (work) => {
        const { blue, green } = await sessionsOnBoth(work, 'follow copy');
        return followCopy(contextOf(work, ref), blue, green);
      }),
  };
}

function summaryOf({ id, label, bytes, pieces }: Parcel): ParcelSummary {
  const [table, ...others] = new Set(pieces.map(({ root }) => formatTableName(root)));
  return { id, label, bytes, ...(table === undefined || others.length > 0 ? {} : { table }) };
}

function contextOf({ databases, run, signal, report }: Work, ref: RunRef): CopyContext {
  return { databases, run, plan: ref.plan, signal, report };
}

/** An answer of Temporal that takes longer is none, ms. */
const ANSWER_WITHIN_MS = 5_000;

function attemptOf(context: Context): HolderAttempt {
  const { attempt, workflowExecution } = context.info;
  return {
    isAnother: attempt > 1,
    endedBy: () => {
      const { workerShutdown, cancelRequested, paused, reset, notFound, timedOut } = context.cancellationDetails ?? {};
      if (cancelRequested === true || paused === true || reset === true) return 'run';
      if (workerShutdown === true) return 'worker';
      return notFound === true || timedOut === true ? 'silence' : 'run';
    },
    doesRunGoOn: async () => {
      if (workflowExecution === undefined) return false;
      try {
        const { workflowId, runId } = workflowExecution;
        const asked = context.client.workflow.getHandle(workflowId, runId).describe();
        const { status } = await answerWithin(ANSWER_WITHIN_MS, asked, () => new Error('Temporal does not answer'));
        return status.name === 'RUNNING' || status.name === 'PAUSED';
      } catch (error) {
        // The second one: the worker has closed its connection.
        return error instanceof WorkflowNotFoundError || error instanceof IllegalStateError ? false : undefined;
      }
    },
  };
}
