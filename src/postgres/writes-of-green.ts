import { endTries, type Tries } from './ended-tries.js';
import { asActor } from './ownership.js';
import { readDecisionAsActor } from './promotion-decision.js';
import type { Databases } from './session.js';

/** What green's own row says of the writes: that it has them, has given them to blue, or was never opened for them. */
export type WritesOfGreen = 'has them' | 'gave them away' | 'not opened';

/**
 * Asked before a way back is given up: where green has given the writes away, or was not opened yet, nobody would take
 * them. Only green's row knows that. Whoever decides holds the actor's lock, so with it no COMMIT is on its way, and the
 * session of a worker that is frozen in a try is ended. One that is cut off from Temporal may be before its first try, or
 * between two: it begins none any more once green has said that it has the writes.
 *
 * @param epoch the one in which green has got the writes
 * @param tries those that are over. Default: none
 */
export async function writesOfGreen(
  databases: Databases,
  migration: string,
  epoch: number,
  tries?: Tries,
): Promise<WritesOfGreen> {
  return asActor(databases.green, 'does green have the writes', async (green) => {
    const { decided, epoch: now } = await readDecisionAsActor(green, migration, 'green');
    if (!decided && tries !== undefined) await endTries(green, tries);
    if (!decided) return 'has them';
    return now > epoch ? 'gave them away' : 'not opened';
  });
}
