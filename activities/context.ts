import { ApplicationFailure, CancelledFailure, Context } from '@temporalio/activity';
import type { WorkflowExecutionDescription } from '@temporalio/client';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { VerdigrisError } from '../src/errors.js';
import { LONGEST_QUOTED, NEXT_STEP, shortened } from '../src/failure-text.js';
import { CommitsWouldHang } from '../src/postgres/bootstrap/standby/promote-standby.js';
import type { Progress } from '../src/postgres/migrate/step-context.js';
import { NewestRoute } from '../src/postgres/newest-route.js';
import { whileOwned, type Run } from '../src/postgres/ownership.js';
import { isPeerFailure } from '../src/postgres/peer-failed.js';
import {
  openSession,
  closeSession,
  RefusedLogin,
  type Databases,
  type Session,
  type SessionOptions,
} from '../src/postgres/session.js';
import { isConnectionLost, isOutOfRoom, sqlState, STALE_EPOCH, TRY_AGAIN } from '../src/postgres/sqlstate.js';
import { tlsFault } from '../src/postgres/tls-fault.js';
import { refuseWhileBlueServes, refuseWhileGreenServes } from '../src/postgres/where-writes-are.js';
import { together } from '../src/timing.js';
import { tellsOfRefusedLogin } from '../src/refused-login.js';
import type { Side } from '../src/side.js';
import { databasesOf, type Environment } from '../src/worker/connections.js';
import type { Redact } from '../src/worker/redact.js';
import { progressSignal } from '../workflows/messages.js';
import { ProgressBoard } from './progress-board.js';
import { attemptBegins } from './temporal-clock.js';

/** What the worker gives to its activities. */
export interface ActivityDependencies {
  /** Where connections are looked up by name. */
  readonly environment: Environment;
  readonly redact: Redact;
  /** How often an activity says that it lives where no writes can be held, ms. Default: 500. */
  readonly heartbeatMs?: number;
  /** How long a stage waits for others. Default: STAGE_PATIENCE of stage-opening.ts. */
  readonly patience?: Partial<StagePatience>;
}

/** Milliseconds. */
export interface StagePatience {
  /**
   * A route that took longer to read may be that of another worker's opening, and of its end: one takes over when this one
   * has not been heard of for 15 s.
   */
  readonly readMs: number;
  /** How long the instances get to confirm the route of now, before anything moves. */
  readonly followMs: number;
  /** How long they get to take a new percentage over. No gate watches meanwhile. */
  readonly confirmMs: number;
  /** How long a look takes at least that begins late, since no worker was there: long enough for the means
   *  of `transactionVolume`, of which three in a row are needed. */
  readonly lookMs: number;
  /**
   * A watch that has ended longer ago has missed something: one whose worker has died is begun again after so long, where
   * there is a worker.
   */
  readonly watchedMs: number;
  /** How often Prometheus is asked. */
  readonly prometheusEveryMs: number;
}

/** What one run of an activity has at hand. */
export interface Work {
  readonly databases: Databases;
  readonly run: Run;
  /** Aborted when the activity is cancelled, or the worker shuts down. */
  readonly signal: AbortSignal;
  /** Progress: shown with the pending activity as heartbeat details, and by the workflow. Small, without row values. */
  readonly report: (progress: object) => void;
  /** Opens a session that is closed when the activity ends, however it ends. */
  readonly session: (side: Side, purpose: string, limits?: Limits) => Promise<Session>;
  /**
   * Acts on a side only while it is this run's, or nobody's, by a session that whoever claims it next ends first: see
   * whileOwned(). One at a time on each side. Undefined where it is another run's.
   */
  readonly asOwner: <T>(
    side: Side,
    purpose: string,
    act: (session: Session) => Promise<T>,
    limits?: Limits,
  ) => Promise<T | undefined>;
}

type Limits = Omit<SessionOptions, 'purpose' | 'socket'>;

/**
 * For the sessions of a watch, which only looks: a server that does not answer must neither end the watch nor keep a
 * cancel from being heard.
 */
export function watching(signal: AbortSignal, answerWithinMs = 10_000): Limits {
  return { answerWithinMs, cutOn: signal };
}

/** How often an activity says that it lives; well below every heartbeat timeout. Cancels come with the answer. */
const HEARTBEAT_MS = 500;
/** One with a shorter heartbeat timeout may hold writes, or leads reads: its worker must be replaced within seconds. */
const THINNED_FROM_TIMEOUT_MS = 15_000;

/** What an activity ends with when its worker does not know a connection, or a server does not let it in. */
type OnNoAccess = (error: VerdigrisError) => VerdigrisError | Promise<VerdigrisError>;

/** Another worker may have it, or this one soon: it is restarted with the variable, its secret is mounted again. */
const WAITS: OnNoAccess = (error) => error.tryingAgain();

/**
 * Runs an activity: heartbeats, so that a dead worker is noticed and a cancel arrives; closes its sessions; and turns
 * errors into failures that say what to do, without secrets.
 *
 * @param onNoAccess default: it is tried again
 */
