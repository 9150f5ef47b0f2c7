import { formatTableName } from '../../../plan/table-name.js';
import { inTransaction, SHORT_STATEMENTS, withSession, type Session } from '../../session.js';
import type { CopyContext } from './copy-context.js';
import { beginPiece, endPiece, readCopyState, type CopyState } from './copy-state.js';
import type { Parcel, Piece } from './plan-parcels.js';

/**
 * Pieces of tables that were dropped on blue since the snapshot are there, without rows: a partition that is gone must not
 * have all others of its table copied again. Whether the run can go on without them is not said here: DDL holds it.
 *
 * @param changed names of the tables that may be gone
 */
export async function endGone(
  { databases, run }: CopyContext,
  green: Session,
  { incarnation }: CopyState,
  parcel: Parcel,
  changed: ReadonlySet<string>,
): Promise<void> {
  const pieces = parcel.pieces.filter(({ source }) => changed.has(formatTableName(source)));
  const files = await withSession(databases.blue, { purpose: 'copy rows', ...SHORT_STATEMENTS }, (blue) =>
    filesOf(blue, pieces),
  );
  const gone = pieces.filter(({ fileNode }) => !files.has(fileNode));
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

/** By name and by file: a table that has another one of them now is not gone. */
async function filesOf(blue: Session, pieces: readonly Piece[]): Promise<ReadonlySet<number>> {
  const { rows } = await blue.query<{ file: number }>(
    `SELECT wanted.file
       FROM unnest($1::text[], $2::text[], $3::float8[]) wanted (schema, name, file)
      WHERE EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE (n.nspname = wanted.schema AND c.relname = wanted.name)
                        OR c.relfilenode::int8::float8 = wanted.file)`,
    [
      pieces.map(({ source }) => source.schema),
      pieces.map(({ source }) => source.name),
      pieces.map(({ fileNode }) => fileNode),
    ],
  );
  return new Set(rows.map(({ file }) => file));
}
