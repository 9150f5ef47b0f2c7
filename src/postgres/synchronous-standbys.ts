import { otherSide, type Side } from '../side.js';
import { answerWithin } from '../timing.js';
import { closeSession, openBeside, type Session } from './session.js';

/*
 * For whom the commits of a server wait (`synchronous_standby_names`). The WAL sender of a subscription is a standby like any
 * other, by its application_name, which is the name of the subscription: `*` means it, too. No limit of time ends that wait:
 * PostgreSQL has switched statement_timeout off by then. Meanwhile what the transaction has done beside MVCC is there, its
 * locks are held, and its rows are not seen.
 */

/** The setting, as PostgreSQL reads it. Source: its syncrep_gram.y and syncrep_scanner.l */
export interface SynchronousStandbys {
  /** As it is written. */
  readonly setting: string;
  /** `first`: a commit waits for those that come first in the list; `any`: for whoever answers first. */
  readonly method: 'first' | 'any';
  /** For how many. */
  readonly needed: number;
  /** application_names in their order; `*` is any. */
  readonly members: readonly string[];
}

/** @returns undefined where commits wait for nobody */
export function parseStandbys(setting: string): SynchronousStandbys | undefined {
  if (setting.trim() === '') return undefined;
  const [, method, needed, listed] = /^\s*(?:(any|first)\s+)?(\d+)\s*\((.*)\)\s*$/is.exec(setting) ?? [];
  const members = [...(listed ?? setting).matchAll(/"((?:[^"]|"")*)"|[^\s,"]+/g)];
  return {
    setting,
    method: method?.toLowerCase() === 'any' ? 'any' : 'first',
    needed: Number(needed ?? 1),
    members: members.map(([plain, quoted]) => quoted?.replaceAll('""', '"') ?? plain),
  };
}

/** Which place a standby of this name has in the list, from 1; 0 where commits never wait for it. */
export function placeOf(name: string, { members }: SynchronousStandbys): number {
  return 1 + members.findIndex((member) => member === '*' || member.toLowerCase() === name.toLowerCase());
}

export async function readStandbys(session: Session): Promise<SynchronousStandbys | undefined> {
  const { rows } = await session.query<{ setting: string }>(
    `SELECT current_setting('synchronous_standby_names') AS setting`,
  );
  return parseStandbys(rows[0]?.setting ?? '');
}

/**
 * Those of the list who follow the server now, feeds of ours and copies of single tables apart. Of a server in recovery none counts before its promotion,
 * whatever its setting: these are who would then.
 */
export async function readFollowingStandbys(session: Session, standbys: SynchronousStandbys): Promise<string[]> {
  const { rows } = await session.query<{ name: string }>(
    // Without pg_monitor their state is not seen.
    `SELECT application_name AS name FROM pg_stat_replication
      WHERE coalesce(state, 'streaming') IN ('streaming', 'stopping')
        AND application_name !~ '^(verdigris_.*_to_(blue|green)(_[0-9]+)?|pg_[0-9]+_sync_.*)$'
      ORDER BY 1`,
  );
  return rows.map(({ name }) => name).filter((name) => placeOf(name, standbys) > 0);
}

/** Why no commit on the server would end, or will once it is promoted; undefined where commits are answered. */
export async function whyCommitsHang(session: Session): Promise<string | undefined> {
  const standbys = await readStandbys(session);
  if (standbys === undefined) return undefined;
  const following = await readFollowingStandbys(session, standbys);
  return following.length < standbys.needed ? hang(standbys, following) : undefined;
}

export function hang({ setting, needed }: SynchronousStandbys, following: readonly string[]): string {
  const whom = needed === 1 ? 'a synchronous standby' : `${needed} synchronous standbys`;
  return `each commit waits for ${whom} (synchronous_standby_names = '${setting}'), of which ${following.length === 0 ? 'none' : `only ${following.join(', ')}`} follows this server`;
}

/** Which of these slots are read by one for whom commits wait, or may wait. None where the role may not see that. */
export async function readSynchronousFeeds(session: Session, slots: readonly string[]): Promise<string[]> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT s.slot_name::text AS name FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid
      WHERE s.slot_name = ANY ($1::name[]) AND s.database = current_database() AND r.sync_state IN ('sync', 'quorum')
      ORDER BY 1`,
    [slots],
  );
  return rows.map(({ name }) => name);
}

/** What that means on the side that sends them. */
export function describeSynchronous(side: Side, feeds: readonly string[]): string {
  const other = otherSide(side);
  return `${side} takes the feed to ${other} for a synchronous standby (${feeds.join(', ')}, by synchronous_standby_names): commits on ${side} wait for ${other} and stop where it does, or are acknowledged by ${other} in place of a replica`;
}

/** How long somebody may take to look what is waited for, ms. */
const LOOK_MS = 1_000;

/**
 * What commits that are not answered wait for, asked by a session of its own.
 *
 * @param whose which sessions `a` of pg_stat_activity are meant
 * @param end ends the waits, as it may for a commit on which nothing depends: it stays on this server's disk. Default: false
 * @returns undefined where it is no synchronous standby, or that can't be seen
 */
export async function standbyAwaited(session: Session, whose: string, end = false): Promise<string | undefined> {
  const look = async (): Promise<string | undefined> => {
    const beside = await openBeside(session, { purpose: 'what commits wait for' });
    try {
      const { rows } = await beside.query<{ setting: string }>(
        `SELECT current_setting('synchronous_standby_names') AS setting, CASE WHEN $1 THEN pg_cancel_backend(a.pid) END
           FROM pg_stat_activity a WHERE a.wait_event = 'SyncRep' AND ${whose}`,
        [end],
      );
      return rows[0] && `a synchronous standby that does not answer (synchronous_standby_names = '${rows[0].setting}')`;
    } finally {
      await closeSession(beside);
    }
  };
  return answerWithin(LOOK_MS, look(), () => new Error('no answer')).catch(() => undefined);
}

/** What has commits go on without that standby. */
export const WITHOUT_STANDBY = `ALTER SYSTEM SET synchronous_standby_names = '', then SELECT pg_reload_conf() (with a failover manager or a managed service: its own setting for it; once a standby follows again: ALTER SYSTEM RESET, and reload)`;
