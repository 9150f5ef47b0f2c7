import { VerdigrisError } from '../../../errors.js';
import { literal } from '../../identifier.js';
import { writeProgress } from '../../migrate/progress-row.js';
import { dropPublication } from '../../publication.js';
import { briefLock } from '../../brief-lock.js';
import { inTransaction, type Session } from '../../session.js';
import { readClaimedDatabase } from '../../other-owner.js';
import { installState, readRoute, recordEvent, type Refusal } from '../../state.js';
import { readPromotionPosition } from './promotion-position.js';
import { readIdentity } from './recovery.js';
import { promotedKey, readPromoted, requireAsked, type PromotedStandby, type StandbyRun } from './standby-run.js';

/**
 * Turns the copy of blue's schema `verdigris` into green's own, once green has been promoted: the functions of its side,
 * the owner, and the position that it follows blue from. The run, the epoch and the markers are the same on both sides,
 * since green has them from blue. What belongs to blue alone is taken away.
 *
 * @throws VerdigrisError ReplicationBroken when somebody else has promoted green, or it is no copy of blue.
 */
export async function takeOverGreen(standby: StandbyRun, refuseWith?: Refusal): Promise<PromotedStandby> {
  const { blue, green, run } = standby;
  await refuseBlueItself(standby);
  const intent = await requireAsked(blue, run);
  const known = await readPromoted(green, run);
  if (known !== undefined) return known;
  const promoted = { position: await readPromotionPosition(green, intent.timeline), closed: intent.closed };

  await installState(green, 'green', { isCopy: true, refuseWith });
  await dropBluePublications(green);
  await rollBackPrepared(green);
  await inTransaction(green, async () => {
    const { rowCount } = await green.query(
      `UPDATE verdigris.owner SET side = 'green' WHERE run_id = $1 AND outcome IS NULL`,
      [run.runId],
    );
    const route = await readRoute(green, run.migration);
    if (rowCount !== 1 || route === undefined) throw notOurs();
    await green.query('DELETE FROM verdigris.progress');
    await green.query('DELETE FROM verdigris.event');
    await green.query('DELETE FROM verdigris.router');
    await writeProgress(green, promotedKey(run), promoted, true);
    // No write can have moved before: the epoch is that of the claim, by which it is known that green has never been primary.
    await recordEvent(green, run.runId, 'claimed green', { epoch: route.epoch, ...(await readClaimedDatabase(green)) });
    await recordEvent(green, run.runId, 'promoted: no standby any more', { position: promoted.position });
  });
  return promoted;
}

/** Both connections may lead to blue by now, for instance by a name that follows the primary. */
async function refuseBlueItself({ blue, green }: StandbyRun): Promise<void> {
  const [source, copy] = [await readIdentity(blue), await readIdentity(green)];
  if (source.system === copy.system && source.timeline !== copy.timeline && !copy.inRecovery) return;
  throw new VerdigrisError({
    type: 'ReplicationBroken',
    message: copy.inRecovery
      ? 'green is a standby still, although it was promoted'
      : "green's connection does not lead to the standby that was promoted, but to blue or to another cluster",
    nextStep: 'mend the connection: green has to be the address of that server, not a name that follows the primary',
  });
}

/** They would publish green's rows to nobody, and stand in the way of the feed backwards. */
async function dropBluePublications(green: Session): Promise<void> {
  const { rows } = await green.query<{ name: string }>(
    `SELECT pubname AS name FROM pg_publication WHERE pubname LIKE 'verdigris\\_%'`,
  );
  for (const { name } of rows) {
    await briefLock(green, `DROP PUBLICATION ${name}`, () => dropPublication(green, name));
  }
}

/**
 * A transaction that was prepared on blue and not ended there came along as prepared, with its locks. Blue sends it
 * whole when it commits it: green's half is given up.
 */
async function rollBackPrepared(green: Session): Promise<void> {
  const { rows } = await green.query<{ gid: string }>(
    'SELECT gid FROM pg_prepared_xacts WHERE database = current_database()',
  );
  for (const { gid } of rows) await green.query(`ROLLBACK PREPARED ${literal(gid)}`);
}

function notOurs(): VerdigrisError {
  return new VerdigrisError({
    type: 'DatabaseOwned',
    message: "green's copy of the schema verdigris is not that of this run",
    nextStep: 'roll back, make green a standby of blue again (pg_basebackup, or pg_rewind), and start again',
  });
}
