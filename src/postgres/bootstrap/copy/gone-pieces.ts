import { formatTableName, type TableName } from '../../../plan/table-name.js';
import { inTransaction, SHORT_STATEMENTS, withSession, type Session } from '../../session.js';
import type { CopyContext } from './copy-context.js';
import { beginPiece, endPiece, readCopyState, type CopyState } from './copy-state.js';
import type { Parcel } from './plan-parcels.js';

/** A table that was changed on blue since its pieces were cut. */
export interface ChangedTable {
  readonly source: TableName;
  /** As the snapshot showed it; null where it did not. */
  readonly oid: number | null;
  /** The file of its rows as its pieces were cut. */
  readonly fileNode: number;
}

/** By their names. */
export type ChangedTables = ReadonlyMap<string, ChangedTable>;

/**
 * Pieces of tables that were dropped on blue since the snapshot are there, without rows: a partition that is gone must not
 * have all others of its table copied again. Whether the run can go on without them is not said here: DDL holds it.
 *
 * @param changed the tables that may be gone
 */
export async function endGone(
  { databases, run }: CopyContext,
  green: Session,
  { incarnation }: CopyState,
  parcel: Parcel,
  changed: ChangedTables,
): Promise<void> {
  const isGone = await withSession(databases.blue, { purpose: 'copy rows', ...SHORT_STATEMENTS }, (blue) =>
    goneOf(blue, changed),
  );
  const gone = parcel.pieces.filter(({ source }) => isGone.has(formatTableName(source)));
  if (gone.length === 0) return;
  await inTransaction(green, async () => {
    const now = await readCopyState(green, run.runId, 'FOR SHARE');
    if (now?.phase !== 'ready' || now.incarnation !== incarnation) return;
    for (const { key } of gone) {
      if ((await beginPiece(green, run.runId, key)) === undefined) continue;
      await endPiece(green, run.runId, key, { rows: 0, bytes: 0 });
    }
  });
}

/**
 * Neither the table is there, whatever it is called now and wherever its rows are, nor another one of its name. One that the
 * snapshot did not show was dropped, renamed or moved before it, and is known by its file alone.
 */
async function goneOf(blue: Session, changed: ChangedTables): Promise<ReadonlySet<string>> {
  const tables = [...changed.values()];
  const { rows } = await blue.query<{ i: number }>(
    `SELECT i::int - 1 AS i
       FROM unnest($1::float8[], $2::float8[], $3::text[], $4::text[]) WITH ORDINALITY AS wanted (oid, file, schema, name, i)
      WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = wanted.oid::int8::oid)
        AND NOT (wanted.oid IS NULL AND EXISTS (SELECT FROM pg_class c WHERE c.relfilenode = wanted.file::int8::oid))
        AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                         WHERE n.nspname = wanted.schema AND c.relname = wanted.name)`,
    [
      tables.map(({ oid }) => oid),
      tables.map(({ fileNode }) => fileNode),
      tables.map(({ source }) => source.schema),
      tables.map(({ source }) => source.name),
    ],
  );
  const names = [...changed.keys()];
  return new Set(rows.flatMap(({ i }) => names[i] ?? []));
}
