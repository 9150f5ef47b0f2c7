import { setTimeout as sleep } from 'node:timers/promises';
import { parseDuration } from '../src/plan/duration.js';
import { tablesync } from '../src/postgres/bootstrap/tablesync.js';
import type { Bootstrap } from '../src/postgres/bootstrap/bootstrap.js';
import { feedName } from '../src/postgres/feed.js';
import { parseSize, refuseTooMuchWal, waitUntilCaughtUp } from '../src/postgres/lag.js';
import { claimDatabases } from '../src/postgres/ownership.js';
import { catalogFingerprint } from '../src/postgres/prepare-promotion.js';
import { writeProgress } from '../src/postgres/migrate/progress-row.js';
import { ensurePublication } from '../src/postgres/publication.js';
import { ensureSlot, readSlot } from '../src/postgres/replication-slot.js';
import { recordEvent } from '../src/postgres/state.js';
import type { Plan } from '../src/plan/schema.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { perform, type ActivityDependencies } from './context.js';
import { catalogKey, movedTables, publishedForward } from './run-tables.js';

const DIRECTION = 'to_green';

const BOOTSTRAPS: Readonly<Record<Plan['bootstrap']['method'], Bootstrap>> = { tablesync };

/** Activities of phase 2 that fill green; the schema is copied by activities/copy-schema.ts. */
export function replicateActivities(dependencies: ActivityDependencies) {
  return {
    /** Makes this run the owner of both databases. */
    claimDatabases: (ref: RunRef): Promise<{ epoch: number }> =>
      perform(dependencies, ref, async ({ databases, run }) => ({
        epoch: await claimDatabases(databases, run, ref.plan.traffic.flag),
      })),

    /** Publication, then slot, then rows. In this order: a slot that is older than its publication fails on PG 15. */
    copyRows: (ref: RunRef): Promise<{ tables: number }> =>
      perform(dependencies, ref, async ({ databases, run, session, signal, report }) => {
        const blue = await session('blue', 'replicate');
        const tables = await movedTables(blue, ref.plan);
        const feed = feedName(run.migration, DIRECTION);
        await writeProgress(blue, catalogKey(run), catalogFingerprint(tables), true);
        await ensurePublication(blue, feed, DIRECTION, publishedForward(tables));
        await ensureSlot(blue, feed, { signal, onWait: (waitingFor) => report({ slot: feed, waitingFor }) });
        const result = await BOOTSTRAPS[ref.plan.bootstrap.method].run({
          databases,
          migration: run.migration,
          direction: DIRECTION,
          maxRetainedWal: parseSize(ref.plan.replicate.maxRetainedWal),
          signal,
          report,
        });
        await recordEvent(blue, run.runId, 'rows copied', result);
        return result;
      }),

    /** Watches the WAL that blue keeps for green; ends when the feed does. */
    watchRetainedWal: (ref: RunRef): Promise<void> =>
      perform(dependencies, ref, async ({ run, session, signal, report }) => {
        const blue = await session('blue', 'retained WAL');
        const feed = feedName(run.migration, DIRECTION);
        const limit = parseSize(ref.plan.replicate.maxRetainedWal);
        for (;;) {
          signal.throwIfAborted();
          const slot = await readSlot(blue, feed);
          if (slot === undefined) return;
          report({ retainedBytes: slot.retainedBytes, limit });
          await refuseTooMuchWal(blue, feed, limit);
          await sleep(1_000);
        }
      }),

    /** Returns when green has been close behind blue for long enough. */
    awaitLag: (ref: RunRef): Promise<{ lagSeconds: number }> =>
      perform(dependencies, ref, async ({ run, session, signal, report }) => {
        const lag = await waitUntilCaughtUp({
          source: await session('blue', 'lag'),
          target: await session('green', 'lag'),
          direction: DIRECTION,
          feed: feedName(run.migration, DIRECTION),
          maxLagMs: parseDuration(ref.plan.replicate.maxLag),
          holdForMs: parseDuration(ref.plan.replicate.holdFor),
          maxRetainedWal: parseSize(ref.plan.replicate.maxRetainedWal),
          signal,
          report,
        });
        return { lagSeconds: lag / 1_000 };
      }),
  };
}
