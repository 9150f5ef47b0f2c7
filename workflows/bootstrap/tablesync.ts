import { act } from '../lib/activities.js';
import type { RunRef } from '../lib/run-ref.js';
import type { Story } from '../lib/story.js';

/** Bootstrap `tablesync`: PostgreSQL copies the rows itself, when it subscribes. */
export async function bootstrapByTablesync(story: Story, ref: RunRef): Promise<void> {
  await story.step('copying the rows', () => act("copy the rows by PostgreSQL's tablesync").copyRows(ref));
}
