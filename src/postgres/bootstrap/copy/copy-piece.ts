import { setTimeout as sleep } from 'node:timers/promises';
import { formatTableName } from '../../../plan/table-name.js';
import type { TableInfo } from '../../catalog.js';
import { qualified } from '../../identifier.js';
import { BEGIN_READ_COMMITTED, type Session } from '../../session.js';
import type { CopyContext } from './copy-context.js';
import { copyFormat } from './copy-format.js';
import { copyInto, copyOut, copyQuery, inBlocks, NOTHING_COMPUTED } from './copy-query.js';
import { findNames, rawEncoding } from './copy-sessions.js';
import { beginPiece, endPiece, notePart, readCopyState, type CopyState } from './copy-state.js';
import { CopyFailure, streamRows } from './copy-stream.js';
import { castFailed, triesCast } from './swift-jsonb.js';
import type { Pace } from './pace.js';
import { pieceFailed } from './piece-failed.js';
import type { Parcel, Piece } from './plan-parcels.js';

/** How often it is noted how far a piece is that is made of many statements. */
const NOTED_EVERY_MS = 1_000;

type BlockRange = Pick<Piece, 'fromBlock' | 'toBlock'>;

/** A cast met text that only looked like JSON: the piece is copied again, without casts. */
export class CastFailed extends Error {
  override readonly name = 'CastFailed';
}

/** Copies the pieces of a parcel, one after the other, in the sessions of that parcel. */
export class PieceCopy {
  private rows = 0;
  private bytes = 0;
  private reported = 0;
  private notedAt = Number.NEGATIVE_INFINITY;
  /** Of the piece that is being copied. */
  private transaction = '';
  private bytesPerBlock = 0;
  private end = 0;

  constructor(
    private readonly context: CopyContext,
    private readonly state: CopyState,
    private readonly source: Session,
    private readonly target: Session,
    private readonly pace: Pace,
    private readonly parcel: Parcel,
    /** A session on green that is in no transaction. */
    private readonly watch: Session,
  ) {}

  /** @returns false when the copying has been closed, or its snapshots are others now. */
  async run(piece: Piece, from: TableInfo, to: TableInfo): Promise<boolean> {
    const { source, target } = this;
    const { runId } = this.context.run;
    await target.query(BEGIN_READ_COMMITTED);
    const now = await readCopyState(target, runId, 'FOR SHARE');
    if (now?.phase !== 'ready' || now.incarnation !== this.state.incarnation) {
      await target.query('ROLLBACK');
      return false;
    }
    const transaction = await beginPiece(target, runId, piece.key);
    if (transaction === undefined) {
      await target.query('ROLLBACK');
      return true;
    }
    this.transaction = transaction;
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
    if (this.state.computed[formatTableName(piece.root)] !== undefined) await findNames(source, 'pg_catalog');
    return true;
  }

  private async copy(piece: Piece, from: TableInfo, to: TableInfo): Promise<{ rows: number; bytes: number }> {
    const { source, target } = this;
    const { runId } = this.context.run;
    const computed = this.state.computed[formatTableName(piece.root)];
    const columns = computed?.columns ?? NOTHING_COMPUTED;
    const query = copyQuery(from, piece.root.name, to, columns, triesCast(runId, piece.root));
    const path = computed?.searchPath ?? 'pg_catalog';
    // The text of some types (regclass) depends on it, so it is the same on both sides.
    for (const session of [source, target]) {
      if (computed !== undefined) await findNames(session, path);
    }
    if (query.columns.length === 0) return this.countRows(piece, from, to);
    const encoding = rawEncoding(source);
    const format = copyFormat(from, to, query.columns, columns, encoding);
    const sum = { rows: 0, bytes: 0 };
    let range: BlockRange | undefined = await this.firstRange(piece);
    for (; range !== undefined; range = this.nextRange(piece, range)) {
      const part = { ...piece, ...range };
      const out = copyOut(query.select(inBlocks(part.fromBlock, part.toBlock)), format, encoding);
      try {
        const into = copyInto(to.name, query.columns, format, encoding);
        const { rows, bytes } = await this.pace.inTurn(() => this.stream(out, into, piece, sum.bytes));
        sum.rows += rows;
        sum.bytes += bytes;
        this.note(piece, sum);
      } catch (error) {
        if (!(error instanceof CopyFailure)) throw error;
        if (query.swift && error.side === 'blue' && castFailed(runId, piece.root, error.cause)) throw new CastFailed();
        const { context, state, parcel } = this;
        throw await pieceFailed({ context, state, parcel, piece: part, table: from, query, path }, error);
      }
    }
    return sum;
  }

  /**
   * One statement's rows. A pace that is slow is kept by small statements with rests between them: a server that is only
   * read slowly fills the buffers of the connection at full speed whenever there is room for some megabytes.
   */
  private async stream(
    out: string,
    into: string,
    piece: Piece,
    before: number,
  ): Promise<{ rows: number; bytes: number }> {
    const { pace, context } = this;
    let bytes = 0;
    let restUntil = 0;
    let hasRested = false;
    const began = performance.now();
    const rows = await streamRows(this.source, out, this.target, into, {
      signal: context.signal,
      onBytes: (count) => {
        bytes += count;
        this.report(piece, before + bytes);
        const rest = pace.after(count);
        restUntil = performance.now() + rest;
        // One block of wide rows can be more than is asked for at a time.
        if (rest === 0 || bytes <= 4 * pace.bytesAtATime()) return 0;
        hasRested = true;
        return rest;
      },
    });
    if (!hasRested) pace.took(performance.now() - began);
    const rest = restUntil - performance.now();
    if (rest > 0) await sleep(rest, undefined, { signal: context.signal });
    return { rows, bytes };
  }

  private async firstRange(piece: Piece): Promise<BlockRange> {
    // A small table, of which a database may have thousands, is one statement without a look at its size.
    if (piece.bytes <= this.pace.bytesAtATime()) return { fromBlock: piece.fromBlock, toBlock: piece.toBlock };
    this.end = piece.toBlock ?? (await this.blocks(piece));
    this.bytesPerBlock = piece.bytes / Math.max(1, this.end - piece.fromBlock);
    return this.rangeFrom(piece, piece.fromBlock);
  }

  private async blocks({ source }: Piece): Promise<number> {
    const { rows } = await this.source.query<{ blocks: number }>(
      `SELECT (pg_relation_size(to_regclass($1)) / current_setting('block_size')::int)::float8 AS blocks`,
      [qualified(source)],
    );
    return rows[0]?.blocks ?? 0;
  }

  private nextRange(piece: Piece, { toBlock }: BlockRange): BlockRange | undefined {
    return toBlock === piece.toBlock || toBlock === null ? undefined : this.rangeFrom(piece, toBlock);
  }

  /** As many blocks as the pace asks for at a time; the last range ends where the piece does. */
  private rangeFrom(piece: Piece, fromBlock: number): BlockRange {
    const count = Math.max(1, Math.round(this.pace.bytesAtATime() / Math.max(1, this.bytesPerBlock)));
    return { fromBlock, toBlock: fromBlock + count >= this.end ? piece.toBlock : fromBlock + count };
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

  /** Green's own count of a COPY ends with each statement. Nothing waits for the note, and nothing fails without it. */
  private note({ key }: Piece, sum: { rows: number; bytes: number }): void {
    const now = performance.now();
    if (now - this.notedAt < NOTED_EVERY_MS) return;
    this.notedAt = now;
    const part = { ...sum, transaction: this.transaction };
    void notePart(this.watch, this.context.run.runId, key, part).catch(() => undefined);
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
