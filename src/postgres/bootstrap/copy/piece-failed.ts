import { VerdigrisError } from '../../../errors.js';
import { formatTableName } from '../../../plan/table-name.js';
import { readTables, type TableInfo } from '../../catalog.js';
import { isLockNotHad } from '../../lock-watch.js';
import { mayBeARow } from '../../migrate/failing-row.js';
import { describeKey, keyInRow, keyTexts } from '../../migrate/key-range.js';
import { isTransient, messageOf } from '../../migrate/step-failed.js';
import { qualified } from '../../identifier.js';
import { SHORT_STATEMENTS, withSession, type Session } from '../../session.js';
import { isNameInFunction, mendFunction } from '../../name-in-function.js';
import { sqlState } from '../../sqlstate.js';
import { isCheckByFunction, TABLES_MAY_BE_MISSING } from '../check-by-function.js';
import type { CopyContext } from './copy-context.js';
import type { CopyQuery } from './copy-query.js';
import { inBlocks } from './copy-query.js';
import { findNames, openSnapshotSession, whileWatched } from './copy-sessions.js';
import type { CopyState } from './copy-state.js';
import type { CopyFailure } from './copy-stream.js';
import type { Parcel, Piece } from './plan-parcels.js';

/** Syntax, names and rights: of a row only when a function that was called for it says so. */
const OF_A_STATEMENT = '42';
/** insufficient_resources: a full disk, no memory. */
const RESOURCES = '53';

/** Blue's table is another one than in the snapshot, by DDL: it is left for tablesync, and what DDL means is not said here. */
export class TableChanged extends Error {
  override readonly name = 'TableChanged';
}

/** A piece whose copy failed, and what was being done. */
export interface FailedPiece {
  readonly context: CopyContext;
  readonly state: CopyState;
  readonly parcel: Parcel;
  readonly piece: Piece;
  /** The piece's table on blue. */
  readonly table: TableInfo;
  readonly query: CopyQuery;
  /** search_path of the plan's expressions. */
  readonly path: string;
}

/**
 * What a piece that failed is reported as: with the row where there is one to blame.
 *
 * @throws VerdigrisError LockNotHad (retryable) when the application has waited for the search for it
 */
export async function pieceFailed(failed: FailedPiece, failure: CopyFailure): Promise<unknown> {
  const { cause, side } = failure;
  const code = sqlState(cause) ?? '';
  const name = formatTableName(failed.piece.source);
  if (side === 'blue' && code.startsWith(OF_A_STATEMENT) && (await isChanged(failed))) return new TableChanged(name);
  if (code.startsWith(RESOURCES)) {
    return new VerdigrisError({
      type: 'SqlError',
      message: `${side}: the copy of table ${name} ran out of something: ${messageOf(cause)}`,
      nextStep: `give ${side} more of it; the parcel is copied again by itself, and nothing of it is half there`,
      retryable: true,
      cause,
    });
  }
  if (side === 'green' && isNameInFunction(cause)) {
    return new VerdigrisError({
      type: 'BackfillFailed',
      message: `green: the copy of table ${name} failed in a function: ${messageOf(cause)}`,
      nextStep: mendFunction(cause),
      cause,
    });
  }
  if (!mayBeARow(cause)) return cause;
  const byFunction = side === 'green' && (await isCheckByFunction(failed.context.databases.green, cause));
  const row = await failingRow(failed, failure).catch((error: unknown) => {
    // Tried again, the parcel meets the same row, and it is looked for anew.
    if (isLockNotHad(error)) throw error;
    return undefined;
  });
  if (row === undefined && code.startsWith(OF_A_STATEMENT)) return cause;
  return new VerdigrisError({
    type: 'BackfillFailed',
    message: `the copy of table ${name} failed on the row with ${row?.key ?? 'an unknown key'}: ${messageOf(row?.error ?? cause)}`,
    nextStep: `${byFunction ? TABLES_MAY_BE_MISSING : ''}correct the row on blue, then resume: all of its table is copied anew, by itself; or roll back and make the "up" expression accept it`,
    cause,
  });
}

/** COPY looks names up as they are now, while the snapshot has them as they were. */
async function isChanged({ context, piece, table }: FailedPiece): Promise<boolean> {
  const { databases, plan } = context;
  const [now] = await withSession(databases.blue, { purpose: 'copy rows', ...SHORT_STATEMENTS }, (session) =>
    readTables(session, plan.tables, [piece.source]),
  );
  const described = ({ oid, columns }: TableInfo): string =>
    JSON.stringify([oid, columns.map(({ name, type }) => [name, type])]);
  return now === undefined || described(now) !== described(table);
}

export interface FoundRow {
  readonly key: string;
  readonly error: unknown;
}

