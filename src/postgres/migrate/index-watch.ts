import { setTimeout as sleep } from 'node:timers/promises';
import { blockersOf, describeBlockers, heldUpBy, type Blocker, type HeldUp } from '../blockers.js';
import { keepLooking } from '../keep-looking.js';
import { GaveWay, gaveWay, type Encounter } from '../lock-watch.js';
import { closeSession, type Session } from '../session.js';
import { RateMeter, backendPid, noted, type Progress, type StepContext } from './step-context.js';

const LOOK_EVERY_MS = 500;

/** What is built, and what the build may do to others. */
export interface WatchedBuild {
  /** The index, for people. */
  readonly object: string;
  /**
   * Whoever wants to change the table queues behind the build, and everybody else behind them: when a session of the
   * application has waited for so long, the build is cancelled. Null: it may go on, nobody uses the table.
   */
  readonly maxBlockingMs: number | null;
  /** Whether nobody of the application can be there to wait: asked when somebody does. */
  readonly isUnused?: (session: Session) => Promise<boolean>;
}

/**
 * Runs a statement that builds an index on `session`, while another session looks on.
 *
 * @throws GaveWay when it was cancelled, since it held up the application
 */
export async function watched<T>(
  context: StepContext,
  session: Session,
  build: WatchedBuild,
  work: () => Promise<T>,
): Promise<T> {
  const over = new AbortController();
  const watching = watchBuild(context, backendPid(session), build, over.signal);
  const [built] = await Promise.allSettled([work()]);
  over.abort();
  const met = await watching;
  if (built.status === 'fulfilled') return built.value;
  throw gaveWay(built.reason, met) ? new GaveWay(met, built.reason) : built.reason;
}

/** Never throws, since it only looks on. */
async function watchBuild(
  context: StepContext,
  pid: number,
  { object, maxBlockingMs, isUnused }: WatchedBuild,
  over: AbortSignal,
): Promise<Encounter> {
  const lookEveryMs = Math.min(LOOK_EVERY_MS, Math.max(50, (maxBlockingMs ?? LOOK_EVERY_MS) / 2));
  const report = new BuildReport(context, pid, object, performance.now());
  let waitedFor: Blocker[] = [];
  let heldUp: HeldUp[] = [];
  const stop = (session: Session): Promise<unknown> => session.query('SELECT pg_cancel_backend($1)', [pid]);
  const look = async (session: Session): Promise<number> => {
    waitedFor = await report.next(session);
    // The feed counts: it waits for a build when blue empties the table.
    const waiting = maxBlockingMs === null ? [] : await heldUpBy(session, { pid }, maxBlockingMs / 1_000, true);
    if (waiting.length > 0 && (await isUnused?.(session)) !== true) {
      heldUp = waiting;
      await stop(session);
    }
    return lookEveryMs;
  };
  // Most builds on small tables are over before the first look.
  await sleep(lookEveryMs, undefined, { signal: over }).catch(() => undefined);
  const { session, unseen } = await keepLooking(over, {
    connect: () => context.connect('watch index builds'),
    look,
    stop: maxBlockingMs === null ? null : stop,
  });
  if (session !== undefined) await closeSession(session);
  return { waitedFor, heldUp, ...(unseen === undefined ? {} : { unseen }) };
}

interface BuildRow {
  command: string;
  phase: string;
  blocks_done: string;
  blocks_total: string;
  tuples_done: string;
  tuples_total: string;
  locker: number | null;
  locker_age: number | null;
  locker_name: string | null;
  block_size: number;
}

/** Says how far a build is, from pg_stat_progress_create_index. */
class BuildReport {
  private phase = '';
  private meter = new RateMeter(0);

  constructor(
    private readonly context: StepContext,
    private readonly pid: number,
    private readonly object: string,
    /** When the build began, by performance.now(). */
    private readonly started: number,
  ) {}

