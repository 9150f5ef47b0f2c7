import { dropFence } from '../src/postgres/fence.js';
import { feedName } from '../src/postgres/feed.js';
import { releaseDatabase } from '../src/postgres/ownership.js';
import { dropPublication } from '../src/postgres/publication.js';
import { dropSlot } from '../src/postgres/replication-slot.js';
import { dropSubscription } from '../src/postgres/subscription.js';
import { dropTriggers } from '../src/postgres/migrate/revert.js';
import { stepContext } from './step-context.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
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
        const green = await session('green', 'retire');
        const blue = await session('blue', 'retire');
        const back = feedName(run.migration, 'to_blue');
        await dropSubscription(blue, back);
        await dropSlot(green, back);
        await dropPublication(green, back);
        await dropPublication(blue, feedName(run.migration, 'to_green'));
        await dropFence(green, signal);
        await dropTriggers(stepContext(work, green, 'green'));
        await releaseDatabase(blue, run, 'completed');
        await releaseDatabase(green, run, 'completed');
      }),
  };
}
