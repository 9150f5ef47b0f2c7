import { CancellationScope } from '@temporalio/workflow';
import { isCancelled } from './failure.js';

/**
 * Works on every item, at most `parallel` at once, in their order. The first failure stops the others; it is thrown when
 * all of them have really stopped.
 *
 * @param work returns false when the items that are left need not be begun any more
 */
export async function inParallel<T>(
  items: readonly T[],
  parallel: number,
  work: (item: T) => Promise<boolean>,
): Promise<void> {
  const queue = [...items];
  const scope = new CancellationScope();
  const lane = async (): Promise<void> => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) {
      if (!(await work(item))) queue.length = 0;
    }
  };
  await scope.run(async () => {
    const lanes = Array.from({ length: Math.min(parallel, items.length) }, async () => {
      try {
        await lane();
      } catch (error) {
        queue.length = 0;
        scope.cancel();
        throw error;
      }
    });
    const failures = (await Promise.allSettled(lanes)).flatMap((lane) =>
      lane.status === 'rejected' ? [lane.reason as unknown] : [],
    );
    // What was cancelled because of another failure says nothing.
    const first = failures.find((failure) => !isCancelled(failure)) ?? failures[0];
    if (first !== undefined) throw first;
  });
}
