import { formatTableName, type TableName } from '../../plan/table-name.js';
import { readTables } from '../catalog.js';
import { FENCE_TRIGGER, readArmedBefore, TRUNCATE_TRIGGER } from '../fence.js';
import type { Session } from '../session.js';
import type { Patterns } from './inventory.js';

/**
 * A table and its fence. `partial`: one of the two triggers is gone or is not ours. `lost`: it was armed, and both are gone:
 * dropped, or the table was made anew.
 */
export interface FencedTable {
  readonly table: string;
  readonly state: 'armed' | 'disabled' | 'partial' | 'lost' | 'absent';
}

interface TriggerRow extends TableName {
  triggers: number;
  enabled: number;
}

/** The fence of every table that the run moves, and of every other table that has one. */
export async function readFenceTriggers(session: Session, patterns: Patterns): Promise<FencedTable[]> {
  const { rows } = await session.query<TriggerRow>(
    `SELECT n.nspname AS schema, c.relname AS name, count(*)::int AS triggers,
            count(*) FILTER (WHERE t.tgenabled = 'A')::int AS enabled
       FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE t.tgname = ANY (ARRAY[$1, $2]) AND NOT t.tgisinternal
      GROUP BY 1, 2`,
    [FENCE_TRIGGER, TRUNCATE_TRIGGER],
  );
  const states = new Map<string, FencedTable['state']>(rows.map((row) => [formatTableName(row), stateOf(row)]));
  // Where every fence is gone it was taken away by who may.
  const wereArmed = states.size === 0 ? [] : await readArmedBefore(session);
  for (const name of wereArmed) {
    const table = formatTableName(name);
    if (!states.has(table)) states.set(table, 'lost');
  }
  for (const { name } of await readTables(session, patterns)) {
    const table = formatTableName(name);
    if (!states.has(table)) states.set(table, 'absent');
  }
  return [...states].map(([table, state]) => ({ table, state })).sort((a, b) => (a.table < b.table ? -1 : 1));
}

function stateOf(row: TriggerRow): FencedTable['state'] {
  if (row.triggers !== 2) return 'partial';
  if (row.enabled === 2) return 'armed';
  return row.enabled === 0 ? 'disabled' : 'partial';
}
