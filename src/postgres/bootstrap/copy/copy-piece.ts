import { formatTableName } from '../../../plan/table-name.js';
import type { TableInfo } from '../../catalog.js';
import { qualified } from '../../identifier.js';
import type { Session } from '../../session.js';
import type { CopyContext } from './copy-context.js';
import { copyFormat } from './copy-format.js';
import { copyInto, copyOut, copyQuery, inBlocks, NOTHING_COMPUTED } from './copy-query.js';
import { beginPiece, endPiece, readCopyState, type CopyState } from './copy-state.js';
import { CopyFailure, streamRows } from './copy-stream.js';
import type { Pace } from './pace.js';
import { pieceFailed } from './piece-failed.js';
import type { Parcel, Piece } from './plan-parcels.js';

/** Copies the pieces of a parcel, one after the other, in the sessions of that parcel. */
export class PieceCopy {
  private rows = 0;
  private bytes = 0;
  private reported = 0;

  constructor(
    private readonly context: CopyContext,
    private readonly state: CopyState,
    private readonly source: Session,
    private readonly target: Session,
    private readonly pace: Pace,
    private readonly parcel: Parcel,
  ) {}

  /** @returns false when the copying has been closed, or its snapshots are others now. */
  async run(piece: Piece, from: TableInfo, to: TableInfo): Promise<boolean> {
    const { source, target } = this;
    const { runId } = this.context.run;
    await target.query('BEGIN');
    const now = await readCopyState(target, runId, 'FOR SHARE');
    if (now?.phase !== 'ready' || now.incarnation !== this.state.incarnation) {
      await target.query('ROLLBACK');
      return false;
    }
    if (!(await beginPiece(target, runId, piece.key))) {
      await target.query('ROLLBACK');
      return true;
    }
    const { rows, bytes } = await this.copy(piece, from, to);
    if (await this.wasRewritten(piece)) {
      // Rows have moved to other blocks since the parcels were cut: the table is left for tablesync.
      await target.query('ROLLBACK');
      return true;
    }
    await endPiece(target, runId, piece.key, { rows, bytes });
    await target.query('COMMIT');
    this.rows += rows;
    this.bytes += bytes;
    await source.query(`SELECT set_config('search_path', 'pg_catalog', true)`);
    return true;
  }

  private async copy(piece: Piece, from: TableInfo, to: TableInfo): Promise<{ rows: number; bytes: number }> {
    const { source, target } = this;
    const computed = this.state.computed[formatTableName(piece.root)];
    const columns = computed?.columns ?? NOTHING_COMPUTED;
    const query = copyQuery(from, piece.root.name, to, columns);
    const select = query.select(inBlocks(piece.fromBlock, piece.toBlock));
    const path = computed?.searchPath ?? 'pg_catalog';
    // The text of some types (regclass) depends on it, so it is the same on both sides.
    for (const session of [source, target]) {
      if (computed !== undefined) await session.query(`SELECT set_config('search_path', $1, true)`, [path]);
    }
    if (query.columns.length === 0) return this.countRows(piece, from, to);
    const format = copyFormat(from, to, query.columns, columns);
    let bytes = 0;
    try {
      const rows = await streamRows(source, copyOut(select, format), target, copyInto(to.name, query.columns, format), {
        signal: this.context.signal,
        onBytes: (count) => {
          bytes += count;
          this.report(piece, bytes);
          return this.pace.after(count);
        },
      });
      return { rows, bytes };
    } catch (error) {
      if (!(error instanceof CopyFailure)) throw error;
      const { context, state, parcel } = this;
      throw await pieceFailed({ context, state, parcel, piece, table: from, query, path }, error);
    }
  }

  /** COPY has no form for rows without columns, once green's have some. */
  private async countRows(piece: Piece, from: TableInfo, to: TableInfo): Promise<{ rows: number; bytes: number }> {
    const { rows } = await this.source.query<{ n: string }>(
      `SELECT count(*)::text AS n FROM ONLY ${qualified(from.name)} WHERE ${inBlocks(piece.fromBlock, piece.toBlock)}`,
    );
    const count = rows[0]?.n ?? '0';
    await this.target.query(`INSERT INTO ${qualified(to.name)} SELECT FROM generate_series(1, $1::bigint)`, [count]);
    return { rows: Number(count), bytes: 0 };
  }

  /** Asked when the table has been read, so no rewrite can begin before the transaction ends. */
  private async wasRewritten(piece: Piece): Promise<boolean> {
    const { rows } = await this.source.query<{ node: number }>(
      `SELECT pg_relation_filenode(to_regclass($1))::int8::float8 AS node`,
      [qualified(piece.source)],
    );
    return rows[0]?.node !== piece.fileNode;
  }

  private report(piece: Piece, bytes: number): void {
    const now = performance.now();
    if (now - this.reported < 200) return;
    this.reported = now;
    this.context.report({
      parcel: this.parcel.label,
      table: formatTableName(piece.source),
      rows: this.rows,
      bytes: this.bytes + bytes,
      bytesOnBlue: this.parcel.bytes,
      ...this.pace.describe(),
    });
  }
}
