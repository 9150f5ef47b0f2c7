import { majorVersion } from '../../retry.js';
import type { Database, Session } from '../../session.js';
import { enableSubscription, ensureSubscription, switchOffSubscription } from '../../subscription.js';
import { refuseLateSlots } from './slot-starts.js';
import type { StandbyRun } from './standby-run.js';

/**
 * Makes the promoted green follow blue from the position at which it left blue's WAL. Subscriptions copy no rows, and
 * are enabled only when their origin stands at that position.
 *
 * @param peer blue, which green's server reaches.
 */
export async function followBlue(standby: StandbyRun, position: string, peer: Database): Promise<void> {
  const { blue, green, streams } = standby;
  const publisherVersion = await majorVersion(blue);
  for (const name of streams) {
    if ((await readFollower(green, name, position)) === 'follows') continue;
    await refuseLateSlots({ blue, streams: [name] }, position);
    const known = { peer, conninfo: peer.peerConninfo, publisher: blue, publisherVersion };
    const options = { name, ...known, copyData: false, enabled: false };
    await ensureSubscription(green, options);
    if ((await readFollower(green, name, position)) === 'behind') await advance(green, name, position);
    // The origin's position is in the WAL before the commit that enables: no crash keeps the one without the other.
    await enableSubscription(green, name);
  }
}

type Follower = 'absent' | 'behind' | 'ready' | 'follows';

/** How far a stream is: its origin must never be moved back, once rows have been applied. */
async function readFollower(green: Session, name: string, position: string): Promise<Follower> {
  const { rows } = await green.query<{ enabled: boolean; ready: boolean }>(
    `SELECT s.subenabled AS enabled,
            coalesce(pg_replication_origin_progress('pg_' || s.oid, true) >= $2::pg_lsn, false) AS ready
       FROM pg_subscription s
      WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.subname = $1`,
    [name, position],
  );
  const row = rows[0];
  if (row === undefined) return 'absent';
  if (!row.ready) return 'behind';
  return row.enabled ? 'follows' : 'ready';
}

async function advance(green: Session, name: string, position: string): Promise<void> {
  // Enabled behind our back without a position, it would apply everything since the slot's start a second time.
  await switchOffSubscription(green, name);
  await green.query(
    `SELECT pg_replication_origin_advance('pg_' || s.oid, $2::pg_lsn) FROM pg_subscription s
      WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.subname = $1`,
    [name, position],
  );
}
