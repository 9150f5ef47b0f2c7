import type { Side } from '../side.js';
import type { Session } from './session.js';
import { systemIdentifier } from './system-identifier.js';

/** Which server this is, and how far it is: a replica that was promoted, or a restored copy, is another one and may have less. */
export interface ServerPosition {
  /** Its `system_identifier`; empty where the role may not ask for it. */
  readonly system: string;
  /** Of its WAL: each promotion, and each restore to a point in time, begins another one. */
  readonly timeline: string;
  /** What is on its disk: unlike what is only written, no crash takes that back. */
  readonly lsn: string;
}

/** The same as it was written down at another time: an earlier version has written less. */
export type KnownServer = Pick<ServerPosition, 'timeline'> & Partial<ServerPosition>;

/** Columns of a query for all of a ServerPosition but its system. */
export const WAL_POSITION = `
  left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline,
  pg_current_wal_flush_lsn()::text AS lsn`;

export async function readServerPosition(session: Session): Promise<ServerPosition> {
  const { rows } = await session.query<Omit<ServerPosition, 'system'>>(`SELECT ${WAL_POSITION}`);
  return { system: (await systemIdentifier(session)) ?? '', timeline: '', lsn: '0/0', ...rows[0] };
}

/** Why a side is not the server any more that it was, or not with all that it had; undefined when it is. */
export function whyReplaced(side: Side, before: KnownServer, now: ServerPosition): string | undefined {
  const { system = '', timeline, lsn = '0/0' } = before;
  if (system !== '' && now.system !== '' && now.system !== system) return `${side} is another server than it was`;
  if (now.timeline !== timeline) return `${side} was failed over or restored (its timeline has changed)`;
  return walPosition(now.lsn) < walPosition(lsn) ? `${side} was restored to an earlier state` : undefined;
}

/** An LSN as a number, such as `16/B374D848`. */
export function walPosition(lsn: string): bigint {
  const [high, low] = lsn.split('/');
  return (BigInt(`0x${high ?? '0'}`) << 32n) + BigInt(`0x${low ?? '0'}`);
}
