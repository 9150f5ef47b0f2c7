import { setTimeout as sleep } from 'node:timers/promises';
import { answerWithin } from '../timing.js';
import { VerdigrisError } from '../errors.js';
import { firstLine } from '../failure-text.js';
import { sqlState } from './sqlstate.js';
import { closeSession, type Session } from './session.js';

/** Longer than any look takes: a connection on which nothing comes back is lost. */
const LOOK_WITHIN_MS = 3_000;
/** After a look that failed. */
const LOOK_AGAIN_MS = 250;
/** So long ours may go on unseen: whoever waits for it then waits without a limit. */
const MAX_BLIND_MS = 5_000;

/** That nobody could look on for too long while ours ran. */
export interface Unseen {
  /** Why not, in words. */
  readonly why: string;
  /** Whether ours was stopped for it, from a session of its own; where none could be opened, it goes on. */
  readonly stopped: boolean;
}

export interface Lookout {
  readonly connect: () => Promise<Session>;
  /** One look. @returns how long to wait for the next one, ms */
  readonly look: (session: Session) => Promise<number>;
  /** Stops ours. Null: nobody else uses what it locks, so it may go on unseen. */
  readonly stop: ((session: Session) => Promise<unknown>) | null;
  /** Default MAX_BLIND_MS. */
  readonly maxBlindMs?: number | undefined;
}

/**
 * Looks on with a session of its own until it is over, through whatever becomes of that session. Where nobody can look for
 * too long, ours is stopped. Never throws.
 *
 * @param session one that is open already; the one that is open at the end is returned, to be used again or closed
 */
export async function keepLooking(
  over: AbortSignal,
  { connect, look, stop, maxBlindMs = MAX_BLIND_MS }: Lookout,
  session?: Session,
): Promise<{ readonly session: Session | undefined; readonly unseen?: Unseen }> {
  let blindSince: number | null = null;
  let unseen: Unseen | undefined;
  while (!over.aborted) {
    let pause = LOOK_AGAIN_MS;
    try {
      session ??= await connect();
      if (over.aborted) break;
      pause = await answerWithin(LOOK_WITHIN_MS, look(session), () => new Error('no answer'));
      blindSince = null;
    } catch (error) {
      if (isOver(over)) break;
      if (session !== undefined) void closeSession(session);
      session = undefined;
      blindSince ??= performance.now();
      const blindMs = performance.now() - blindSince;
      if (stop !== null && blindMs >= maxBlindMs && unseen?.stopped !== true) {
        const stopped = await stopUnseen(connect, stop, over);
        // Stopped, it is over by now.
        if (!stopped && isOver(over)) break;
        unseen = { why: `for ${(blindMs / 1_000).toFixed(1)} s nobody could look on (${codeOf(error)})`, stopped };
      }
    }
    await sleep(pause, undefined, { signal: over }).catch(() => undefined);
  }
  return { session, ...(unseen === undefined ? {} : { unseen }) };
}

/** By a session of its own: the one that looked is gone, or answers nothing. */
async function stopUnseen(
  connect: Lookout['connect'],
  stop: NonNullable<Lookout['stop']>,
  over: AbortSignal,
): Promise<boolean> {
  try {
    const session = await connect();
    try {
      if (isOver(over)) return false;
      await answerWithin(LOOK_WITHIN_MS, stop(session), () => new Error('no answer'));
      return true;
    } finally {
      void closeSession(session);
    }
  } catch {
    return false;
  }
}

/** For people: no address. */
function codeOf(error: unknown): string {
  if (error instanceof VerdigrisError) return firstLine(error.message);
  return sqlState(error) ?? (error instanceof Error ? error.message : 'unknown');
}

/** Asked anew after each wait. */
function isOver(signal: AbortSignal): boolean {
  return signal.aborted;
}
