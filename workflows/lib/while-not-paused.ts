import { condition, patched } from '@temporalio/workflow';
import type { MigrationRun } from './migration-run.js';
import { unless } from './unless.js';

/**
 * Does work that goes on beside the steps of the story, which a pause stops by itself. A pause cancels it; when it has
 * really stopped and the run is resumed, it is begun again, and goes on where it was.
 */
export async function whileNotPaused<T>(run: MigrationRun, work: () => Promise<T>): Promise<T> {
  if (!patched('a pause stops what takes locks in the standby window')) return work();
  for (;;) {
    await condition(() => !run.paused);
    const ended = await unless(() => run.paused, work);
    if (ended !== undefined) return ended.done;
  }
}
