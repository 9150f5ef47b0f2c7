import { act, actBounded } from './lib/activities.js';
import { isKept, onceGreenIsKnown } from './kept-green.js';
import type { RunRef } from './lib/run-ref.js';
import type { Compensation, Saga } from './lib/saga.js';
import type { Story } from './lib/story.js';

const TAKE_OFF = 'take the fence off both sides';

/**
 * From here on nobody but the feed writes to green, until writes move. Done again it arms what has come to green since, such
 * as a table that somebody has made there after DDL on blue.
 */
export async function fenceGreen(story: Story, ref: RunRef, saga: Saga): Promise<void> {
  if (!saga.has(TAKE_OFF)) saga.push(undoingOfFence(story, ref));
  await story.step('closing green for writes', () => act('fence green').fenceGreen(ref));
}

export function undoingOfFence(story: Story, ref: RunRef): Compensation {
  return {
    name: TAKE_OFF,
    told: () => (isKept(story) ? 'take the fence off blue; green stays closed: it has had the writes' : TAKE_OFF),
    undo: () => onceGreenIsKnown(story, ref, () => actBounded('compensate: remove the fence').removeFence(ref)),
  };
}
