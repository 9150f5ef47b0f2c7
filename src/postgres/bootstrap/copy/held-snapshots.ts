import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../../../errors.js';
import { parseSize } from '../../lag.js';
import { backendPid } from '../../migrate/step-context.js';
import { judgeRetainedWal, lacksSlots, readRetainedWal, retainedWalExceeded, slotsGone } from '../../retained-wal.js';
import { withSession, type Session } from '../../session.js';
import { readByAnother, readSlotReader } from '../../slot-readers.js';
import { readSubscription } from '../../subscription.js';
import type { CopyContext } from './copy-context.js';
import { isWatched, showWatching } from './copy-lock.js';
import { readCopyState, type CopyState, type Holder } from './copy-state.js';
import { CopyWatch } from './copy-watch.js';
import type { GreenInSight } from './green-in-sight.js';

/*
 * Snapshots live as long as the sessions on blue that made them, and nothing else: not as the attempt of the activity
 * that opened those. Temporal takes an attempt for dead that it does not hear of for 15 s, which may be its own doing. So
 * an attempt that is given up like that keeps its sessions open for the next one, in whatever process; and that one goes
 * on with them where blue says that the very sessions live. They are ended when the copying is closed or cancelled, by
 * whoever watches over them, or when nobody does although Temporal is there.
 */

const WATCH_EVERY_MS = 1_000;
/** The run waits for the holder when the copying has been closed. */
const CLOSED_EVERY_MS = 50;
/** How long Temporal has had to begin the next attempt since it answers: it waits for a second, and for a free worker. */
const NEXT_ATTEMPT_WITHIN_MS = 60_000;
const ASK_EVERY_MS = 2_000;

/** What an attempt to hold the snapshots knows of itself and its run. */
export interface HolderAttempt {
  /** Whether there was one before, which may hold them still. */
  readonly isAnother: boolean;
  /** Who has aborted the signal: the run, the shutdown of this worker, or only that Temporal has not heard of the attempt. */
  readonly endedBy: () => 'run' | 'worker' | 'silence';
  /** Undefined while Temporal does not answer. */
  readonly doesRunGoOn: () => Promise<boolean | undefined>;
}

/** Where there are no others: what it holds ends with it. */
export const onlyAttempt: HolderAttempt = {
  isAnother: false,
  endedBy: () => 'run',
  doesRunGoOn: () => Promise.resolve(false),
};

/** Snapshots, with the sessions to look after them. */
export interface HeldSnapshots {
  readonly blue: Session;
  readonly green: GreenInSight;
  /** Of the slots that were made with them. */
  readonly names: readonly string[];
  readonly areAlive: () => boolean | Promise<boolean>;
}

/**
 * Holds them until the signal is aborted.
 *
 * @throws VerdigrisError RetainedWalExceeded, ReplicationBroken; ConnectionFailed (retryable) when a holder is gone
 */
export async function hold(context: CopyContext, held: HeldSnapshots): Promise<'released' | 'lost'> {
  const { run, plan, signal, report } = context;
  const { blue, green, names, areAlive } = held;
  const limit = parseSize(plan.replicate.maxRetainedWal);
  const watch = new CopyWatch(run.runId);
  for (;;) {
    const wal = await readRetainedWal(blue, names);
    if (lacksSlots(wal, names)) throw slotsGone(names[0] ?? '', wal);
    if (judgeRetainedWal(wal, limit) === 'abort') throw retainedWalExceeded(names[0] ?? '', wal, limit);
    await refuseOthers(blue, green, names);
    const seen = await green.ask((session) => watch.look(session));
    for (const table of seen?.tables ?? []) report(table);
    if (seen?.phase === 'closed') return 'released';
    if (seen?.phase === 'lost') return 'lost';
    // Tried again, it decides between new snapshots, while nothing has been copied, and none.
    if (!(await areAlive())) throw connectionLost();
    const next = performance.now() + WATCH_EVERY_MS;
    while (performance.now() < next) {
      await sleep(CLOSED_EVERY_MS, undefined, { signal, ref: false });
      if (seen === undefined) continue;
      if ((await green.ask((session) => readCopyState(session, run.runId)))?.phase !== 'ready') break;
    }
  }
}

