import { ApplicationFailure, patched } from '@temporalio/workflow';
import type { ParcelSummary } from '../../activities/copy-rows.js';
import type { MigrationSteps } from '../../activities/migrate.js';
import { act } from '../lib/activities.js';
import { beside } from '../lib/beside.js';
import { failureMessage, failureType, isCancelled } from '../lib/failure.js';
import { inParallel } from '../lib/in-parallel.js';
import type { RunRef } from '../lib/run-ref.js';
import type { Story } from '../lib/story.js';

/**
 * Bootstrap `copy`: rows come from exported snapshots of blue in parallel, already in the new shape; keys and indexes,
 * blue's and the plan's, are built behind them, while nobody writes green yet; then green follows blue from where the
 * snapshots were taken.
 */
export async function bootstrapByCopy(story: Story, ref: RunRef): Promise<void> {
  await story.step('copying the rows', () => copyRows(story, ref));
  const expand = (): Promise<MigrationSteps> =>
    story.step('adding columns and triggers', () => act('new columns, up and down triggers').expandTables(ref));
  const build = (ahead?: number): Promise<unknown> =>
    story.step('building keys and indexes', () => act("blue's keys and indexes").buildKeysAndIndexes(ref, ahead));
  let made: MigrationSteps;
  if (patched("the plan's indexes are built beside blue's")) {
    made = await expand();
    await build(made.beforeSql);
  } else {
    await build();
    made = await expand();
  }
  const { steps, beforeSql } = made;
  // What a raw SQL step builds upon or changes is not known, so it and what comes after it wait for phase 3. So does a
  // foreign key of tables whose rows PostgreSQL is still to copy.
  for (const [index, name] of steps.slice(0, beforeSql)) {
    await story.step(name, () => act(name).applyMigration(ref, index, 'copied'));
  }
  await story.step('vacuuming what was copied', () => act('VACUUM ANALYZE of new tables').vacuumCopied(ref));
  await story.step('following blue', () => act('subscribe to blue').followCopy(ref));
}

/**
 * Copies while the snapshot is held. When the snapshot is lost (its holder died), what is copied stays, and the rest is
 * left to PostgreSQL's own synchronization.
 */
async function copyRows(story: Story, ref: RunRef): Promise<void> {
  const { parcels } = await act('plan the copy').planCopy(ref);
  const holder = (): Promise<unknown> => act('hold the snapshot').holdSnapshot(ref);
  await beside(holder, async () => {
    if ((await act('wait for the snapshot').awaitSnapshot(ref)) === 'ready') await copyParcels(story, ref, parcels);
    // Closes the copying, which the holder sees: it ends by itself, sooner than a cancel would reach it.
    await act('finish the copy').finishCopy(ref);
  });
}

/**
 * Copies the parcels. A failure after which the run holds is told at once and thrown at the end: the snapshot goes with
 * the hold, and whatever is not complete by then is left to PostgreSQL's own synchronization. The snapshot has the row
 * that failed as it was, so nothing more of its table is begun.
 */
async function copyParcels(story: Story, ref: RunRef, parcels: readonly ParcelSummary[]): Promise<void> {
  const failures: unknown[] = [];
  const failed = new Set<string>();
  await inParallel(parcels, ref.plan.bootstrap.parallel, async ({ id, label, table }) => {
    if (table !== undefined && failed.has(table)) return true;
    try {
      const { outcome } = await act(`copy ${label}`).copyParcel(ref, id);
      return outcome === 'copied';
    } catch (error) {
      if (isCancelled(error) || !story.holdsAfter(error)) throw error;
      failures.push(error);
      if (table !== undefined) failed.add(table);
      story.run.warn([failureMessage(error)]);
      return true;
    }
  });
  if (failures.length > 0) throw allOf(failures);
}

/** So many rows that are in the way are named when the run holds; the warnings have more. */
const NAMED = 10;

/** What the run holds with. */
function allOf(failures: readonly unknown[]): unknown {
  if (failures.length === 1) return failures[0];
  const more = failures.length > NAMED ? [`and ${failures.length - NAMED} more`] : [];
  const messages = [...failures.slice(0, NAMED).map(failureMessage), ...more];
  return ApplicationFailure.nonRetryable(messages.join('\n'), failureType(failures[0]) ?? null);
}
