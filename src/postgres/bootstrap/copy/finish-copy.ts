import { formatTableName, type TableName } from '../../../plan/table-name.js';
import { qualified } from '../../identifier.js';
import { markBackfilled } from '../../migrate/backfill-progress.js';
import { expandTable } from '../../migrate/expand-table.js';
import { planWork } from '../../migrate/plan-work.js';
import type { StepContext } from '../../migrate/step-context.js';
import type { Session } from '../../session.js';
import type { CopyContext } from './copy-context.js';
import { endParcels } from './copy-lock.js';
import { changeCopyState, forgetPieces, readParcels, readPieces } from './copy-state.js';
import type { Parcel } from './plan-parcels.js';

export interface FinishResult {
  /** Tables (topmost parents) whose rows are all on green. */
  readonly tables: number;
  /** The others: empty on green, left for tablesync. */
  readonly left: readonly string[];
}

/**
 * Closes the copying. Tables that are not complete are emptied in the transaction that closes it, so a worker that was
 * frozen here and wakes up later empties nothing that tablesync has filled since.
 */
export async function finishCopy(context: CopyContext, blue: Session, green: StepContext): Promise<FinishResult> {
  const { run, plan, signal, report } = context;
  const { session } = green;
  const parcels = await readParcels(session, run.runId);
  const closed = await changeCopyState(
    session,
    run.runId,
    async (now) => {
      if (now.phase === 'closed') return undefined;
      const left = await incompleteTables(session, run.runId, parcels);
      await emptyTables(session, left);
      await forgetPieces(session, run.runId, keysOf(parcels, left));
      return { ...now, phase: 'closed', snapshots: {}, left };
    },
    {
      signal,
      report,
      beforeTry: async () => {
        await endParcels(session);
        await endParcels(blue);
      },
    },
  );
  const left = closed?.left ?? [];
  for (const work of (await planWork(plan)).tables) {
    await expandTable(green, work);
    const complete = !left.some((table) => formatTableName(table) === formatTableName(work.table));
    if (complete) await markBackfilled(session, run.runId, [work.table]);
  }
  const all = new Set(parcels.flatMap(({ pieces }) => pieces.map(({ root }) => formatTableName(root))));
  return { tables: all.size - left.length, left: left.map(formatTableName) };
}

/** Tables of which at least one piece is not on green. */
async function incompleteTables(session: Session, runId: string, parcels: readonly Parcel[]): Promise<TableName[]> {
  const done = await readPieces(session, runId);
  const missing = parcels.flatMap(({ pieces }) => pieces.filter(({ key }) => !done.has(key)));
  return [...new Map(missing.map(({ root }) => [formatTableName(root), root])).values()];
}

function keysOf(parcels: readonly Parcel[], tables: readonly TableName[]): string[] {
  const names = new Set(tables.map(formatTableName));
  return parcels.flatMap(({ pieces }) =>
    pieces.filter(({ root }) => names.has(formatTableName(root))).map(({ key }) => key),
  );
}

/** All in one statement; partitioned ones with their leaves, but none with what inherits from it in the old way. */
async function emptyTables(session: Session, tables: readonly TableName[]): Promise<void> {
  if (tables.length === 0) return;
  const { rows } = await session.query<{ name: string }>(
    `SELECT format('%s%I.%I', CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, n.nspname, c.relname) AS name
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.oid IN (SELECT to_regclass(name)::oid FROM unnest($1::text[]) name)`,
    [tables.map(qualified)],
  );
  if (rows.length > 0) await session.query(`TRUNCATE TABLE ${rows.map(({ name }) => name).join(', ')}`);
}
