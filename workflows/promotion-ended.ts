import type { RestartedDetails } from '../src/postgres/promotion-readiness.js';
import { failureDetails, failureMessage, failureType, isCancelled } from './lib/failure.js';

/**
 * What has ended the tries; where it is not the promotion, nothing has happened, and nobody need remove anything before the
 * next ones. A gate of the last stage had failed before they could begin; the clients of poolers may still wait; a partition
 * may have been emptied since rows were compared, or a server started anew; its window or its approval is over.
 */
export type Ended =
  | 'promoted'
  | { readonly by: 'gate' }
  | { readonly by: 'poolers' | 'emptied' | 'restarted' | 'time'; readonly why: string };

export async function endedBy(move: () => Promise<unknown>): Promise<Ended> {
  try {
    await move();
    return 'promoted';
  } catch (error) {
    const type = failureType(error);
    if (type === 'GateFailed') return { by: 'gate' };
    if (type === 'PartitionEmptied') return { by: 'emptied', why: failureMessage(error) };
    if (isOfRestarted(error)) return { by: 'restarted', why: failureMessage(error) };
    if (type === 'PoolNotReleased' && !isCancelled(error)) return { by: 'poolers', why: failureMessage(error) };
    throw error;
  }
}

/** Whether something stood in the way of all tries, which somebody is to remove before the promotion is approved again. */
export function isBlocked(error: unknown): boolean {
  return ['PromotionBlocked', 'FenceTampered'].includes(failureType(error) ?? '') || isOfOtherServer(error);
}

/** Whether a side was failed over or restored since rows were compared. */
export function isOfOtherServer(error: unknown): boolean {
  return failureType(error) === 'ServerReplaced';
}

/** Whether that may be the same server as before, with all its rows. */
function isOfRestarted(error: unknown): boolean {
  return isOfOtherServer(error) && failureDetails<Partial<RestartedDetails>>(error)?.isRestarted === true;
}
