import { ApplicationFailure, condition, patched } from '@temporalio/workflow';
import { beside } from './beside.js';
import type { MigrationRun } from './migration-run.js';

/**
 * Does work that goes on beside the steps of the story, which a pause stops by itself. A pause cancels it; when it has
 * really stopped and the run is resumed, it is begun again, and goes on where it was.
 */
export async function whileNotPaused<T>(run: MigrationRun, work: () => Promise<T>): Promise<T> {
  if (!patched('a pause stops what takes locks in the standby window')) return work();
  const paused = ApplicationFailure.nonRetryable('paused by message');
  const untilPaused = async (): Promise<never> => {
    await condition(() => run.paused);
    throw paused;
  };
  for (;;) {
    await condition(() => !run.paused);
    const done: T[] = [];
    try {
      await beside(untilPaused, async () => void done.push(await work()));
    } catch (error) {
      if (error !== paused) throw error;
      continue;
    }
    return done[0] as T;
  }
}
