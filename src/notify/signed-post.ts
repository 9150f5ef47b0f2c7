import { createHmac } from 'node:crypto';

/** Where requests go. */
export interface Webhook {
  /** Without user and password: fetch refuses an address that has them. */
  readonly url: string;
  /** The header Authorization, where the receiver takes one. */
  readonly authorization?: string;
  /** What the body is signed with; null sends it unsigned. */
  readonly secret: string | null;
}

/** One request: the same key whenever it is sent again. */
export interface Delivery {
  readonly key: string;
  readonly body: string;
}

/**
 * Sends a request once, signed. A redirect is not followed: what is signed for one receiver is not for another.
 *
 * @param read takes what is wanted from the answer, its body included, in the same time
 * @returns what `read` has made; or why there was no answer, without the address
 */
export async function signedPost<T>(
  webhook: Webhook,
  delivery: Delivery,
  timeoutMs: number,
  signal: AbortSignal,
  read: (response: Response) => Promise<T>,
): Promise<T | { readonly unanswered: string }> {
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
        ...(webhook.authorization === undefined ? {} : { authorization: webhook.authorization }),
        ...(webhook.secret === null
          ? {}
          : { 'x-verdigris-signature': sign(delivery.body, webhook.secret, Date.now()) }),
      },
      body: delivery.body,
    });
    const taken = await read(response);
    // A connection whose answer is not read is never used again.
    if (!response.bodyUsed) await response.body?.cancel();
    return taken;
  } catch (error) {
    return {
      unanswered: timeout.aborted
        ? `no answer within ${timeoutMs / 1_000} s`
        : `it can't be reached (${codeOf(error)})`,
    };
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
