import { parseSize } from '../src/postgres/lag.js';
import { settleGreen } from '../src/postgres/bootstrap/standby/aftermath.js';
import { followBlue } from '../src/postgres/bootstrap/standby/follow-blue.js';
import {
  describePhysicalSlot,
  readPhysicalSlot,
  rememberPhysicalSlot,
} from '../src/postgres/bootstrap/standby/physical-slot.js';
import { awaitReplay, prepareSlots, refuseOtherCluster } from '../src/postgres/bootstrap/standby/prepare-blue.js';
import { promoteStandby } from '../src/postgres/bootstrap/standby/promote-standby.js';
import { isInRecovery } from '../src/postgres/in-recovery.js';
import { STANDBY_BOOTSTRAP, type StandbyRun } from '../src/postgres/bootstrap/standby/standby-run.js';
import { takeOverGreen } from '../src/postgres/bootstrap/standby/take-over.js';
import { recordEvent } from '../src/postgres/state.js';
import { streamNames } from '../src/postgres/streams.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { performWhileBlueServes, type ActivityDependencies, type Work } from './context.js';
import { movedTables, publishForward } from './run-tables.js';

/** Activities of the bootstrap `standby`: a physical standby of blue becomes green. */
export function standbyBootstrapActivities(dependencies: ActivityDependencies) {
  return {
    /** Publications and slots on blue; returns when green has replayed beyond the start of each slot. */
    prepareStandby: (ref: RunRef): Promise<void> =>
      performWhileBlueServes(dependencies, ref, async (work) => {
        const standby = await standbyRun(work, ref);
        if (await isInRecovery(standby.green)) {
          await refuseOtherCluster(standby);
          await publishForward(standby.blue, work.run, ref.plan);
        }
        await prepareSlots(standby);
        await awaitReplay(standby);
      }),

    /** Ends green's life as a standby: can't be undone. */
    promoteStandby: (ref: RunRef): Promise<void> =>
      performWhileBlueServes(dependencies, ref, async (work) => promoteStandby(await standbyRun(work, ref))),

    /** Makes green's copy of schema verdigris its own, and lets it follow blue from where it left blue's WAL. */
    followFromPromotion: (ref: RunRef): Promise<{ position: string; warnings: string[] }> =>
      performWhileBlueServes(dependencies, ref, async (work) => {
        const standby = await standbyRun(work, ref);
        const { blue, green, run } = standby;
        const { position } = await takeOverGreen(standby, ref.plan.promote.refuseWith);
        await followBlue(standby, position, work.databases.blue);
        await recordEvent(blue, run.runId, 'green follows from its promotion', { position });
        const slot = await readPhysicalSlot(blue, green);
        if (slot === undefined) return { position, warnings: [] };
        await rememberPhysicalSlot(blue, run, slot);
        return { position, warnings: [describePhysicalSlot(slot)] };
      }),

    /** The compensation: says what can't be undone, and keeps a promoted green from being written to. */
    settleStandby: (ref: RunRef): Promise<{ notUndone: string[] }> =>
      performWhileBlueServes(dependencies, ref, async ({ session, run }) => ({
        notUndone: await settleGreen(
          await session('blue', 'settle green'),
          await session('green', 'settle green'),
          run,
        ),
      })),
  };
}

async function standbyRun(work: Work, ref: RunRef): Promise<StandbyRun> {
  const blue = await work.session('blue', STANDBY_BOOTSTRAP);
  return {
    run: work.run,
    blue,
    green: await work.session('green', STANDBY_BOOTSTRAP),
    tables: (await movedTables(blue, ref.plan)).map((table) => table.name),
    streams: streamNames(work.run.migration, 'to_green', ref.plan.replicate.streams),
    maxRetainedWal: parseSize(ref.plan.replicate.maxRetainedWal),
    signal: work.signal,
    report: work.report,
  };
}
