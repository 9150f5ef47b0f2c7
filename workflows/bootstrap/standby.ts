import { act, actBounded } from '../lib/activities.js';
import type { RunRef } from '../lib/run-ref.js';
import type { Compensation, Saga } from '../lib/saga.js';
import type { Story } from '../lib/story.js';

/**
 * Bootstrap `standby`: a physical standby of blue is promoted and follows blue by logical replication from then on. No
 * row is copied; the batched backfill and CREATE INDEX CONCURRENTLY of phase 3 carry the new schema. Blue has been
 * claimed; green is read-only until its promotion.
 */
export async function bootstrapByStandby(story: Story, ref: RunRef, saga: Saga): Promise<void> {
  const { run } = story;
  saga.push(undoingOfStandby(story, ref));
  await story.step('waiting until the standby has replayed to the slots', () =>
    act('publications and slots on blue, replay on green').prepareStandby(ref),
  );
  run.saw({
    rollback: {
      safe: true,
      why: 'blue serves everything; but green is promoted now, and must be made a standby anew after a rollback',
    },
  });
  await story.step('promoting the standby', () => act('pg_promote() on green').promoteStandby(ref));
  const { warnings } = await story.step('following blue', () =>
    act('subscribe to blue from where green left its WAL').followFromPromotion(ref),
  );
  run.warn(warnings);
}

export function undoingOfStandby({ run }: Story, ref: RunRef): Compensation {
  return {
    name: 'green: writes closed, what can not be undone is told',
    undo: async () => {
      const { notUndone } = await actBounded('compensate: settle green').settleStandby(ref);
      run.warn(notUndone);
    },
  };
}
