import { formatTableName } from '../../../plan/table-name.js';
import type { Progress } from '../../migrate/step-context.js';
import type { Session } from '../../session.js';
import { TableRates } from '../copy-rates.js';
import { readCopyState, readParcels, readParts, readPieces, type CopyState, type PieceDone } from './copy-state.js';
import type { Piece } from './plan-parcels.js';

/** How many tables are told of at once: those that are being copied, the largest first. */
const SHOWN = 8;

interface TableCount {
  rows: number;
  /** As blue measured them before: known for what is done and for what is left. */
  doneBytes: number;
  readonly totalBytes: number;
  readonly estimatedRows: number;
}

function shareOf({ doneBytes, totalBytes }: TableCount): number {
  return totalBytes === 0 ? 1 : Math.min(1, doneBytes / totalBytes);
}

/** How far the copy is, table by table, as green sees it: whoever copies, on whatever worker. */
export class CopyWatch {
  private readonly rates = new TableRates();
  private pieces: readonly Piece[] = [];
  private readonly told = new Set<string>();

  constructor(private readonly runId: string) {}

  /** Tables that are being copied or have been finished since the last look, whatever session that one had. */
  async look(
    green: Session,
  ): Promise<{ readonly phase: CopyState['phase'] | undefined; readonly tables: readonly Progress[] }> {
    const state = await readCopyState(green, this.runId);
    if (this.pieces.length === 0) {
      this.pieces = (await readParcels(green, this.runId)).flatMap(({ pieces }) => pieces);
    }
    const counts = await this.count(green);
    const copied = [...counts].map(
      ([table, count]) => [table, { rows: count.rows, bytes: count.doneBytes, share: shareOf(count) }] as const,
    );
    const rates = this.rates.look(new Map(copied), performance.now());
    const tables: Progress[] = [];
    const open = [...counts].filter(([table, c]) => c.rows > 0 && !this.told.has(table));
    for (const [table, count] of open.sort(([, a], [, b]) => b.totalBytes - a.totalBytes).slice(0, SHOWN)) {
      const share = shareOf(count);
      const complete = share >= 1;
      if (complete) this.told.add(table);
      const expected = Math.max(count.estimatedRows, share > 0 ? Math.round(count.rows / share) : 0, count.rows);
      tables.push({
        step: 'copy',
        object: table,
        done: count.rows,
        total: complete ? count.rows : Math.max(expected, count.rows + 1),
        bytes: Math.round(count.doneBytes),
        ...(rates.get(table) ?? { rowsPerSecond: 0, etaSeconds: null }),
      });
    }
    return { phase: state?.phase, tables };
  }

  private async count(green: Session): Promise<Map<string, TableCount>> {
    const done = await readPieces(green, this.runId);
    const parts = await readParts(green, this.runId);
    const counts = new Map<string, TableCount>();
    for (const piece of this.pieces) {
      const table = formatTableName(piece.root);
      const before = counts.get(table) ?? { rows: 0, doneBytes: 0, totalBytes: 0, estimatedRows: 0 };
      const finished = done.get(piece.key);
      counts.set(table, {
        rows: before.rows + (finished?.rows ?? 0),
        doneBytes: before.doneBytes + (finished === undefined ? 0 : piece.bytes),
        totalBytes: before.totalBytes + piece.bytes,
        estimatedRows: before.estimatedRows + piece.estimatedRows,
      });
    }
    for (const { key, root } of this.pieces) {
      const part = done.has(key) ? undefined : parts.get(key);
      if (part !== undefined) addUnfinished(counts.get(formatTableName(root)), part);
    }
    for (const part of await running(green)) {
      addUnfinished(counts.get(formatTableName(part)), { rows: Number(part.rows), bytes: Number(part.bytes) });
    }
    return counts;
  }
}

/** What green has read is about what blue holds; never more than there is. */
function addUnfinished(count: TableCount | undefined, { rows, bytes }: PieceDone): void {
  if (count === undefined) return;
  count.rows += rows;
  count.doneBytes = Math.min(count.totalBytes * 0.999, count.doneBytes + bytes);
}

/** What the statements of this moment have copied: green counts each by itself. */
async function running(green: Session): Promise<{ schema: string; name: string; rows: string; bytes: string }[]> {
  const { rows } = await green.query<{ schema: string; name: string; rows: string; bytes: string }>(
    `SELECT n.nspname AS schema, c.relname AS name, sum(p.tuples_processed)::text AS rows, sum(p.bytes_processed)::text AS bytes
       FROM pg_stat_progress_copy p
       JOIN pg_class part ON part.oid = p.relid
       JOIN pg_class c ON c.oid = coalesce(pg_partition_root(part.oid), part.oid)
       JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE p.datname = current_database() AND p.command = 'COPY FROM'
      GROUP BY 1, 2`,
  );
  return rows;
}
