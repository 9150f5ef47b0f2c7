import { setTimeout as sleep } from 'node:timers/promises';
import type { Session } from '../session.js';
import { closeSession, serverProcess } from '../session.js';

/** How far a step is: what heartbeats and logs show. */
export interface Progress {
  /** `copy`, `expand`, `backfill`, `index`, `constraint`, `notNull`, `sql`, `analyze`, `verify`, `revert`. */
  readonly step: string;
  /** The table, index or named step, as people write it. */
  readonly object: string;
  /** In rows where a step reads or writes rows, else in the step's own units (blocks, statements). */
  readonly done: number;
  readonly total: number;
  readonly rowsPerSecond: number;
  /** Where bytes are known: how many have been moved or read, and how many a second. */
  readonly bytes?: number;
  readonly bytesPerSecond?: number;
  /** Null while it can't be said. */
  readonly etaSeconds: number | null;
  /** What it waits for, where it waits. */
  readonly note?: string;
}

/** Progress of work that stands, or of which no figure is known: why, in words. */
export function noted(step: string, object: string, note: string): Progress {
  return { step, object, done: 0, total: 0, rowsPerSecond: 0, etaSeconds: null, note };
}

export type OnProgress = (progress: Progress) => void;

/** What every step works with. */
export interface StepContext {
  /** Names the run's rows in verdigris.progress. */
  readonly runId: string;
  /** An open session on the database that is changed. */
  readonly session: Session;
  /** Opens another session on the same database: for parallel work, to watch a statement, to cancel it. */
  readonly connect: (purpose: string) => Promise<Session>;
  readonly signal: AbortSignal;
  readonly onProgress: OnProgress;
  /**
   * Asked before each piece of work of another session than `session`: see joinStep(). Default: no other attempt is there
   */
  readonly join?: (beside: Session) => Promise<void>;
}

/**
 * Runs statements that end when the signal is aborted: node-postgres can't take a statement back, so the server is
 * told to cancel it, from a session of its own.
 *
 * @throws the signal's reason when it is aborted.
 */
export async function cancellable<T>(
  context: Pick<StepContext, 'connect' | 'signal'>,
  session: Session,
  work: () => Promise<T>,
): Promise<T> {
  const { signal } = context;
  signal.throwIfAborted();
  const pid = backendPid(session);
  let over = false;
  let cancelling: Promise<void> | undefined;
  const cancel = (): void => {
    cancelling = cancelUntil(context.connect, pid, () => over).catch(() => undefined);
  };
  signal.addEventListener('abort', cancel, { once: true });
  try {
    return await work();
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    over = true;
    signal.removeEventListener('abort', cancel);
    await cancelling;
  }
}

/** Cancels again and again: a cancel that arrives between two statements is lost. */
async function cancelUntil(connect: StepContext['connect'], pid: number, over: () => boolean): Promise<void> {
  const session = await connect('cancel');
  try {
    while (!over()) {
      await session.query('SELECT pg_cancel_backend($1)', [pid]);
      await sleep(50);
    }
  } finally {
    await closeSession(session);
  }
}

/** The server's process of a session. */
export const backendPid = serverProcess;

/** Rows a second and the time that is left, from what has been done since it was made. */
export class RateMeter {
  private readonly started = performance.now();
  private readonly first: number;

  constructor(alreadyDone: number) {
    this.first = alreadyDone;
  }

  rates(done: number, total: number): { rowsPerSecond: number; etaSeconds: number | null } {
    const seconds = (performance.now() - this.started) / 1_000;
    const perSecond = seconds > 0 ? (done - this.first) / seconds : 0;
    return {
      rowsPerSecond: Math.round(perSecond),
      etaSeconds: perSecond > 0 ? Math.round(Math.max(0, total - done) / perSecond) : null,
    };
  }
}
