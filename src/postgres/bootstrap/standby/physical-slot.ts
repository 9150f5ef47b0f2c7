import { literal } from '../../identifier.js';
import type { Session } from '../../session.js';

/** The physical slot on blue that green used as a standby: nobody reads it any more, and it is not ours to drop. */
export interface PhysicalSlot {
  readonly name: string;
  /** WAL that it holds back, bytes. */
  readonly retainedBytes: number;
  /** Whether it also keeps VACUUM on blue from removing rows (hot_standby_feedback). */
  readonly holdsVacuum: boolean;
  readonly active: boolean;
}

/** The slot that green's configuration names, if blue has it. */
export async function readPhysicalSlot(blue: Session, green: Session): Promise<PhysicalSlot | undefined> {
  const { rows: named } = await green.query<{ name: string }>(`SELECT current_setting('primary_slot_name') AS name`);
  const { rows } = await blue.query<{ name: string; retained: string; vacuum: boolean; active: boolean }>(
    `SELECT slot_name AS name, xmin IS NOT NULL AS vacuum, active,
            coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn), 0)::bigint::text AS retained
       FROM pg_replication_slots WHERE slot_type = 'physical' AND slot_name = $1`,
    [named[0]?.name ?? ''],
  );
  const row = rows[0];
  return row && { name: row.name, retainedBytes: Number(row.retained), holdsVacuum: row.vacuum, active: row.active };
}

/** What somebody has to do about it. */
export function dropPhysicalSlot(slot: Pick<PhysicalSlot, 'name'>): string {
  return `SELECT pg_drop_replication_slot(${literal(slot.name)})`;
}

/** For people, once green has been promoted. */
export function describePhysicalSlot(slot: PhysicalSlot): string {
  const held = `${Math.ceil(slot.retainedBytes / 2 ** 20)} MB of WAL${slot.holdsVacuum ? ', and keeps VACUUM from removing rows' : ''}`;
  return (
    `the physical slot ${slot.name} on blue, which green used as a standby, holds back ${held}, and more every minute; ` +
    `drop it on blue unless another standby uses it: ${dropPhysicalSlot(slot)}`
  );
}
