import { setTimeout as sleep } from 'node:timers/promises';
import { signedPost, type Delivery, type Webhook } from './signed-post.js';

export interface DeliveryLimits {
  /** For one request. */
  readonly timeoutMs: number;
  /** For all deliveries together; what has not arrived by then is given up. */
  readonly giveUpAfterMs: number;
  /** The first wait between two tries; each is twice as long as the one before, up to `longestPauseMs`. */
  readonly firstPauseMs: number;
  readonly longestPauseMs: number;
}

export const DELIVERY_LIMITS: DeliveryLimits = {
  timeoutMs: 10_000,
  giveUpAfterMs: 60_000,
  firstPauseMs: 1_000,
  longestPauseMs: 60_000,
};

export interface Delivered {
  readonly undelivered: number;
  /** Why the first of them did not arrive, without the address; empty when all did. */
  readonly why: string;
}

/**
 * Sends deliveries one after another: the next one when the one before has been taken (2xx). What is not taken is sent
 * again, so it may arrive twice; the key tells.
 */
export async function deliver(
  webhook: Webhook,
  deliveries: readonly Delivery[],
  limits: DeliveryLimits,
  signal: AbortSignal,
): Promise<Delivered> {
  const deadline = performance.now() + limits.giveUpAfterMs;
  for (const [i, delivery] of deliveries.entries()) {
    let pause = limits.firstPauseMs;
    for (;;) {
      const failure = await send(webhook, delivery, limits.timeoutMs, signal);
      signal.throwIfAborted();
      if (failure === null) break;
      if (performance.now() + pause > deadline) return { undelivered: deliveries.length - i, why: failure };
      await sleep(pause, undefined, { signal });
      pause = Math.min(pause * 2, limits.longestPauseMs);
    }
  }
  return { undelivered: 0, why: '' };
}

async function send(
  webhook: Webhook,
  delivery: Delivery,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<string | null> {
  // What it says is nobody's concern.
  const answer = await signedPost(webhook, delivery, timeoutMs, signal, ({ ok, status }) =>
    Promise.resolve({ ok, status }),
  );
  if ('unanswered' in answer) return answer.unanswered;
  if (answer.ok) return null;
  return answer.status >= 300 && answer.status < 400
    ? `it answers with a redirect (${answer.status}), which is not followed`
    : `it answers ${answer.status}`;
}
