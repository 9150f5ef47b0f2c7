import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../errors.js';
import {
  blockersOf,
  describeBlockers,
  describeHeldUp,
  heldUpBy,
  somebodyWaits,
  type Blocker,
  type HeldUp,
  type Ours,
} from './blockers.js';
import { keepLooking, type Unseen } from './keep-looking.js';
import { closeSession, type Session } from './session.js';
import { CANCELED, LOCK_NOT_AVAILABLE, sqlState } from './sqlstate.js';

/**
 * How long a session of the application may wait for a statement of ours, whatever it does: then ours is cancelled.
 * Whoever waits for an exclusive lock keeps everybody who comes after waiting, so this is how long a table may stand still.
 */
export const MAX_BLOCKING_MS = 2_000;

/** A statement that is over by then is not looked at: nearly all. */
const FIRST_LOOK_MS = 200;
/** While ours waits, so that whoever is in its way is seen before it gives up. */
const LOOK_WAITING_MS = 50;
/** pg_blocking_pids() stops the lock manager for a moment, so one that only runs is looked at less often. */
const LOOK_MS = 250;

/** Who stood in whose way while a statement of ours ran. */
export interface Encounter {
  /** Whom ours waited for, as seen last. */
  readonly waitedFor: readonly Blocker[];
  /** Who waited for ours too long: ours was cancelled. Empty where it was not. */
  readonly heldUp: readonly HeldUp[];
  /** That nobody could look on, and ours may have been stopped for it. */
  readonly unseen?: Unseen;
}

export interface LockWatchOptions {
  /** Opens the session that looks on. */
  readonly connect: () => Promise<Session>;
  readonly ours: Ours;
  /** Default MAX_BLOCKING_MS. Null: nobody else uses what is locked. */
  readonly maxBlockingMs?: number | null;
  /** Whether the worker of a feed counts as somebody who must not wait. Default false. */
  readonly feeds?: boolean;
  /**
   * How ours is stopped. `cancel` ends the statement (default); `terminate` the session: where a transaction holds its
   * locks between two statements, a cancel would find nothing to cancel.
   */
  readonly stop?: 'cancel' | 'terminate';
  /** Told whom ours waits for, each time that somebody looks. */
  readonly onWait?: (waitsFor: readonly Blocker[]) => void;
  /** How long ours may go on while nobody can look, ms. Default 5 s. */
  readonly maxBlindMs?: number;
}

/** Looks on while sessions of ours take locks, and stops them when they hold up the application. */
export class LockWatch {
  private session: Session | undefined;
  /** Whether somebody was in the way of the last try, seen or not: then the next one is looked at from its beginning. */
  private expects = false;

  constructor(private readonly options: LockWatchOptions) {}

  /** Runs `work` and says how it ended and who was met; never throws. */
  async during<T>(work: () => Promise<T>): Promise<{ result: PromiseSettledResult<T>; met: Encounter }> {
    const over = new AbortController();
    const watching = this.watch(over.signal);
    const [result] = await Promise.allSettled([work()]);
    over.abort();
    const met = await watching;
    this.expects ||= result.status === 'rejected' && sqlState(result.reason) === LOCK_NOT_AVAILABLE;
    return { result, met };
  }

  async close(): Promise<void> {
    if (this.session !== undefined) await closeSession(this.session);
    this.session = undefined;
  }

  /** Never throws, since it only looks on: what it can't see, the statement itself reports. */
  private async watch(over: AbortSignal): Promise<Encounter> {
    let waitedFor: Blocker[] = [];
    let heldUp: HeldUp[] = [];
    const limit = this.options.maxBlockingMs === undefined ? MAX_BLOCKING_MS : this.options.maxBlockingMs;
    const look = async (session: Session): Promise<number> => {
      const lookAgain = Math.min(LOOK_MS, (limit ?? LOOK_MS) / 2);
      if (!(await somebodyWaits(session))) return this.expects ? LOOK_WAITING_MS : lookAgain;
      const now = await blockersOf(session, this.options.ours);
      if (now.length > 0) {
        waitedFor = now;
        this.options.onWait?.(now);
      }
      if (limit !== null && !over.aborted) {
        const waiting = await heldUpBy(session, this.options.ours, limit / 1_000, this.options.feeds);
        // What is over meanwhile is not stopped: the session may be at its next statement.
        if (waiting.length > 0 && !isOver(over)) {
          heldUp = waiting;
          await this.stop(session);
        }
      }
      return now.length > 0 || this.expects ? LOOK_WAITING_MS : lookAgain;
    };
    if (!this.expects) await sleep(FIRST_LOOK_MS, undefined, { signal: over }).catch(() => undefined);
    const { connect, maxBlindMs } = this.options;
    const stop = limit === null ? null : (session: Session): Promise<void> => this.stop(session);
    const { session, unseen } = await keepLooking(over, { connect, look, stop, maxBlindMs }, this.session);
    this.session = session;
    this.expects = waitedFor.length > 0;
    return { waitedFor, heldUp, ...(unseen === undefined ? {} : { unseen }) };
  }

  private async stop(session: Session): Promise<void> {
    const { ours, stop } = this.options;
    const how = stop === 'terminate' ? 'pg_terminate_backend' : 'pg_cancel_backend';
    await ('pid' in ours
      ? session.query(`SELECT ${how}($1)`, [ours.pid])
      : session.query(
          `SELECT ${how}(pid) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()`,
          [ours.application],
        ));
  }
}

/** Asked anew after each wait. */
function isOver(signal: AbortSignal): boolean {
  return signal.aborted;
}

/** A statement of ours was cancelled because it held up the application. Its code is that of a cancelled statement. */
export class GaveWay extends Error {
  override readonly name = 'GaveWay';
  readonly code = CANCELED;

  constructor(
    readonly met: Encounter,
    cause: unknown,
  ) {
    super(describeEncounter(met), { cause });
  }
}

/** Whether the watch has stopped ours. */
export function wasStopped({ heldUp, unseen }: Encounter): boolean {
  return heldUp.length > 0 || unseen?.stopped === true;
}

/** Whether the statement ended because the watch cancelled it. */
export function gaveWay(error: unknown, met: Encounter): boolean {
  return wasStopped(met) && sqlState(error) === CANCELED;
}

export function isLockNotHad(error: unknown): error is VerdigrisError {
  return error instanceof VerdigrisError && error.type === 'LockNotHad';
}

/** What is thrown where a lock was not had, or nothing but ours was in the application's way. */
export function lockNotHad(object: string, met: Encounter, cause: unknown): VerdigrisError {
  return new VerdigrisError({
    type: 'LockNotHad',
    message: `${object}: the lock that it needs is not to be had: ${describeEncounter(met)}`,
    nextStep: 'end what is named, or wait until it is over: it is tried again, and nothing has been changed',
    retryable: true,
    cause,
  });
}

/** Who blocked whom, for people. */
export function describeEncounter({ waitedFor, heldUp, unseen }: Encounter): string {
  const parts = [
    ...(unseen === undefined
      ? []
      : [`${unseen.why}, so it ${unseen.stopped ? 'was' : 'was to be, and could not be,'} stopped`]),
    ...(heldUp.length > 0 ? [`it was stopped, since ${describeHeldUp(heldUp)}`] : []),
    ...(waitedFor.length > 0 ? [`it waited for ${describeBlockers(waitedFor)}`] : []),
  ];
  return parts.length === 0 ? describeBlockers([]) : parts.join('; ');
}
