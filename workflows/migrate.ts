import { patched } from '@temporalio/workflow';
import { fenceGreen } from './fence-green.js';
import { act, actBounded } from './lib/activities.js';
import { isKept, keepsGreen, onceGreenIsKnown } from './kept-green.js';
import type { RunRef } from './lib/run-ref.js';
import type { Compensation, Saga } from './lib/saga.js';
import type { Story } from './lib/story.js';
import { fewTables } from '../src/plan/table-name.js';
import { insideWindows } from './windows.js';

/** Stops while blue's disk needs room, and goes on where it was. */
const HEAVY = { yields: true };

/**
 * Phase 3: green gets the new schema while it follows blue: columns and triggers, backfill, then the other steps. Then nothing
 * of ours writes rows there any more, and green is closed for everybody: what is compared next is what blue has sent.
 */
export async function migrate(story: Story, ref: RunRef, saga: Saga): Promise<void> {
  story.run.enter('migrate');
  await insideWindows(story, ref, 'migrate', () => migrateGreen(story, ref, saga));
  if (patched('green is fenced before it is compared')) await fenceGreen(story, ref, saga);
}

async function migrateGreen(story: Story, ref: RunRef, saga: Saga): Promise<void> {
  saga.push(undoingOfMigrations(story, ref));
  const { tables, steps, beforeSql } = await story.step('adding columns and triggers', () =>
    act('new columns, up and down triggers').expandTables(ref),
  );
  if (tables.length > 0) {
    await story.step(`backfilling ${fewTables(tables)}`, () => act('backfill').backfillTables(ref, tables), HEAVY);
  }
  for (const [index, name] of steps) {
    await story.step(name, () => act(name).applyMigration(ref, index), HEAVY);
  }
  // What was copied was analyzed with the plan's columns and indexes, unless raw SQL or what follows it came later.
  const onlyStale = ref.plan.bootstrap.method === 'copy' && beforeSql === steps.length;
  await story.step('analyzing green', () => act('ANALYZE').analyzeGreen(ref, onlyStale), HEAVY);
}

export function undoingOfMigrations(story: Story, ref: RunRef): Compensation {
  const name = 'undo the schema changes on green';
  return {
    name,
    told: () => (isKept(story) ? 'green keeps the schema changes and their triggers: it has had the writes' : name),
    undo: () =>
      onceGreenIsKnown(story, ref, () =>
        actBounded('compensate: undo the schema changes').undoMigrations(ref, keepsGreen(story)),
      ),
  };
}
