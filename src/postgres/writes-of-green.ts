import { asActor } from './ownership.js';
import { readDecisionAsActor } from './promotion-decision.js';
import type { Databases } from './session.js';

/** What green's own row says of the writes: that it has them, has given them to blue, or was never opened for them. */
export type WritesOfGreen = 'has them' | 'gave them away' | 'not opened';

/**
 * Asked before a way back is given up: where green has given the writes away, or was not opened yet, nobody would take
 * them. Only green's row knows that. Whoever decides holds the actor's lock, so with it no COMMIT is on its way, and the
 * session of a worker that is frozen in a try is ended.
 *
 * @param epoch the one in which green has got the writes
 */
export async function writesOfGreen(databases: Databases, migration: string, epoch: number): Promise<WritesOfGreen> {
  return asActor(databases.green, 'does green have the writes', async (green) => {
    const { decided, epoch: now } = await readDecisionAsActor(green, migration, 'green');
    if (!decided) return 'has them';
    return now > epoch ? 'gave them away' : 'not opened';
  });
}