/** Green has no subscription before the copying has been closed: whoever reads from a slot takes what green was to get. */
async function refuseOthers(blue: Session, green: GreenInSight, names: readonly string[]): Promise<void> {
  for (const name of names) {
    const reader = await readSlotReader(blue, name);
    if (reader === undefined) continue;
    const isOthers = await green.ask(async (session) => (await readSubscription(session, name)) === undefined);
    if (isOthers === true) throw readByAnother(name, reader);
  }
}

/** Which sessions these are, as other sessions of their role see them; none where that can't be seen. */
export async function readHolders(blue: Session, sessions: readonly Session[]): Promise<Holder[]> {
  const pids = sessions.map(backendPid);
  const { rows } = await blue.query<Holder>(
    `SELECT pid, backend_start::text AS since FROM pg_stat_activity WHERE pid = ANY ($1)`,
    [pids],
  );
  return rows.length === sessions.length ? rows : [];
}

/** @returns the holders of the snapshots of now, all of whom live. */
export async function findHeld(blue: Session, state: CopyState | undefined): Promise<readonly Holder[] | undefined> {
  const { phase, holders = [] } = state ?? {};
  return phase === 'ready' && holders.length > 0 && (await areAlive(blue, holders)) ? holders : undefined;
}

async function areAlive(blue: Session, holders: readonly Holder[]): Promise<boolean> {
  const { rowCount } = await blue.query(`SELECT ${OF_HOLDERS}`, valuesOf(holders));
  return rowCount === holders.length;
}

const OF_HOLDERS = `FROM pg_stat_activity JOIN unnest($1::int[], $2::text[]) AS h (holder, since)
                      ON pid = holder AND backend_start::text = since`;

function valuesOf(holders: readonly Holder[]): [number[], string[]] {
  return [holders.map(({ pid }) => pid), holders.map(({ since }) => since)];
}

/**
 * Watches over snapshots that an earlier attempt holds, as hold() does over its own. They are ended with this attempt, but
 * where the next one is to go on with them.
 */
export async function watchHeld(
  context: CopyContext,
  attempt: HolderAttempt,
  blue: Session,
  green: GreenInSight,
  holders: readonly Holder[],
  names: readonly string[],
): Promise<'released' | 'lost'> {
  await showWatching(blue);
  const end = async (): Promise<void> => {
    await withSession(context.databases.blue, { purpose: 'copy holder' }, (session) =>
      session.query(`SELECT pg_terminate_backend(pid) ${OF_HOLDERS}`, valuesOf(holders)),
    ).catch(() => undefined);
  };
  try {
    const ended = await hold(context, { blue, green, names, areAlive: () => areAlive(blue, holders) });
    await end();
    return ended;
  } catch (error) {
    const isOver = context.signal.aborted ? attempt.endedBy() === 'run' : !mayPass(error);
    if (isOver) await end();
    throw error;
  }
}

function mayPass(error: unknown): boolean {
  return !(error instanceof VerdigrisError) || error.retryable;
}

/** Goes on holding what an attempt has held that Temporal has given up, until nobody wants it any more. Never throws. */
export async function keepForNext(context: CopyContext, attempt: HolderAttempt, held: HeldSnapshots): Promise<void> {
  const over = new AbortController();
  const quietly = { ...context, signal: over.signal, report: () => undefined };
  const holding = hold(quietly, held).catch(() => undefined);
  const unwanted = untilUnwanted(attempt, held, over.signal).catch(() => undefined);
  await Promise.race([holding, unwanted]);
  over.abort();
  await Promise.all([holding, unwanted]);
}

async function untilUnwanted(attempt: HolderAttempt, { blue }: HeldSnapshots, signal: AbortSignal): Promise<void> {
  let answersSince: number | undefined;
  for (;;) {
    const watched = await isWatched(blue);
    const goesOn = watched || (await attempt.doesRunGoOn());
    if (goesOn === false) return;
    if (watched || goesOn === undefined) answersSince = undefined;
    else answersSince ??= performance.now();
    if (answersSince !== undefined && performance.now() - answersSince > NEXT_ATTEMPT_WITHIN_MS) return;
    await sleep(ASK_EVERY_MS, undefined, { signal, ref: false });
  }
}

function connectionLost(): VerdigrisError {
  return new VerdigrisError({
    type: 'ConnectionFailed',
    message: 'blue: the connection that holds the snapshot was lost',
    nextStep: 'nothing: what has been copied stays, the rest is copied in another way',
    retryable: true,
  });
}
