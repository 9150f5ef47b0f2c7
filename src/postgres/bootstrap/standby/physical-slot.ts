import { literal } from '../../identifier.js';
import { readProgress, writeProgress, type ProgressKey } from '../../migrate/progress-row.js';
import type { Run } from '../../ownership.js';
import type { Session } from '../../session.js';
import { hasState } from '../../state.js';

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
  const { rows } = await green.query<{ name: string }>(`SELECT current_setting('primary_slot_name') AS name`);
  return readSlotByName(blue, rows[0]?.name ?? '');
}

/** Keeps the slot's name on blue, for those who watch it while green may be away. */
export async function rememberPhysicalSlot(blue: Session, run: Run, { name }: PhysicalSlot): Promise<void> {
  await writeProgress(blue, slotKey(run), { name }, true);
}

/** The slot that the promotion has left behind, while nobody has dropped it and no other standby uses it. */
export async function readAbandonedSlot(blue: Session, run: Run): Promise<PhysicalSlot | undefined> {
  if (!(await hasState(blue))) return undefined;
  const known = await readProgress<{ readonly name: string }>(blue, slotKey(run));
  const slot = known === undefined ? undefined : await readSlotByName(blue, known.state.name);
  return slot?.active === true ? undefined : slot;
}

function slotKey(run: Run): ProgressKey {
  return { runId: run.runId, step: 'standby', object: 'physical slot' };
}

async function readSlotByName(blue: Session, name: string): Promise<PhysicalSlot | undefined> {
  const { rows } = await blue.query<{ name: string; retained: string; vacuum: boolean; active: boolean }>(
    `SELECT slot_name AS name, xmin IS NOT NULL AS vacuum, active,
            coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn), 0)::bigint::text AS retained
       FROM pg_replication_slots WHERE slot_type = 'physical' AND slot_name = $1`,
    [name],
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
