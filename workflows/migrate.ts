import { act, actBounded } from './lib/activities.js';
import { keepsGreen } from './replicate.js';
import type { RunRef } from './lib/run-ref.js';
import type { Saga } from './lib/saga.js';
import type { Story } from './lib/story.js';

/** Phase 3: green gets the new schema while it follows blue: columns and triggers, backfill, then the other steps. */
export async function migrate(story: Story, ref: RunRef, saga: Saga): Promise<void> {
  const { run } = story;
  run.enter('migrate');
  saga.push({
    name: 'undo the schema changes on green',
    undo: () => actBounded('compensate: undo the schema changes').undoMigrations(ref, keepsGreen(story)),
  });
  const { tables, steps } = await story.step('adding columns and triggers', () =>
    act('new columns, up and down triggers').expandTables(ref),
  );
  for (const table of tables) {
    await story.step(`backfilling ${table}`, () => act(`backfill ${table}`).backfillTable(ref, table));
  }
  for (const [index, name] of steps) {
    await story.step(name, () => act(name).applyMigration(ref, index));
  }
  await story.step('analyzing green', () => act('ANALYZE').analyzeGreen(ref));
}
