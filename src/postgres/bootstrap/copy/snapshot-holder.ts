import { randomUUID } from 'node:crypto';
import { VerdigrisError } from '../../../errors.js';
import { dropSlot, whileSlotIsMade } from '../../replication-slot.js';
import { closeSession, openReplicationSession, openSession, SHORT_STATEMENTS, type Session } from '../../session.js';
import { streamNames } from '../../streams.js';
import { answerTime, sessionsAtWork } from './blue-load.js';
import type { CopyContext } from './copy-context.js';
import { HOLDER_LOCK, STREAM_LOCK, takeOver } from './copy-lock.js';
import { changeCopyState, readCopyState, readPieces, storeParcels } from './copy-state.js';
import { GreenInSight } from './green-in-sight.js';
import {
  findHeld,
  hold,
  keepForNext,
  onlyAttempt,
  readHolders,
  watchHeld,
  type HolderAttempt,
} from './held-snapshots.js';
import { parcelsOfNewLeaves } from './new-leaves.js';

/*
 * A slot that is made over a replication connection exports a snapshot: what the database held at the very position
 * where the slot begins. Parcels read that snapshot, so a row is either in it or comes by the slot, and never both. The
 * snapshot lives as long as the connection sends no further command, so it is held open until every parcel is done. Green
 * is only asked whether it is: its sessions may be lost meanwhile.
 */

/** Takes a tenth of a second. */
const BASELINE_QUESTIONS = 15;

/**
 * Makes the slots and their snapshots, lets them be read, and holds them until the signal is aborted. An attempt that
 * finds those of the one before still held watches over them instead.
 *
 * @returns 'lost' when an earlier holder is gone and rows have been copied: other snapshots would not fit them.
 *   'released' when the copying has been closed.
 * @throws VerdigrisError RetainedWalExceeded, ReplicationBroken
 */
export async function holdSnapshots(
  context: CopyContext,
  attempt: HolderAttempt = onlyAttempt,
): Promise<'released' | 'lost'> {
  const { databases, run, plan, signal, report } = context;
  const names = streamNames(run.migration, 'to_green', plan.replicate.streams);
  const opened: Session[] = [];
  const closeAll = (): Promise<unknown> => Promise.all(opened.map(closeSession));
  let kept = false;
  const opens = async (session: Promise<Session>): Promise<Session> => {
    opened.push(await session);
    if (kept) letProcessEnd(await session);
    return session;
  };
  const openGreen = (): Promise<Session> =>
    opens(openSession(databases.green, { purpose: 'copy holder', ...SHORT_STATEMENTS }));
  try {
    const blue = await opens(openSession(databases.blue, { purpose: 'copy holder' }));
    const green = await openGreen();
    const inSight = new GreenInSight(green, openGreen, (why) =>
      context.report({ snapshots: 'held', greenIsAway: why }),
    );
    const held = attempt.isAnother ? await findHeld(blue, await readCopyState(green, run.runId)) : undefined;
    if (held !== undefined) return await watchHeld(context, attempt, blue, inSight, held, names);
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
        return { ...now, incarnation, snapshots: {}, holders: [], phase: copied ? 'lost' : 'planned' };
      },
      { signal, report },
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
    const parcels = await parcelsOfNewLeaves(context, blue, green, snapshots);
    const holding = await readHolders(blue, holders);
    const before = await sessionsAtWork(blue);
    const usualAnswerMs = await answerTime(blue, BASELINE_QUESTIONS);
    // Met twice: one query at one moment is nobody whom a copy could disturb.
    const othersWork = before > 0 && (await sessionsAtWork(blue)) > 0;
    const ready = await changeCopyState(
      green,
      run.runId,
      async (now) => {
        if (now.incarnation !== incarnation) return undefined;
        await storeParcels(green, run.runId, parcels);
        return { ...now, snapshots, holders: holding, usualAnswerMs, othersWork, phase: 'ready' };
      },
      { signal, report },
    );
    if (ready?.incarnation !== incarnation) return 'lost';
    let lost = false;
    for (const holder of holders) holder.once('end', () => (lost = true));
    const snapshotsHeld = { blue, green: inSight, names, areAlive: () => !lost };
    try {
      return await hold(context, snapshotsHeld);
    } catch (error) {
      if (signal.aborted && attempt.endedBy() === 'silence') {
        kept = true;
        opened.forEach(letProcessEnd);
        void keepForNext(context, attempt, snapshotsHeld).finally(closeAll);
      }
      throw error;
    }
  } finally {
    if (!kept) await closeAll();
  }
}

/** A worker that is asked to stop does not wait for what is kept; its sessions end with it. The typings lack it. */
function letProcessEnd(session: Session): void {
  (session as Session & { unref(): void }).unref();
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

function snapshotGone(name: string): VerdigrisError {
  return new VerdigrisError({
    type: 'ReplicationBroken',
    message: `blue: the slot ${name} was made without a snapshot`,
    nextStep: 'look for a proxy between the worker and blue: replication connections must reach the server itself',
  });
}
