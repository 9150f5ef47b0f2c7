import { VerdigrisError } from '../../errors.js';
import { closeSession } from '../session.js';
import { CANCELED, sqlState } from '../sqlstate.js';
import { giveIndexMemory, type IndexSettings } from './index-settings.js';
import type { StepContext } from './step-context.js';
import { StepTakenOver } from './step-lock.js';

/**
 * Works off pieces in their order, `settings.parallel` at a time, each lane on a session of its own that has the memory
 * for building indexes and waits for locks as long as it takes. The first piece that fails ends the others at once; one
 * that has given way to others of the server, or to another attempt of the step, does not: what the other lanes have built
 * for hours would be lost with it.
 *
 * @throws the error of that piece; of the first that gave way, when all others are done.
 */
export async function inLanes<Piece>(
  context: StepContext,
  purpose: string,
  settings: IndexSettings,
  pieces: readonly Piece[],
  work: (context: StepContext, piece: Piece) => Promise<void>,
): Promise<void> {
  const left = [...pieces];
  const gaveWay: unknown[] = [];
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  const lane = async (number: number): Promise<void> => {
    const session = await context.connect(`${purpose} ${number}`);
    try {
      await session.query(`SELECT set_config('lock_timeout', '0', false)`);
      await giveIndexMemory(session, settings);
      for (let piece = left.shift(); piece !== undefined; piece = left.shift()) {
        signal.throwIfAborted();
        try {
          await context.join?.(session);
          await work({ ...context, session, signal }, piece);
        } catch (error) {
          if (error instanceof StepTakenOver) left.length = 0;
          else if (!hasGivenWay(error)) throw error;
          gaveWay.push(error);
        }
      }
    } finally {
      await closeSession(session);
    }
  };
  const lanes = Array.from({ length: Math.min(settings.parallel, pieces.length) }, (_, i) =>
    lane(i + 1).catch((error: unknown) => {
      // The first failure decides; what still runs is ended and left for the next try to clear away.
      stop.abort(error);
      throw error;
    }),
  );
  const outcomes = await Promise.allSettled(lanes);
  context.signal.throwIfAborted();
  if (outcomes.some(({ status }) => status === 'rejected')) throw stop.signal.reason;
  if (gaveWay.length > 0) throw gaveWay[0];
}

function hasGivenWay(error: unknown): boolean {
  return error instanceof VerdigrisError && error.retryable && sqlState(error.cause) === CANCELED;
}
