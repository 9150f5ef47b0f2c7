import { setTimeout as sleep } from 'node:timers/promises';
import { signedPost, type Delivery, type Webhook } from '../notify/signed-post.js';
import { readAnswer, type Answer } from './answer.js';

/** How a call has ended. */
export type Followed =
  | { readonly outcome: 'done' }
  /** `refused`: the receiver does not want to. `failed`: a person must mend something. `late`: not followed in time. */
  | { readonly outcome: 'refused' | 'failed' | 'late'; readonly why: string };

export interface CallLimits {
  /** Whether a refusal and an error that does not pass end it. Otherwise they are tried again like everything else. */
  readonly mayRefuse: boolean;
  /** For one request. */
  readonly timeoutMs: number;
  /** For all tries; counted from the beginning of this process's part of it. At least one is made. */
  readonly forMs: number;
}

export interface Pauses {
  /** The first wait after something that may pass; each is twice as long as the one before. */
  readonly firstMs: number;
  readonly longestMs: number;
  /** Between two questions whether what was accepted is effective, where the receiver does not say. */
  readonly pollMs: number;
  /** What a receiver may ask for with `Retry-After`: one that says 0 is not asked in a busy loop, one that says a day is asked sooner. */
  readonly leastMs: number;
}

export const PAUSES: Pauses = { firstMs: 500, longestMs: 30_000, pollMs: 2_000, leastMs: 200 };

/**
 * Calls a webhook until it has followed. It may be sent again after an answer that was lost: the key tells.
 *
 * @param onWait is told why it is tried again
 */
export async function untilFollowed(
  webhook: Webhook,
  delivery: Delivery,
  limits: CallLimits,
  signal: AbortSignal,
  onWait: (why: string) => void = () => undefined,
  pauses: Pauses = PAUSES,
): Promise<Followed> {
  const deadline = performance.now() + limits.forMs;
  let pause = pauses.firstMs;
  for (;;) {
    const answer = await callOnce(webhook, delivery, limits, signal);
    signal.throwIfAborted();
    if (answer.is === 'done') return { outcome: 'done' };
    if (limits.mayRefuse && (answer.is === 'refused' || answer.is === 'failed')) {
      return { outcome: answer.is, why: answer.why };
    }
    const why = whyOf(answer);
    const accepted = answer.is === 'accepted';
    const asked = 'retryAfterMs' in answer ? answer.retryAfterMs : null;
    const wait = Math.min(Math.max(asked ?? (accepted ? pauses.pollMs : pause), pauses.leastMs), pauses.longestMs);
    if (performance.now() + wait > deadline) return { outcome: 'late', why };
    onWait(why);
    await sleep(wait, undefined, { signal });
    // What was accepted shows that the receiver is well: what comes after is a new trouble.
    pause = accepted ? pauses.firstMs : Math.min(pause * 2, pauses.longestMs);
  }
}

async function callOnce(
  webhook: Webhook,
  delivery: Delivery,
  { timeoutMs, mayRefuse }: CallLimits,
  signal: AbortSignal,
): Promise<Answer> {
  const answer = await signedPost(webhook, delivery, timeoutMs, signal, (response) => readAnswer(response, mayRefuse));
  return 'unanswered' in answer ? { is: 'again', why: answer.unanswered, retryAfterMs: null } : answer;
}

function whyOf(answer: Exclude<Answer, { is: 'done' }>): string {
  if (answer.is === 'accepted') return 'it has accepted the call (202), which is not effective yet';
  return answer.is === 'refused' ? `it refuses what can't be refused: ${answer.why}` : answer.why;
}
