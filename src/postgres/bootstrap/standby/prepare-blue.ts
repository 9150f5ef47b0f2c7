import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../../../errors.js';
import { feedName } from '../../feed.js';
import { isInRecovery } from '../../in-recovery.js';
import { refuseTooMuchWal } from '../../lag.js';
import { ensureSlot } from '../../replication-slot.js';
import { takesNoWrites } from '../../session.js';
import { mayCloseToWriters, firesForAppliedRows } from './read-only-default.js';
import { readIdentity, readReplay } from './recovery.js';
import { readIntent, requireAsked, writeIntent, type StandbyRun } from './standby-run.js';

/**
 * Makes the slots on blue, and writes down how far green must replay before it may be promoted: behind the start of
 * each of them, so that every transaction that green has not replayed is one that the slots send. The publications are
 * there already: a slot that is older than its publication fails on PostgreSQL 15.
 *
 * Does nothing once green has been promoted: a slot made then would begin too late.
 *
 * @throws VerdigrisError ReplicationBroken when green was promoted by somebody else, or is no copy of blue.
 */
export async function prepareSlots(standby: StandbyRun): Promise<void> {
  const { blue, green, run, streams, signal } = standby;
  if (!(await isInRecovery(green))) {
    await requireAsked(blue, run);
    return;
  }
  const identity = await refuseOtherCluster(standby);
  for (const slot of streams) {
    await ensureSlot(blue, slot, {
      signal,
      onWait: (whom) => standby.report(progress(`slot ${slot}`, 0, streams.length, `waits for ${whom}`)),
    });
  }
  const { rows } = await blue.query<{ target: string }>('SELECT pg_current_wal_flush_lsn()::text AS target');
  const target = rows[0]?.target ?? '';
  const closed = (await mayCloseToWriters(green)) && (await firesForAppliedRows(green, standby.tables)).length === 0;
  // The row's own commit lies behind the target, so WAL that green can replay goes on beyond it even on an idle blue.
  const asked = (await readIntent(blue, run))?.asked === true;
  await writeIntent(blue, run, { target, timeline: identity.timeline, closed, asked });
}

/** Waits until green has replayed far enough. @throws VerdigrisError ReplicationStalled, RetainedWalExceeded */
export async function awaitReplay(standby: StandbyRun): Promise<void> {
  const { blue, green, run, signal } = standby;
  if (!(await isInRecovery(green))) return;
  const target = (await readIntent(blue, run))?.target;
  if (target === undefined) throw new Error('the slots on blue are made before green is waited for');
  const first = (await readReplay(green, target)).behindBytes;
  let lastStreaming = performance.now();
  for (;;) {
    signal.throwIfAborted();
    const { behindBytes, streaming, paused } = await readReplay(green, target);
    if (behindBytes === 0) return;
    standby.report(progress('replay', Math.max(0, first - behindBytes), first, 'bytes of WAL until the promotion'));
    if (streaming) lastStreaming = performance.now();
    if (paused || performance.now() - lastStreaming > NOT_STREAMING_MS) throw stalled(paused);
    await refuseTooMuchWal(blue, feedName(run.migration, 'to_green'), standby.maxRetainedWal);
    await sleep(50);
  }
}

/** A walreceiver that lost its connection comes back within wal_retrieve_retry_interval, 5 s by default. */
const NOT_STREAMING_MS = 15_000;

function stalled(paused: boolean): VerdigrisError {
  return new VerdigrisError({
    type: 'ReplicationStalled',
    message: paused
      ? 'green has paused its replay, so it does not reach the start of the slots'
      : 'green receives no WAL from blue any more, so it does not reach the start of the slots',
    nextStep: paused
      ? 'on green: SELECT pg_wal_replay_resume(); the run goes on by itself'
      : "see primary_conninfo and the log of green's server; the run goes on by itself when it streams again",
    retryable: true,
  });
}

/**
 * Green must be a copy of this blue: promoting another cluster's standby would end that one for nothing.
 *
 * @throws VerdigrisError ReplicationBroken; ConnectionFailed (retryable) where blue is a standby itself, as in a failover
 */
export async function refuseOtherCluster({ blue, green }: Pick<StandbyRun, 'blue' | 'green'>): Promise<{
  readonly timeline: number;
}> {
  const [source, copy] = [await readIdentity(blue), await readIdentity(green)];
  if (source.inRecovery) throw takesNoWrites(blue);
  if (source.system === copy.system && source.database === copy.database) return source;
  throw new VerdigrisError({
    type: 'ReplicationBroken',
    message: `green is no copy of blue: ${source.system === copy.system ? `the databases are "${source.database}" and "${copy.database}"` : 'it comes from another cluster (system_identifier)'}`,
    nextStep: 'mend the connection that is wrong: green has to lead to the same database on a standby of blue',
  });
}

function progress(object: string, done: number, total: number, note: string) {
  return { step: 'standby', object, done, total, rowsPerSecond: 0, etaSeconds: null, note };
}
