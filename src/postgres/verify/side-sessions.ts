import { VerdigrisError } from '../../errors.js';
import type { Direction } from '../../side.js';
import { waitForMarker, writeMarker } from '../marker.js';
import { LockWatch, gaveWay, lockNotHad } from '../lock-watch.js';
import { backendPid, cancellable } from '../migrate/step-context.js';
import { setOnlyTables } from '../only-tables.js';
import { closeSession, openSession, type Database, type Session, type SessionOptions } from '../session.js';

/** How long the marker may take before the replication counts as stalled. */
const MARKER_TIMEOUT_MS = 60_000;

/**
 * The path of statements that are all ours. That pg_catalog is first of several does not help: where it has no operator or
 * function of exactly these types, as none for varchar, one of another schema that has is taken before it.
 */
export const OWN_PATH = 'pg_catalog';

/** How long a statement that is told to end may go on, ms: a server that is frozen never ends it. */
const STATEMENTS_END_WITHIN_MS = 5_000;

/** For sessions whose statements are told to end when the signal is aborted. */
export function cutLate(signal: AbortSignal): Pick<SessionOptions, 'cutOn' | 'cutAfterMs'> {
  return { cutOn: signal, cutAfterMs: STATEMENTS_END_WITHIN_MS };
}

/** The two databases and the feed between them. */
export interface Sides {
  readonly source: Database;
  readonly target: Database;
  /** The feed that fills the target. */
  readonly direction: Direction;
  readonly signal: AbortSignal;
}

/** A pair of sessions that compare: one on each side. */
export class SideSessions {
  /** What prepare() has set, so that thousands of small tables don't set it again and again. */
  private prepared = '';

  private readonly watches: Readonly<Record<'source' | 'target', LockWatch>>;

  private constructor(
    readonly sides: Sides,
    readonly source: Session,
    readonly target: Session,
  ) {
    const watchOf = (side: 'source' | 'target'): LockWatch =>
      new LockWatch({
        connect: () => openSession(sides[side], { purpose: 'watch locks' }),
        ours: { pid: backendPid(this[side]) },
      });
    this.watches = { source: watchOf('source'), target: watchOf('target') };
  }

  static async open(sides: Sides): Promise<SideSessions> {
    const cut = cutLate(sides.signal);
    const source = await openSession(sides.source, { purpose: 'verify', ...cut });
    try {
      const target = await openSession(sides.target, { purpose: 'verify', ...cut });
      const sessions = new SideSessions(sides, source, target);
      await sessions.each((session) => session.query(GENTLE));
      return sessions;
    } catch (error) {
      await closeSession(source);
      throw error;
    }
  }

  async close(): Promise<void> {
    const { source, target } = this.watches;
    await Promise.all([closeSession(this.source), closeSession(this.target), source.close(), target.close()]);
  }

  /**
   * Sets what statements on a table need: the path in which its expressions are resolved, and whether rows are read
   * along the key's index, as ranges are even where statistics are missing, or by a pass over the table. With OWN_PATH
   * nothing but tables is read.
   */
  async prepare(searchPath: string, read: 'by key' | 'all'): Promise<void> {
    const wanted = `${read} ${searchPath}`;
    if (this.prepared === wanted) return;
    this.prepared = '';
    await this.each((session) =>
      session.query(
        `SELECT set_config('search_path', $1, false), set_config('enable_seqscan', $2, false),
                ${setOnlyTables(searchPath === OWN_PATH)}`,
        [searchPath, read === 'all' ? 'on' : 'off'],
      ),
    );
    this.prepared = wanted;
  }

  /** Runs the same on both sides at the same time; both end when the signal is aborted. */
  async each<T>(work: (session: Session, side: 'source' | 'target') => Promise<T>): Promise<[T, T]> {
    const outcomes = await Promise.allSettled([
      this.on('source', (session) => work(session, 'source')),
      this.on('target', (session) => work(session, 'target')),
    ]);
    const [source, target] = outcomes;
    if (source.status === 'rejected') throw source.reason;
    if (target.status === 'rejected') throw target.reason;
    return [source.value, target.value];
  }

  /** Runs it on blue, whichever side is written. */
  onBlue<T>(work: (blue: Session) => Promise<T>): Promise<T> {
    return this.on(this.sides.source.side === 'blue' ? 'source' : 'target', work);
  }

  async on<T>(side: 'source' | 'target', work: (session: Session) => Promise<T>): Promise<T> {
    const session = this[side];
    const connect = (purpose: string): Promise<Session> => openSession(this.sides[side], { purpose });
    const { result, met } = await this.watches[side].during(() =>
      cancellable({ connect, signal: this.sides.signal }, session, () => work(session)),
    );
    if (result.status === 'fulfilled') return result.value;
    // Whoever changes the table, and everybody behind them, waited for the end of our reading.
    if (gaveWay(result.reason, met)) {
      throw lockNotHad(`verification on ${this.sides[side].side}`, met, result.reason);
    }
    throw result.reason;
  }

  /**
   * Returns when everything that was committed on the source before the call is on the target.
   *
   * @throws VerdigrisError ReplicationStalled when that takes longer than a minute.
   */
  async catchUp(timeoutMs = MARKER_TIMEOUT_MS): Promise<void> {
    const { direction, signal } = this.sides;
    const token = await writeMarker(this.source, direction);
    if (await waitForMarker(this.target, direction, token, timeoutMs, signal)) return;
    throw new VerdigrisError({
      type: 'ReplicationStalled',
      message: `verification: a marker written on ${this.sides.source.side} has not reached ${this.sides.target.side} within ${timeoutMs / 1_000} s`,
      nextStep: `look at pg_stat_subscription and the log of ${this.sides.target.side}; verification goes on where it was`,
      retryable: true,
    });
  }
}

/**
 * One core at most, without compiling: the database is in use. lc_monetary stays as both sides have it, since what is computed
 * from money depends on it.
 */
const GENTLE = `SELECT set_config('max_parallel_workers_per_gather', '0', false), set_config('jit', 'off', false)`;
