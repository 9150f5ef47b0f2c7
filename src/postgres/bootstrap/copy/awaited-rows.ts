import { qualified } from '../../identifier.js';
import type { Step } from '../../migrate/plan-work.js';
import type { Session } from '../../session.js';
import { parseTableName } from '../../../plan/table-name.js';
import { readCopyState } from './copy-state.js';

/**
 * Whether a step needs rows that are still to come: a foreign key, where the table or the one that it refers to has been
 * left to PostgreSQL's own synchronization, which has not begun. Every row would break it while the other table is empty,
 * and rows that come later would not be checked. To be asked while green does not follow blue; phase 3 makes the key.
 */
export async function awaitsRows(green: Session, runId: string, step: Step): Promise<boolean> {
  if (step.kind !== 'constraint' || step.constraint.foreignKey === undefined) return false;
  const left = (await readCopyState(green, runId))?.left ?? [];
  if (left.length === 0) return false;
  const tables = [step.table, parseTableName(step.constraint.foreignKey.references.table)];
  const { rowCount } = await green.query(
    `SELECT FROM unnest($1::text[]) needed (name) JOIN unnest($2::text[]) awaited (name)
         ON to_regclass(awaited.name) = coalesce(pg_partition_root(to_regclass(needed.name)), to_regclass(needed.name))`,
    [tables.map(qualified), left.map(qualified)],
  );
  return rowCount !== 0;
}
