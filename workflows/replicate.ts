import type { Plan } from '../src/plan/schema.js';
import { bootstrapByCopy } from './bootstrap/copy.js';
import { bootstrapByStandby } from './bootstrap/standby.js';
import { bootstrapByTablesync } from './bootstrap/tablesync.js';
import { finishWayBack } from './finish-move.js';
import { isKept, keepsGreen, onceGreenIsKnown } from './kept-green.js';
import { act, actBounded } from './lib/activities.js';
import type { RunRef } from './lib/run-ref.js';
import type { Compensation, Saga } from './lib/saga.js';
import type { Story } from './lib/story.js';

/** Phase 2: green gets blue's schema and rows, and follows it. */
export async function replicate(story: Story, ref: RunRef, saga: Saga): Promise<void> {
  const { run } = story;
  run.enter('replicate');
  const { method } = ref.plan.bootstrap;
  const green = method === 'standby' ? 'green can not become a standby again' : 'green is emptied';
  run.saw({ rollback: { safe: true, why: `blue serves everything; replication is dropped, ${green}` } });

  saga.push(undoingOfClaim(story, ref));
  const { epoch } = await story.step('claiming both databases', () => act('claim both databases').claimDatabases(ref));
  run.epoch = epoch;
  await story.step("writing down blue's schema", () =>
    act('from here on DDL is noticed').beginSchemaWatch(ref, 'blue'),
  );

  saga.push(undoingOfReplication(story, ref));
  if (method === 'standby') await bootstrapByStandby(story, ref, saga);
  else {
    await story.step('copying the schema', () => act('copy the schema to green').copySchema(ref));
    await (method === 'copy' ? bootstrapByCopy(story, ref) : bootstrapByTablesync(story, ref));
    const { warnings, filled } = await story.step('completing the schema', () =>
      act('foreign keys, triggers and what else is left of the schema').completeSchema(ref),
    );
    run.filledViews = filled ?? null;
    run.warn(warnings);
  }
  run.waitFor({ for: 'lag', why: `lag below ${ref.plan.replicate.maxLag} for ${ref.plan.replicate.holdFor}` });
  const { lagSeconds } = await story.step('waiting until green has caught up', () =>
    act(`lag below ${ref.plan.replicate.maxLag}`).awaitLag(ref),
  );
  run.waitFor(null);
  run.saw({ lagSeconds });
}

export function undoingOfClaim(story: Story, ref: RunRef): Compensation {
  return {
    name: 'release both databases',
    undo: () =>
      onceGreenIsKnown(story, ref, async () => {
        await finishWayBack(story.run, ref);
        await actBounded('compensate: release both databases').releaseDatabases(ref, keepsGreen(story));
      }),
  };
}

export function undoingOfReplication(story: Story, ref: RunRef): Compensation {
  const { run } = story;
  const name = replicationDropped(ref.plan);
  return {
    name,
    told: () => (isKept(story) ? 'drop replication; green keeps its rows: it has had the writes' : name),
    undo: () =>
      onceGreenIsKnown(story, ref, async () => {
        const keep = keepsGreen(story);
        run.replicationLeft = true;
        await actBounded('compensate: drop replication').undoReplication(ref, keep);
        run.replicationLeft = false;
      }),
  };
}

/** The name of the compensation that drops replication. */
export function replicationDropped({ bootstrap, green }: Plan): string {
  if (bootstrap.method === 'standby') return 'drop replication; green keeps its rows';
  return green.afterRollback === 'keep'
    ? 'drop replication, and what was copied to green unless it has been primary'
    : 'drop replication and what was copied to green';
}