  /** @returns whom the build waits for */
  async next(session: Session): Promise<Blocker[]> {
    const { rows } = await session.query<BuildRow>(
      `SELECT p.command, p.phase, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total,
              nullif(p.current_locker_pid, 0)::int AS locker, a.application_name AS locker_name,
              extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS locker_age,
              current_setting('block_size')::int AS block_size
         FROM pg_stat_progress_create_index p
         LEFT JOIN pg_stat_activity a ON a.pid = nullif(p.current_locker_pid, 0)
        WHERE p.pid = $1`,
      [this.pid],
    );
    const row = rows[0];
    const blockers = await blockersOf(session, { pid: this.pid });
    if (row !== undefined) this.context.onProgress(this.progressOf(row, describeWait(row, blockers)));
    // Waits for its table before it has begun: a plain build behind a vacuum or behind the build of a dead worker.
    else if (blockers.length > 0)
      this.context.onProgress(noted('index', this.object, `waits for ${describeBlockers(blockers)}`));
    return blockers;
  }

  private progressOf(row: BuildRow, wait: string): Progress {
    const inTuples = Number(row.tuples_total) > 0;
    const done = Number(inTuples ? row.tuples_done : row.blocks_done);
    // What was done before the first look at a phase took nobody knows how long.
    if (row.phase !== this.phase) this.meter = new RateMeter(done);
    this.phase = row.phase;
    const total = Number(inTuples ? row.tuples_total : row.blocks_total);
    const perSecond = this.meter.rates(done, total).rowsPerSecond;
    return {
      step: 'index',
      object: this.object,
      done,
      total,
      rowsPerSecond: inTuples ? perSecond : 0,
      ...(inTuples ? {} : { bytes: done * row.block_size, bytesPerSecond: perSecond * row.block_size }),
      etaSeconds: this.eta(shareDone(row, total === 0 ? 0 : Math.min(1, done / total))),
      note: `${row.phase}${wait}`,
    };
  }

  /** From the whole build and not from its phase: the end of a phase is of no use to anybody. */
  private eta(share: number): number | null {
    const elapsed = (performance.now() - this.started) / 1_000;
    return share < 0.01 ? null : Math.round((elapsed * (1 - share)) / share);
  }
}

function describeWait(row: BuildRow, blockers: readonly Blocker[]): string {
  if (row.locker !== null) {
    return `: waits for the transaction of pid ${row.locker} (${row.locker_name ?? 'unknown'}, ${(row.locker_age ?? 0).toFixed(0)} s old)`;
  }
  return blockers.length === 0 ? '' : `: waits for ${describeBlockers(blockers)}`;
}

/** Where in a build its phases lie, as measured for btree; the other methods have one phase, `building index`. */
const PHASES: readonly (readonly [phase: RegExp, from: number, to: number])[] = [
  [/^building index: scanning table/, 0, 0.5],
  [/^building index: sorting/, 0.5, 0.6],
  [/^building index: loading/, 0.6, 1],
  [/^building index/, 0, 1],
];
const VALIDATION: readonly (readonly [phase: RegExp, from: number, to: number])[] = [
  [/^index validation: scanning index/, 0.7, 0.8],
  [/^index validation: sorting/, 0.8, 0.85],
  [/^index validation: scanning table/, 0.85, 1],
  [/^waiting for writers before validation/, 0.7, 0.7],
  [/^waiting for/, 0, 0],
];

/** Which share of the whole build is done, when `share` of its phase is. */
function shareDone(row: BuildRow, share: number): number {
  // The second reading of the table takes a third of a concurrent build.
  const scale = row.command.endsWith('CONCURRENTLY') ? 0.7 : 1;
  const phases = [...PHASES.map(([phase, from, to]) => [phase, from * scale, to * scale] as const), ...VALIDATION];
  const [, from, to] = phases.find(([phase]) => phase.test(row.phase)) ?? [null, 0, 0];
  return from + (to - from) * share;
}
