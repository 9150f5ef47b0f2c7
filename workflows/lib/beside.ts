import { CancellationScope } from '@temporalio/workflow';
import { isCancelled } from './failure.js';

/**
 * Does `work` while `companion` runs beside it. The companion is cancelled when the work has ended; one that fails ends
 * the work, and its failure is thrown, unless everything was cancelled from outside. Returns when both have stopped.
 */
export async function beside(companion: () => Promise<unknown>, work: () => Promise<void>): Promise<void> {
  const outside = CancellationScope.current();
  const working = new CancellationScope();
  const accompanying = new CancellationScope();
  const accompanied = accompanying.run(companion).then(
    () => null,
    (error: unknown) => {
      if (isCancelled(error)) return null;
      working.cancel();
      return error;
    },
  );
  let ended: unknown = null;
  try {
    await working.run(work);
  } catch (error) {
    ended = error;
  }
  accompanying.cancel();
  const failure = await CancellationScope.nonCancellable(() => accompanied);
  if (ended === null) return;
  throw failure !== null && isCancelled(ended) && !outside.consideredCancelled ? failure : ended;
}
