import { VerdigrisError } from '../errors.js';
import type { Session } from './session.js';
import { FENCE_OPEN } from './state.js';
import { standbyAwaited, WITHOUT_STANDBY } from './synchronous-standbys.js';

/**
 * The flag of the fence is not under MVCC: a side whose COMMIT of its opening waits for a synchronous standby lets writers in,
 * and they wait at their own.
 *
 * @param to the session that opens it, and has no answer
 * @returns NotOpened (retryable), in other words than for a side that is closed; undefined where it waits for no standby
 */
export async function openButWaiting(to: Session, epoch: number): Promise<VerdigrisError | undefined> {
  const standby = await standbyAwaited(to, IS_OPEN_AND_WAITS);
  if (standby === undefined) return undefined;
  return new VerdigrisError({
    type: 'NotOpened',
    message: `the new side is open for epoch ${epoch}, but commits there wait for ${standby}, also those of the application: bring that standby back, or on the new side: ${WITHOUT_STANDBY}`,
    nextStep: 'that alone: it is tried again',
    retryable: true,
    details: { isOpen: true },
  });
}

/** For longer than a standby takes to answer. It may be the session of another one that opens it, whose lock ours has met. */
const IS_OPEN_AND_WAITS = `a.datname = current_database() AND a.query_start < clock_timestamp() - interval '2 s'
         AND (SELECT last_value FROM verdigris.fence) = ${FENCE_OPEN}`;