async function failingRow(failed: FailedPiece, failure: CopyFailure): Promise<FoundRow | undefined> {
  const { context, state, parcel, piece, table, query, path } = failed;
  const snapshot = state.snapshots[parcel.stream];
  if (snapshot === undefined) return undefined;
  const session = await openSnapshotSession(context.databases.blue, 'copy failing row', snapshot);
  if (session === undefined) return undefined;
  try {
    await findNames(session, path);
    const search = new RowSearch(session, context.signal, piece, table, query);
    const what = `the search for the row of table ${formatTableName(piece.source)} that failed`;
    return await whileWatched({ database: context.databases.blue, session, signal: context.signal, what }, async () => {
      if (failure.side === 'blue') return search.onBlue();
      const line = lineOf(failure.cause);
      return line === undefined ? undefined : { key: await search.atLine(line), error: failure.cause };
    });
  } finally {
    await session.end().catch(() => undefined);
  }
}

/** Which row of the stream green refused: `COPY orders, line 17, column cut`. Words depend on the server's language. */
export function lineOf(error: unknown): number | undefined {
  if (typeof error !== 'object' || error === null || !('where' in error) || typeof error.where !== 'string') return;
  const line = /^COPY .*?, [^\d,:]+(\d+)/m.exec(error.where)?.[1];
  return line === undefined ? undefined : Number(line);
}

/** Looks for a row of a table in the snapshot of a session. */
export class RowSearch {
  /** @param only a condition on the rows that may be the one. */
  constructor(
    private readonly blue: Session,
    private readonly signal: AbortSignal,
    private readonly piece: Pick<Piece, 'source' | 'fromBlock' | 'toBlock'>,
    private readonly table: TableInfo,
    private readonly query: CopyQuery,
    private readonly only = 'true',
  ) {}

  /**
   * The first row on which blue fails, by halving: the server evaluates the rows and sends none. All halves together are
   * about as many rows as the piece has. A row is named by its block until only one block is left.
   */
  async onBlue(): Promise<FoundRow | undefined> {
    const { fromBlock } = this.piece;
    // What fails without a row is not a row's fault.
    if ((await this.errorIn('false')) !== undefined) return undefined;
    let from = fromBlock;
    let to = this.piece.toBlock ?? (await this.blocks());
    let error: unknown;
    while (to - from > 1) {
      this.signal.throwIfAborted();
      const middle = Math.floor((from + to) / 2);
      const found = await this.errorIn(inBlocks(from, middle));
      if (found === undefined) from = middle;
      else {
        error = found;
        to = middle;
      }
    }
    const { rows } = await this.blue.query<{ row: string }>(
      `SELECT ctid::text AS row FROM ONLY ${this.from()} WHERE ${inBlocks(from, to)} ORDER BY ctid`,
    );
    for (const { row } of rows) {
      const where = `ctid = '${row}'::pg_catalog.tid`;
      const found = await this.errorIn(where);
      if (found !== undefined) return { key: await this.keyOf(where), error: found };
    }
    return error === undefined ? undefined : { key: `a place in block ${from}`, error };
  }

  /** The row that was sent as the nth: the order of a snapshot's blocks does not change. */
  async atLine(line: number): Promise<string> {
    const where = inBlocks(this.piece.fromBlock, this.piece.toBlock);
    const { rows } = await this.blue.query<{ row: string }>(
      `SELECT ctid::text AS row FROM ONLY ${this.from()} WHERE ${where} OFFSET $1 LIMIT 1`,
      [line - 1],
    );
    return rows[0] === undefined ? 'an unknown key' : this.keyOf(`ctid = '${rows[0].row}'::pg_catalog.tid`);
  }

  /** In a savepoint, since an error would end the transaction and with it the snapshot. */
  private async errorIn(where: string): Promise<unknown> {
    await this.blue.query('SAVEPOINT verdigris_search');
    try {
      // Whole rows are counted, or the planner would leave out what nobody asks for.
      const columns = this.query.columns.map((_, i) => `verdigris_c${i}`);
      await this.blue.query(
        `SELECT count(ROW(${columns.join(', ')})) FROM (${this.query.select(`${where} AND ${this.only}`)} OFFSET 0) AS r (${columns.join(', ')})`,
      );
      return undefined;
    } catch (error) {
      if (isTransient(error)) throw error;
      return error;
    } finally {
      await this.blue.query('ROLLBACK TO SAVEPOINT verdigris_search');
    }
  }

  private async blocks(): Promise<number> {
    const { rows } = await this.blue.query<{ blocks: number }>(
      `SELECT (pg_relation_size(to_regclass($1)) / current_setting('block_size')::int)::float8 AS blocks`,
      [this.from()],
    );
    return rows[0]?.blocks ?? 0;
  }

  private async keyOf(where: string): Promise<string> {
    const key = this.table.key?.columns;
    if (key === undefined) return where.replace('::pg_catalog.tid', '');
    const { rows } = await this.blue.query<Record<string, unknown>>(
      `SELECT ${keyTexts(key)} FROM ONLY ${this.from()} WHERE ${where}`,
    );
    return rows[0] === undefined ? where : describeKey(key, keyInRow(key, rows[0]));
  }

  private from(): string {
    return qualified(this.piece.source);
  }
}