export async function perform<T>(
  dependencies: ActivityDependencies,
  ref: RunRef,
  work: (work: Work) => Promise<T>,
  onNoAccess = WAITS,
): Promise<T> {
  const sessions: Promise<Session>[] = [];
  return alive(dependencies, async (signal, report) => {
    try {
      const databases = databasesOf(ref.plan, dependencies.environment);
      const run = { runId: ref.runId, migration: ref.plan.name };
      return await work({
        databases,
        run,
        signal,
        report,
        session: (side, purpose, limits = {}) => {
          const session = openSession(databases[side], { purpose, ...limits });
          sessions.push(session);
          return session;
        },
        asOwner: (side, purpose, act, limits = {}) =>
          whileOwned(databases[side], run, purpose, act, { signal, limits }),
      });
    } catch (error) {
      throw isNoAccess(error) ? await onNoAccess(error) : error;
    } finally {
      // Of several that are opened at once, one may still be on its way when another has failed.
      await Promise.all(sessions.map((session) => session.then(closeSession, () => undefined)));
    }
  });
}

/** Opens a session on each side at once: one after the other they take twice as long. */
export async function sessionsOnBoth(
  { session }: Pick<Work, 'session'>,
  purpose: string,
  limits?: Limits,
): Promise<Readonly<Record<Side, Session>>> {
  const [blue, green] = await together(session('blue', purpose, limits), session('green', purpose, limits));
  return { blue, green };
}

/**
 * The same for what is only right while writes are on blue: it makes green anew, or takes away what a green that serves
 * needs.
 *
 * @param spareForMs how long the sessions that were asked are there for the work; with 0 they are closed before it begins.
 *   Default: SPARE_FOR_MS
 * @throws ApplicationFailure WritesOnGreen
 */
export function performWhileBlueServes<T>(
  dependencies: ActivityDependencies,
  ref: RunRef,
  work: (work: Work) => Promise<T>,
  spareForMs = SPARE_FOR_MS,
): Promise<T> {
  return perform(dependencies, ref, async (own) => {
    const asked = new NewestRoute(own.databases, own.run.migration);
    let spare: NodeJS.Timeout | undefined;
    let closing: Promise<void> | undefined;
    const closeRest = (): Promise<void> => (closing ??= asked.closeRest());
    try {
      await refuseWhileGreenServes(own.databases, own.run, asked);
      if (spareForMs === 0) await closeRest();
      else spare = setTimeout(() => void closeRest(), spareForMs);
      return await work({
        ...own,
        // Those that have answered are as good as new.
        session: async (side, purpose, limits = {}) =>
          (await asked.take(side, { purpose, ...limits })) ?? own.session(side, purpose, limits),
        // It opens its own: on a server without room these would be in its way.
        asOwner: async (...acting) => {
          await closeRest();
          return own.asOwner(...acting);
        },
      });
    } finally {
      clearTimeout(spare);
      await asked.close();
    }
  });
}

/** Whoever needs them takes them at once, ms: they are two of the connections that a server has. */
const SPARE_FOR_MS = 2_000;

/**
 * The same for what is only right while green serves: it watches the way back, or ends it. A side that does not answer
 * keeps nobody.
 *
 * @param epoch the one in which green has got the writes
 * @throws ApplicationFailure WritesOnBlue
 */
export function performWhileGreenServes<T>(
  dependencies: ActivityDependencies,
  ref: RunRef,
  epoch: number,
  work: (work: Work) => Promise<T>,
): Promise<T> {
  return perform(dependencies, ref, async (own) => {
    await refuseWhileBlueServes(own.databases, own.run, epoch);
    return work(own);
  });
}

/** The same for an activity that needs no database. */
export async function alive<T>(
  dependencies: ActivityDependencies,
  work: (signal: AbortSignal, report: (progress: object) => void) => Promise<T>,
): Promise<T> {
  attemptBegins();
  const context = Context.current();
  const board = new ProgressBoard(Date.now());
  const beat = (): void => {
    // Where nothing was reported yet, what an attempt before has said stands.
    context.heartbeat(board.details() ?? context.info.heartbeatDetails);
    const news = board.due(Date.now());
    if (news !== undefined) tellWorkflow(context, news);
  };
  const mayBeThin = (context.info.heartbeatTimeoutMs ?? 0) >= THINNED_FROM_TIMEOUT_MS;
  const timer = setInterval(beat, mayBeThin ? (dependencies.heartbeatMs ?? HEARTBEAT_MS) : HEARTBEAT_MS);
  const goesOn = setTimeout(() => tellThatItGoesOn(context), GOES_ON_AFTER_MS);
  try {
    beat();
    return await work(context.cancellationSignal, (next) => board.report(next));
  } catch (error) {
    const failure = failureOf(error, context.cancellationSignal, dependencies.redact);
    const what = needsPerson(error);
    if (what !== undefined && !context.cancellationSignal.aborted) tellThatItWaits(what, failure.message);
    throw failure;
  } finally {
    clearInterval(timer);
    clearTimeout(goesOn);
  }
}

/** Has the status say what is waited for, by an attempt that ends and is begun again. @param message without secrets */
export function tellThatItWaits(what: string, message: string): void {
  const context = Context.current();
  if (isTold(context.info.attempt)) tellWorkflow(context, [waitsFor(what, message)]);
}

