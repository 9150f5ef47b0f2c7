import type { Session } from '../../session.js';

/** Which cluster a server runs, and whether it is a standby. */
export interface ServerIdentity {
  /** Made by initdb; the same for every physical copy of a cluster. */
  readonly system: string;
  readonly database: string;
  readonly inRecovery: boolean;
  /** The timeline of the WAL that it writes, or replays. */
  readonly timeline: number;
}

export async function readIdentity(session: Session): Promise<ServerIdentity> {
  const { rows } = await session.query<{ system: string; database: string; in_recovery: boolean; timeline: number }>(
    // The control file's timeline is that of the last checkpoint, and a promotion makes one only later; the name of
    // the WAL file that is written has it at once, but can't be asked for on a standby.
    `SELECT s.system_identifier::text AS system, current_database() AS database, pg_is_in_recovery() AS in_recovery,
            CASE WHEN pg_is_in_recovery() THEN c.timeline_id
                 ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END AS timeline
       FROM pg_control_system() s, pg_control_checkpoint() c`,
  );
  const row = rows[0];
  if (row === undefined) throw new Error('pg_control_system() returned no row');
  return { system: row.system, database: row.database, inRecovery: row.in_recovery, timeline: row.timeline };
}

/** How far a standby has replayed blue's WAL. */
export interface Replay {
  /** WAL that is still to be replayed up to the position that was asked for, bytes; 0 once it is reached. */
  readonly behindBytes: number;
  /** Whether WAL arrives over a connection. */
  readonly streaming: boolean;
  readonly paused: boolean;
}

export async function readReplay(standby: Session, upto: string): Promise<Replay> {
  const { rows } = await standby.query<{ behind: string; streaming: boolean; paused: boolean }>(
    `SELECT GREATEST(pg_wal_lsn_diff($1, pg_last_wal_replay_lsn()), 0)::bigint::text AS behind,
            EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming') AS streaming,
            pg_is_wal_replay_paused() AS paused`,
    [upto],
  );
  const row = rows[0];
  return {
    behindBytes: Number(row?.behind ?? Number.POSITIVE_INFINITY),
    streaming: row?.streaming === true,
    paused: row?.paused === true,
  };
}
