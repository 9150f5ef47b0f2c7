import { ApplicationFailure, Context } from '@temporalio/activity';
import { VerdigrisError } from '../src/errors.js';
import { promotionBlocked } from '../src/postgres/hold.js';
import { PoolerAwaited, PoolerTaken } from '../src/postgres/pools.js';
import type { Redact } from '../src/worker/redact.js';
import { isNoAccess, tellThatItWaits } from './context.js';
import { onThisMachine } from './temporal-clock.js';

/*
 * The gates are not watched while a promotion is tried. So what it lacks is waited for until `notAfter` (ISO 8601), as long
 * as it is tried at all, and then left to the run, which goes on with it while it watches the gates.
 */

const LEFT = new WeakMap<Context, Promise<number>>();

/**
 * How long it is tried yet, ms, by the first look of an attempt: what gives its tries up and what ends it must agree on whether
 * another attempt follows.
 */
function msLeft(notAfter: string): Promise<number> {
  const attempt = Context.current();
  const known = LEFT.get(attempt);
  if (known !== undefined) return known;
  const left = onThisMachine(notAfter).then(({ at }) => at - performance.now());
  LEFT.set(attempt, left);
  // Temporal may answer the next time.
  left.catch(() => LEFT.delete(attempt));
  return left;
}

/** What its worker lacks, such as a connection. Whether an earlier try has decided is asked by whoever hears of it. */
export async function waitsUntil(error: VerdigrisError, notAfter: string | undefined): Promise<VerdigrisError> {
  if (notAfter === undefined) return error.tryingAgain();
  if ((await msLeft(notAfter)) >= 0) return error.tryingAgain();
  return promotionBlocked(`it could not begin before ${notAfter}: ${error.what}; ${error.nextStep}`);
}

/** A pooler that is away is asked again after so long, ms: a restart takes a second or two. */
const POOLER_AGAIN_MS = 1_000;
/** And one that another promotion is at, ms: between these, so that two that have met there do not meet again. */
const TURN_AGAIN_MS = [200, 1_000] as const;

/**
 * A pooler that is away, or that another promotion is at, before anybody waits: the status says so. Each look judges the
 * gates and the route anew.
 */
export async function awaited(
  error: unknown,
  signal: AbortSignal,
  redact: Redact,
  notAfter: string | undefined,
): Promise<unknown> {
  if (notAfter === undefined || !(error instanceof PoolerAwaited)) return releasedUntil(error, notAfter);
  const why = error.cause instanceof VerdigrisError ? error.cause : error;
  const [from, to] = TURN_AGAIN_MS;
  const restMs = error instanceof PoolerTaken ? Math.round(from + Math.random() * (to - from)) : POOLER_AGAIN_MS;
  // The last one to know what is in the way says it.
  if ((await msLeft(notAfter)) < POOLER_AGAIN_MS) {
    return promotionBlocked(`it could not begin before ${notAfter}: ${why.what}`);
  }
  if (signal.aborted) return why.tryingAgain();
  const message = redact(why.message);
  tellThatItWaits('a pooler', message);
  return ApplicationFailure.create({ type: why.type, message, nonRetryable: false, nextRetryDelay: restMs });
}

/** Whether the next attempt tries again after it, as `awaited` and `waitsUntil` have it: then its tries are not over. */
export async function isAwaited(error: unknown, notAfter: string | undefined): Promise<boolean> {
  const isPooler = error instanceof PoolerAwaited;
  if (!isPooler && !isNoAccess(error)) return false;
  if (notAfter === undefined) return !isPooler;
  return (await msLeft(notAfter)) >= (isPooler ? POOLER_AGAIN_MS : 0);
}

/** A pooler that is out of reach while its clients may wait. */
async function releasedUntil(error: unknown, notAfter: string | undefined): Promise<unknown> {
  if (notAfter === undefined || !(error instanceof VerdigrisError) || error.type !== 'PoolNotReleased') return error;
  return (await msLeft(notAfter)) >= 0 ? error : error.asLastWord();
}
