import { setTimeout as sleep } from 'node:timers/promises';
import { closeSession, type Session } from '../session.js';
import { sessionsBlockedBy } from './blockers.js';
import { RateMeter, type StepContext } from './step-context.js';

const LOOK_EVERY_MS = 500;
/** Whoever wants to change the table queues behind the build, and everybody else behind them. */
const BLOCKED_FOR_SECONDS = 2;

interface BuildProgress {
  phase: string;
  blocks_done: string;
  blocks_total: string;
  tuples_done: string;
  tuples_total: string;
  locker: number | null;
  locker_age: number | null;
  locker_name: string | null;
}

/**
 * Reports how far a build is, from pg_stat_progress_create_index, and cancels it when a session of the application has
 * waited for it for two seconds. Ends when `over` is aborted; never throws, since it only looks on.
 */
export async function watchBuild(
  context: StepContext,
  pid: number,
  build: { readonly name: string },
  over: AbortSignal,
): Promise<void> {
  let session: Session | undefined;
  try {
    // Most builds on small tables are over before the first look.
    await sleep(LOOK_EVERY_MS, undefined, { signal: over });
    session = await context.connect('watch index builds');
    const meter = new RateMeter(0);
    while (!over.aborted) {
      await report(context, session, pid, build.name, meter);
      if ((await sessionsBlockedBy(session, pid, BLOCKED_FOR_SECONDS)) > 0) {
        await session.query('SELECT pg_cancel_backend($1)', [pid]);
      }
      await sleep(LOOK_EVERY_MS, undefined, { signal: over });
    }
  } catch {
    // Over, or the connection is gone: the build itself says how it ends.
  } finally {
    if (session !== undefined) await closeSession(session);
  }
}

async function report(
  context: StepContext,
  session: Session,
  pid: number,
  object: string,
  meter: RateMeter,
): Promise<void> {
  const { rows } = await session.query<BuildProgress>(
    `SELECT p.phase, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total,
            nullif(p.current_locker_pid, 0)::int AS locker, a.application_name AS locker_name,
            extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS locker_age
       FROM pg_stat_progress_create_index p
       LEFT JOIN pg_stat_activity a ON a.pid = nullif(p.current_locker_pid, 0)
      WHERE p.pid = $1`,
    [pid],
  );
  const now = rows[0];
  if (now === undefined) return;
  const inTuples = Number(now.tuples_total) > 0;
  const done = Number(inTuples ? now.tuples_done : now.blocks_done);
  const total = Number(inTuples ? now.tuples_total : now.blocks_total);
  const waitsFor =
    now.locker === null
      ? ''
      : `: waits for the transaction of pid ${now.locker} (${now.locker_name ?? 'unknown'}, ${(now.locker_age ?? 0).toFixed(0)} s old)`;
  context.onProgress({
    step: 'index',
    object,
    done,
    total,
    ...meter.rates(done, total),
    note: `${now.phase}${waitsFor}`,
  });
}
