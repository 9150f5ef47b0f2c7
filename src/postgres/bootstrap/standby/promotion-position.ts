import { VerdigrisError } from '../../../errors.js';
import type { Session } from '../../session.js';

/*
 * The position at which a standby left blue's WAL: the end of the last record that it has replayed.
 *
 * Why following blue from there loses nothing and doubles nothing: the position is the boundary between two records. A
 * transaction whose commit record lies before it has been replayed, so it is visible on green. One whose commit record
 * begins at it or later has not, even if green has all of its rows: they belong to a transaction that never ended there,
 * and stay invisible like those of a crash. A logical slot sends exactly the transactions whose commit record begins at
 * the requested position or later, and each of them whole.
 *
 * It is read from the timeline's history file, which the server writes in the promotion and keeps for good.
 * pg_last_wal_replay_lsn() says the same only until green is started again: after a clean start it is NULL, and after
 * a crash it is the end of the crash recovery, far beyond (seen: rows of blue in between would be lost in silence).
 */

/**
 * Where the promoted green branched off from blue's timeline.
 *
 * @throws VerdigrisError ReplicationBroken when green did not come from that timeline.
 */
export async function readPromotionPosition(green: Session, blueTimeline: number): Promise<string> {
  const { rows } = await green.query<{ timeline: string; history: string | null }>(
    `SELECT t.timeline, pg_read_file('pg_wal/' || t.timeline || '.history', 0, 1048576, true) AS history
       FROM (SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline) t`,
  );
  const position = branchingPoint(rows[0]?.history ?? '', blueTimeline);
  if (position !== undefined) return position;
  throw new VerdigrisError({
    type: 'ReplicationBroken',
    message: `green's timeline ${rows[0]?.timeline ?? 'unknown'} does not branch off from blue's timeline ${blueTimeline}: where green left blue's WAL is not known`,
    nextStep:
      'one of the servers has failed over, or green has been restored: roll back and make a new standby of the blue of today',
  });
}

/** The switch point behind a timeline in a history file: lines of parent timeline, position and reason. */
export function branchingPoint(history: string, parent: number): string | undefined {
  for (const line of history.split('\n')) {
    const match = /^\s*(\d+)\s+([0-9A-Fa-f]+\/[0-9A-Fa-f]+)/.exec(line);
    if (match !== null && Number(match[1]) === parent) return match[2];
  }
  return undefined;
}
