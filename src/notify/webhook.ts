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

/** A request, and what is sent in its place where a receiver refuses what it says. */
export interface Message extends Delivery {
  /** Says little enough for any receiver. Default: there is nothing else to send. */
  readonly short?: string;
}

export interface Delivered {
  readonly undelivered: number;
  /** Why the first of them did not arrive, without the address; empty when all did. */
  readonly why: string;
  /** Those that were taken in their short form alone; left out where there are none. */
  readonly shortened?: readonly { readonly key: string; readonly why: string }[];
}

/**
 * Answers about what a request says: too large, not understood, refused by a firewall that reads along. The same text is
 * refused for good, and all that comes after it would wait.
 */
const OF_CONTENTS: readonly number[] = [400, 403, 413, 415, 422];
/** The first may have been an accident on the way. */
const REFUSALS = 2;

/**
 * Sends messages one after another: the next one when the one before has been taken (2xx). What is not taken is sent
 * again, so it may arrive twice; the key tells. One that is refused again for what it says is sent in its short form: a receiver that
 * takes no such form either refuses everything, and nothing is left out for it.
 */
export async function deliver(
  webhook: Webhook,
  messages: readonly Message[],
  limits: DeliveryLimits,
  signal: AbortSignal,
): Promise<Delivered> {
  const deadline = performance.now() + limits.giveUpAfterMs;
  const shortened: { key: string; why: string }[] = [];
  for (const [i, message] of messages.entries()) {
    const { isTaken, refusal } = await deliverOne(webhook, message, { ...limits, deadline }, signal);
    if (!isTaken) return { undelivered: messages.length - i, why: refusal ?? '', ...told(shortened) };
    if (refusal !== undefined) shortened.push({ key: message.key, why: refusal });
  }
  return { undelivered: 0, why: '', ...told(shortened) };
}

function told(shortened: NonNullable<Delivered['shortened']>): Pick<Delivered, 'shortened'> {
  return shortened.length === 0 ? {} : { shortened };
}

/** @returns why it was not taken, or not as a whole */
async function deliverOne(
  webhook: Webhook,
  { key, body, short }: Message,
  limits: DeliveryLimits & { readonly deadline: number },
  signal: AbortSignal,
): Promise<{ readonly isTaken: boolean; readonly refusal?: string }> {
  const sent = async (text: string): Promise<Failure | null> => {
    const failure = await send(webhook, { key, body: text }, limits.timeoutMs, signal);
    signal.throwIfAborted();
    return failure;
  };
  let pause = limits.firstPauseMs;
  let refusals = 0;
  for (;;) {
    const failure = await sent(body);
    if (failure === null) return { isTaken: true };
    refusals += failure.isOfContents ? 1 : 0;
    const isRefused = failure.isOfContents && refusals === REFUSALS && short !== undefined;
    if (isRefused && (await sent(short)) === null) return { isTaken: true, refusal: failure.why };
    if (performance.now() + pause > limits.deadline) return { isTaken: false, refusal: failure.why };
    await sleep(pause, undefined, { signal });
    pause = Math.min(pause * 2, limits.longestPauseMs);
  }
}

interface Failure {
  readonly why: string;
  readonly isOfContents: boolean;
}

async function send(
  webhook: Webhook,
  delivery: Delivery,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Failure | null> {
  // What it says is nobody's concern.
  const answer = await signedPost(webhook, delivery, timeoutMs, signal, ({ ok, status }) =>
    Promise.resolve({ ok, status }),
  );
  if ('unanswered' in answer) return { why: answer.unanswered, isOfContents: false };
  const { ok, status } = answer;
  if (ok) return null;
  const isRedirect = status >= 300 && status < 400;
  const why = `it answers ${isRedirect ? `with a redirect (${status}), which is not followed` : status}`;
  return { why, isOfContents: OF_CONTENTS.includes(status) };
}
