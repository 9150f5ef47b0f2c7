import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../../../errors.js';
import { isInRecovery } from '../../in-recovery.js';
import { inTransaction, type Session } from '../../session.js';
import { NOT_IN_STATE, sqlState } from '../../sqlstate.js';
import { whyCommitsHang, WITHOUT_STANDBY } from '../../synchronous-standbys.js';
import { refuseOtherCluster } from './prepare-blue.js';
import { closeToWriters } from './read-only-default.js';
import { readReplay } from './recovery.js';
import { refuseLateSlots } from './slot-starts.js';
import { readIntent, writeIntent, type StandbyRun } from './standby-run.js';

/** How long one request to promote waits; it stays in force when that is over. */
const PROMOTE_SECONDS = 5;

/**
 * The step that can't be undone: green stops being a standby.
 *
 * Everything before it leaves green as it was. primary_conninfo is not touched: until the promotion green must go on as
 * a standby if the run is given up, and afterwards nobody reads it. The server ends its walreceiver itself, replays what
 * has arrived, and only then opens a timeline of its own; so where it ends is where the next steps begin.
 */
export async function promoteStandby(standby: StandbyRun): Promise<void> {
  const { blue, green, run, signal } = standby;
  if (!(await isInRecovery(green))) return;
  await refuseOtherCluster(standby);
  const intent = await readIntent(blue, run);
  if (intent === undefined || (await readReplay(green, intent.target)).behindBytes > 0) throw tooEarly();
  await refuseLateSlots(standby, intent.target);
  await refuseHangingCommits(green);

  await inTransaction(blue, async () => {
    await refuseEndedRun(standby);
    await writeIntent(blue, run, { ...intent, asked: true });
  });
  if (intent.closed) await closeToWriters(green);
  for (;;) {
    signal.throwIfAborted();
    try {
      const { rows } = await green.query<{ promoted: boolean }>(
        `SELECT pg_promote(true, ${PROMOTE_SECONDS}) AS promoted`,
      );
      if (rows[0]?.promoted === true) return;
    } catch (error) {
      // An earlier request has come true meanwhile.
      if (sqlState(error) !== NOT_IN_STATE) throw error;
    }
    if (!(await isInRecovery(green))) return;
    await sleep(100);
  }
}

/** A worker that was frozen while the run was rolled back must not promote when it wakes up. */
async function refuseEndedRun({ blue, run }: StandbyRun): Promise<void> {
  const { rowCount } = await blue.query('SELECT FROM verdigris.owner WHERE run_id = $1 AND outcome IS NULL FOR SHARE', [
    run.runId,
  ]);
  if (rowCount === 1) return;
  throw new VerdigrisError({
    type: 'DatabaseOwned',
    message: 'blue does not belong to this run any more: green is not promoted',
    nextStep: 'nothing: the run has been rolled back',
  });
}

/** It does not pass by itself: the status says what is waited for. */
export class CommitsWouldHang extends VerdigrisError {}

/** What green has of blue's settings does nothing until then, and no limit of time would end the first commit after it. */
async function refuseHangingCommits(green: Session): Promise<void> {
  const why = await whyCommitsHang(green);
  if (why === undefined) return;
  throw new CommitsWouldHang({
    type: 'ReplicationStalled',
    message: `green is not promoted, which can't be taken back: once it is, ${why}`,
    nextStep: `on green itself: ${WITHOUT_STANDBY}; the run goes on by itself then`,
    retryable: true,
  });
}

function tooEarly(): VerdigrisError {
  return new VerdigrisError({
    type: 'ReplicationStalled',
    message: 'green has not replayed up to the start of the slots on blue: it is not promoted',
    nextStep: 'see that green streams from blue; the run goes on by itself',
    retryable: true,
  });
}
