import { dropDdlTriggers } from '../src/postgres/ddl/event-trigger.js';
import { dropFence } from '../src/postgres/fence.js';
import { dropPublications, dropSlots, dropSubscriptions } from '../src/postgres/feed-objects.js';
import { feedName } from '../src/postgres/feed.js';
import { SHORT_STATEMENTS } from '../src/postgres/session.js';
import { releaseDatabase } from '../src/postgres/ownership.js';
import { dropTriggers } from '../src/postgres/migrate/revert.js';
import { stepContext } from './step-context.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { refuseReadsOnBlueOf } from './haproxy.js';
import { perform, type ActivityDependencies } from './context.js';

/** Activities of phase 8. */
export function retireActivities(dependencies: ActivityDependencies) {
  return {
    /**
     * Removes replication and triggers. Blue is left as it is, with its fence closed: whoever still writes there is
     * told so. Schema verdigris stays on both sides: routers read from it where writes are.
     */
    retire: (ref: RunRef): Promise<void> =>
      perform(dependencies, ref, async (work) => {
        const { run, session, signal } = work;
        // While blue still follows green, and would answer rightly.
        await refuseReadsOnBlueOf(ref, dependencies.environment, await session('green', 'retire'));
        const back = feedName(run.migration, 'to_blue');
        const retireGreen = async (): Promise<void> => {
          const green = await session('green', 'retire');
          await dropDdlTriggers(green);
          // Only where the promotion was never finished.
          await dropSubscriptions(green, feedName(run.migration, 'to_green'));
          await dropSlots(green, back, 2_000);
          await dropPublications(green, back);
          await dropFence(green, signal);
          await dropTriggers(stepContext(work, green, 'green'));
          await releaseDatabase(green, run, 'completed');
        };
        const retireBlue = async (): Promise<void> => {
          const blue = await session('blue', 'retire', SHORT_STATEMENTS);
          await dropDdlTriggers(blue);
          await dropSubscriptions(blue, back);
          await dropSlots(blue, feedName(run.migration, 'to_green'), 2_000);
          await dropPublications(blue, feedName(run.migration, 'to_green'));
          await releaseDatabase(blue, run, 'completed');
        };
        // Blue's subscriber first, so that nothing holds green's slot; but a blue that is gone must not keep green,
        // which serves, from getting rid of a slot that fills its disk.
        const blueDone = await Promise.allSettled([retireBlue()]);
        await retireGreen();
        for (const result of blueDone) if (result.status === 'rejected') throw result.reason;
      }),
  };
}
