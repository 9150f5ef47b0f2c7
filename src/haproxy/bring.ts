import { VerdigrisError } from '../errors.js';
import { reasonOf } from '../failure-text.js';
import type { Haproxies, Haproxy } from './haproxy.js';
import { Instance } from './instance.js';
import type { ShareReader } from './share.js';

/** A share that was read longer ago is read again before HAProxy is told: the worker may have been frozen since. */
const FRESH_MS = 2_500;

/** How one HAProxy was brought to the share in force. */
export interface Brought {
  readonly percent: number;
  /** It had other weights before: it is told for the first time, or it has been restarted since. */
  readonly wasOther: boolean;
  /** Of the share: see Share. */
  readonly stamp: string;
}

/** One that had other weights than those of the share in force. */
export interface HadOthers {
  readonly connection: string;
  readonly stamp: string;
}

/**
 * Brings one HAProxy to the share in force, and reads that again when it is done: a route that another worker changed in
 * between is followed too, so the last one to write leaves the last share, whoever it is. When green shall have none,
 * the connections to it that are there are ended, as the plan says.
 *
 * @throws VerdigrisError ConnectionFailed, WeightsNotSet
 */
export async function bring(setup: Haproxies, haproxy: Haproxy, share: ShareReader): Promise<Brought> {
  const instance = new Instance(haproxy, setup);
  let wasOther = false;
  for (;;) {
    // From before the question: the answer may have waited in a worker that was frozen.
    const readAt = performance.now();
    const { percent, stamp } = await share();
    const done = await instance.share(percent, () => performance.now() - readAt < FRESH_MS);
    if (done === 'overtaken') continue;
    wasOther ||= done === 'set';
    if ((await share()).stamp !== stamp) continue;
    if (percent === 0 && setup.openConnections === 'cut') await instance.cut('green');
    return { percent, wasOther, stamp };
  }
}

/**
 * All of them, beside each other: one that is slow or out of reach keeps no other waiting.
 *
 * @returns those that had other weights
 * @throws VerdigrisError WeightsNotSet, which names each that has not got there
 */
export async function bringAll(setup: Haproxies, share: ShareReader): Promise<HadOthers[]> {
  const results = await Promise.allSettled(setup.instances.map((haproxy) => bring(setup, haproxy, share)));
  const reasons = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
  if (reasons.length > 0) throw notAll(reasons);
  return setup.instances.flatMap(({ connection }, i) => {
    const result = results[i];
    return result?.status === 'fulfilled' && result.value.wasOther ? [{ connection, stamp: result.value.stamp }] : [];
  });
}

/** One error for several: what each has said. */
export function notAll(reasons: readonly unknown[]): VerdigrisError {
  return new VerdigrisError({
    type: 'WeightsNotSet',
    message: reasons.map(reasonOf).join('; '),
    nextStep: 'mend what they say; what is tried again goes on by itself: docs/haproxy.md',
    retryable: true,
    cause: reasons[0],
  });
}
