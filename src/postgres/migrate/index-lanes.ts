import { closeSession } from '../session.js';
import { giveIndexMemory, type IndexSettings } from './index-settings.js';
import type { StepContext } from './step-context.js';

/**
 * Works off pieces in their order, `settings.parallel` at a time, each lane on a session of its own that has the memory
 * for building indexes and waits for locks as long as it takes. The first piece that fails ends the others at once.
 *
 * @throws the error of that piece.
 */
export async function inLanes<Piece>(
  context: StepContext,
  purpose: string,
  settings: IndexSettings,
  pieces: readonly Piece[],
  work: (context: StepContext, piece: Piece) => Promise<void>,
): Promise<void> {
  const left = [...pieces];
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  const lane = async (number: number): Promise<void> => {
    const session = await context.connect(`${purpose} ${number}`);
    try {
      await session.query(`SELECT set_config('lock_timeout', '0', false)`);
      await giveIndexMemory(session, settings);
      for (let piece = left.shift(); piece !== undefined; piece = left.shift()) {
        signal.throwIfAborted();
        await work({ ...context, session, signal }, piece);
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
}
