import { createHmac } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

/** Where notices go. */
export interface Webhook {
  readonly url: string;
  /** What the body is signed with; null sends it unsigned. */
  readonly secret: string | null;
}

/** One request: the same key whenever it is sent again. */
export interface Delivery {
  readonly key: string;
  readonly body: string;
}

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
  giveUpAfterMs: 600_000,
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
 * again, so it may arrive twice; the key tells. A redirect is not followed: what is signed for one receiver is not for another.
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
  const timeout = AbortSignal.timeout(timeoutMs);
  try {
    const response = await fetch(webhook.url, {
      method: 'POST',
      redirect: 'manual',
      signal: AbortSignal.any([signal, timeout]),
      headers: {
        'content-type': 'application/json',
        'user-agent': 'verdigris',
        'idempotency-key': delivery.key,
        ...(webhook.secret === null
          ? {}
          : { 'x-verdigris-signature': sign(delivery.body, webhook.secret, Date.now()) }),
      },
      body: delivery.body,
    });
    // What it says is nobody's concern, but a connection whose answer is not read is never used again.
    await response.body?.cancel();
    if (response.ok) return null;
    return response.status >= 300 && response.status < 400
      ? `it answers with a redirect (${response.status}), which is not followed`
      : `it answers ${response.status}`;
  } catch (error) {
    return timeout.aborted ? `no answer within ${timeoutMs / 1_000} s` : `it can't be reached (${codeOf(error)})`;
  }
}

/** `t=<seconds>,v1=<HMAC-SHA256 of "<seconds>.<body>">`: the time keeps an old request from being played again. */
export function sign(body: string, secret: string, now: number): string {
  const seconds = Math.floor(now / 1_000);
  return `t=${seconds},v1=${createHmac('sha256', secret).update(`${seconds}.${body}`).digest('hex')}`;
}

/** The code alone: messages of network errors may hold the address. */
function codeOf(error: unknown): string {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if ('code' in cause && typeof cause.code === 'string') return cause.code;
  }
  return error instanceof Error ? error.name : 'unknown';
}
