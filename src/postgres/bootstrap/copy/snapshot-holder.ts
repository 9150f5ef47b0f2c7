import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../../../errors.js';
import { parseSize } from '../../lag.js';
import { dropSlot, whileSlotIsMade } from '../../replication-slot.js';
import { judgeRetainedWal, lacksSlots, readRetainedWal, retainedWalExceeded, slotsGone } from '../../retained-wal.js';
import { closeSession, openReplicationSession, openSession, SHORT_STATEMENTS, type Session } from '../../session.js';
import { readByAnother, readSlotReader } from '../../slot-readers.js';
import { streamNames } from '../../streams.js';
import { readSubscription } from '../../subscription.js';
import { answerTime, sessionsAtWork } from './blue-load.js';
import type { CopyContext } from './copy-context.js';
import { HOLDER_LOCK, STREAM_LOCK, takeOver } from './copy-lock.js';
import { CopyWatch } from './copy-watch.js';
import { changeCopyState, readCopyState, readPieces } from './copy-state.js';
import { GreenInSight } from './green-in-sight.js';

/*
 * A slot that is made over a replication connection exports a snapshot: what the database held at the very position
 * where the slot begins. Parcels read that snapshot, so a row is either in it or comes by the slot, and never both. The
 * snapshot lives as long as the connection sends no further command, so it is held open until every parcel is done. Green
 * is only asked whether it is: its sessions may be lost meanwhile.
 */

const WATCH_EVERY_MS = 1_000;
/** The run waits for the holder when the copying has been closed. */
const CLOSED_EVERY_MS = 50;
/** Takes a tenth of a second. */
const BASELINE_QUESTIONS = 15;

/**
 * Makes the slots and their snapshots, lets them be read, and holds them until the signal is aborted.
 *
 * @returns 'lost' when an earlier holder is gone and rows have been copied: other snapshots would not fit them.
 *   'released' when the copying has been closed.
 * @throws VerdigrisError RetainedWalExceeded, ReplicationBroken
 */
export async function holdSnapshots(context: CopyContext): Promise<'released' | 'lost'> {
  const { databases, run, plan, signal } = context;
  const names = streamNames(run.migration, 'to_green', plan.replicate.streams);
  const opened: Session[] = [];
  const opens = async (session: Promise<Session>): Promise<Session> => {
    opened.push(await session);
    return session;
  };
  const openGreen = (): Promise<Session> =>
    opens(openSession(databases.green, { purpose: 'copy holder', ...SHORT_STATEMENTS }));
  try {
    const blue = await opens(openSession(databases.blue, { purpose: 'copy holder' }));
    const green = await openGreen();
    await takeOver(blue, HOLDER_LOCK, signal);
    const holders: Session[] = [];
    for (const i of names.keys()) {
      const holder = await opens(openReplicationSession(databases.blue, 'copy snapshot'));
      await takeOver(holder, STREAM_LOCK - i, signal);
      holders.push(holder);
    }
    const incarnation = randomUUID();
    const begun = await changeCopyState(
      green,
      run.runId,
      async (now) => {
        if (now.phase === 'lost' || now.phase === 'closed') return undefined;
        const copied = (await readPieces(green, run.runId)).size > 0;
        return { ...now, incarnation, snapshots: {}, phase: copied ? 'lost' : 'planned' };
      },
      { signal },
    );
    if (begun?.incarnation !== incarnation) return begun?.phase === 'closed' ? 'released' : 'lost';
    if (begun.phase === 'lost') return 'lost';
    const snapshots: Record<string, string> = {};
    for (const [i, name] of names.entries()) {
      const holder = holders[i];
      if (holder === undefined) continue;
      await dropSlot(blue, name);
      snapshots[name] = await exportSnapshot(context, blue, holder, name);
    }
    const before = await sessionsAtWork(blue);
    const usualAnswerMs = await answerTime(blue, BASELINE_QUESTIONS);
    // Met twice: one query at one moment is nobody whom a copy could disturb.
    const othersWork = before > 0 && (await sessionsAtWork(blue)) > 0;
    const ready = await changeCopyState(
      green,
      run.runId,
      (now) =>
        Promise.resolve(
          now.incarnation === incarnation
            ? { ...now, snapshots, usualAnswerMs, othersWork, phase: 'ready' }
            : undefined,
        ),
      { signal },
    );
    if (ready?.incarnation !== incarnation) return 'lost';
    const inSight = new GreenInSight(green, openGreen, (why) =>
      context.report({ snapshots: 'held', greenIsAway: why }),
    );
    return await hold(context, blue, inSight, holders, names);
  } finally {
    await Promise.all(opened.map(closeSession));
  }
}

/** PostgreSQL waits for every transaction that has an xid, however long it takes: people are told for whom. */
async function exportSnapshot(context: CopyContext, blue: Session, holder: Session, name: string): Promise<string> {
  // Names of slots need no quotes but take them: lower-case letters, digits and underscores.
  const making = holder.query<{ snapshot_name: string }>(
    `CREATE_REPLICATION_SLOT "${name}" LOGICAL pgoutput (SNAPSHOT 'export')`,
  );
  const { rows } = await whileSlotIsMade(making, holder, {
    session: blue,
    signal: context.signal,
    onWait: (waitingFor) => context.report({ slot: name, waitingFor }),
  });
  if (rows[0] !== undefined) return rows[0].snapshot_name;
  throw snapshotGone(name);
}

async function hold(
  context: CopyContext,
  blue: Session,
  green: GreenInSight,
  holders: readonly Session[],
  names: readonly string[],
): Promise<'released' | 'lost'> {
  const { run, plan, signal, report } = context;
  const limit = parseSize(plan.replicate.maxRetainedWal);
  const watch = new CopyWatch(run.runId);
  let lost = false;
  for (const holder of holders) holder.once('end', () => (lost = true));
  for (;;) {
    const wal = await readRetainedWal(blue, names);
    if (lacksSlots(wal, names)) throw slotsGone(names[0] ?? '', wal);
    const { bytes } = wal;
    if (judgeRetainedWal(bytes, limit) === 'abort') throw retainedWalExceeded(names[0] ?? '', bytes, limit);
    await refuseOthers(blue, green, names);
    const seen = await green.ask((session) => watch.look(session));
    for (const table of seen?.tables ?? []) report(table);
    if (seen?.phase === 'closed') return 'released';
    if (seen?.phase === 'lost') return 'lost';
    // Tried again, it decides between new snapshots, while nothing has been copied, and none.
    if (lost) throw connectionLost();
    const next = performance.now() + WATCH_EVERY_MS;
    while (performance.now() < next && !lost) {
      await sleep(CLOSED_EVERY_MS, undefined, { signal });
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

function connectionLost(): VerdigrisError {
  return new VerdigrisError({
    type: 'ConnectionFailed',
    message: 'blue: the connection that holds the snapshot was lost',
    nextStep: 'nothing: what has been copied stays, the rest is copied in another way',
    retryable: true,
  });
}

function snapshotGone(name: string): VerdigrisError {
  return new VerdigrisError({
    type: 'ReplicationBroken',
    message: `blue: the slot ${name} was made without a snapshot`,
    nextStep: 'look for a proxy between the worker and blue: replication connections must reach the server itself',
  });
}