/** A disk may be full for days: told often at first, then about every three minutes. */
function isTold(attempt: number): boolean {
  return attempt <= 8 || attempt % 8 === 0;
}

function isUnknown(error: unknown): error is VerdigrisError {
  return error instanceof VerdigrisError && error.type === 'ConnectionUnknown';
}

/** Its worker does not know a connection, or a server does not let it in. */
export function isNoAccess(error: unknown): error is VerdigrisError {
  return isUnknown(error) || error instanceof RefusedLogin;
}

/** What an error of ours was made of. */
function causeOf(error: unknown): unknown {
  return error instanceof VerdigrisError ? error.cause : error;
}

/** What somebody must bring before trying again can help, where only that is missing. */
function needsPerson(error: unknown): Lacking | undefined {
  const cause = causeOf(error);
  if (isOutOfRoom(cause)) return 'room';
  if (tlsFault(cause) !== undefined) return 'TLS';
  if (error instanceof CommitsWouldHang) return 'a standby';
  if (isUnknown(error)) return error.retryable ? 'access' : undefined;
  return error instanceof RefusedLogin || isPeerFailure(error) ? 'access' : undefined;
}

type Lacking = 'room' | 'TLS' | 'access' | 'a standby';

/** What is shown while an activity is tried again until somebody has brought it. */
function waitsFor(what: string, message: string): Progress {
  const note = message.replace(NEXT_STEP, '; ');
  return { step: 'waits', object: `for ${what}`, done: 0, total: 0, rowsPerSecond: 0, etaSeconds: null, note };
}

/**
 * Each telling is some events of the history, of which Temporal allows 51,200, and 10,000 signals: in a run that has so many
 * by now, progress is in the heartbeats alone.
 */
const TOLD_UP_TO_EVENTS = 12_000;

/**
 * Only for people who look on, so a telling that does not arrive is no error.
 *
 * @param isMeant whether it is told of such a run. Default: always
 */
function tellWorkflow(
  context: Context,
  progress: readonly Progress[],
  isMeant: (run: WorkflowExecutionDescription) => boolean = () => true,
): void {
  const { workflowExecution } = context.info;
  if (workflowExecution === undefined) return;
  const tell = async (): Promise<void> => {
    const handle = context.client.workflow.getHandle(workflowExecution.workflowId, workflowExecution.runId);
    const run = await handle.describe();
    if (run.historyLength < TOLD_UP_TO_EVENTS && isMeant(run)) await handle.signal(progressSignal, progress);
  };
  tell().catch(() => undefined);
}

/** An attempt that goes on for so long has what the one before lacked. */
const GOES_ON_AFTER_MS = 3_000;

/** The attempt before has said that it waits for access, and a watch may say nothing for days. */
function tellThatItGoesOn(context: Context): void {
  const { attempt, activityId } = context.info;
  if (attempt === 1 || !isTold(attempt - 1)) return;
  tellWorkflow(context, [], ({ raw }) => {
    const mine = raw.pendingActivities?.find((pending) => pending.activityId === activityId);
    const { message, applicationFailureInfo } = mine?.lastFailure ?? {};
    return applicationFailureInfo?.type === 'ConnectionUnknown' || tellsOfRefusedLogin(message ?? '');
  });
}

/** The failure that an error becomes: its type from the catalogue, whether trying again can help, no secrets. */
export function failureOf(error: unknown, signal: AbortSignal, redact: Redact): Error {
  if (error instanceof CancelledFailure || error instanceof ApplicationFailure) return error;
  if (error instanceof VerdigrisError && !(signal.aborted && error.retryable)) {
    return ApplicationFailure.create({
      type: error.type,
      message: redact(error.message),
      nonRetryable: !error.retryable,
      details: error.details === undefined ? [] : [error.details],
    });
  }
  // Whatever a cancelled activity stumbles over on its way out is not news.
  if (signal.aborted) return signal.reason instanceof Error ? signal.reason : new CancelledFailure('cancelled');
  const state = sqlState(error);
  const message = shortened(redact(error instanceof Error ? error.message : String(error)), LONGEST_QUOTED);
  if (isConnectionLost(error) || tlsFault(error) !== undefined) {
    return ApplicationFailure.create({
      type: 'ConnectionFailed',
      message: `a connection was lost: ${message}`,
      nonRetryable: false,
    });
  }
  if (state === STALE_EPOCH) return ApplicationFailure.create({ type: 'StaleEpoch', message, nonRetryable: false });
  if (state !== undefined) {
    return ApplicationFailure.create({
      type: 'SqlError',
      message: `PostgreSQL refused: ${message} (${state})`,
      nonRetryable: !TRY_AGAIN.has(state) && !MAY_PASS.has(state.slice(0, 2)),
    });
  }
  return ApplicationFailure.create({ type: 'UnexpectedError', message, nonRetryable: false });
}

/** SQLSTATE classes that pass by themselves or by an operator: resources, intervention, rollbacks, system errors. */
const MAY_PASS: ReadonlySet<string> = new Set(['08', '40', '53', '55', '57', '58']);
