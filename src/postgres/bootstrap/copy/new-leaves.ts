import { VerdigrisError } from '../../../errors.js';
import { formatTableName } from '../../../plan/table-name.js';
import { readTables, type TableInfo } from '../../catalog.js';
import { answersBy } from '../../same-answers.js';
import { closeSession, type Session } from '../../session.js';
import { readStreams, type Stream } from '../../streams.js';
import { sourceTables } from './copied-tables.js';
import type { CopyContext } from './copy-context.js';
import { openSnapshotSession } from './copy-sessions.js';
import { readParcels, type CopyState } from './copy-state.js';
import { planParcels, type Parcel, type Piece, type SourceTable } from './plan-parcels.js';

/*
 * The parcels are cut once, and the snapshots are made later: after a wait for old transactions, or anew while nothing has
 * been copied. A partition that blue gets in between has rows in the snapshot, so the feed never brings them.
 */

/**
 * Parcels as they have to be for partitions that the snapshots have and no parcel does: those that get pieces, and new
 * ones.
 *
 * @throws VerdigrisError ConnectionFailed (retryable) when a snapshot is gone
 */
export async function parcelsOfNewLeaves(
  context: CopyContext,
  blue: Session,
  green: Session,
  snapshots: CopyState['snapshots'],
): Promise<readonly Parcel[]> {
  const { run, plan } = context;
  const parcels = await readParcels(green, run.runId);
  const cut = new Set(parcels.flatMap(({ pieces }) => pieces.map(({ source }) => formatTableName(source))));
  const isNew = ({ kind, name }: TableInfo): boolean => kind === 'partition' && !cut.has(formatTableName(name));
  const leaves = (await readTables(blue, plan.tables)).filter(isNew);
  if (leaves.length === 0) return [];
  const streams = await readStreams(blue, run.migration, 'to_green', plan.replicate.streams);
  const found: SourceTable[] = [];
  for (const stream of streams) {
    const snapshot = snapshots[stream.name];
    if (snapshot !== undefined) found.push(...(await leavesIn(context, snapshot, stream, leaves, green)));
  }
  return addToParcels(parcels, planParcels(found, plan.bootstrap.parallel));
}

/** Asked in the snapshot: of what came later every row comes by the feed, and a rewrite since then is noticed by the copy. */
async function leavesIn(
  { databases, plan }: CopyContext,
  snapshot: string,
  stream: Stream,
  leaves: readonly TableInfo[],
  green: Session,
): Promise<SourceTable[]> {
  const session = await openSnapshotSession(databases.blue, 'copy new partitions', snapshot);
  if (session === undefined) throw snapshotGone(stream);
  try {
    const names = leaves.map(({ name }) => name);
    const there = (await readTables(session, plan.tables, names)).filter(({ kind }) => kind === 'partition');
    const alike = (await answersBy(session)) === (await answersBy(green));
    return await sourceTables(session, there, await readTables(green, plan.tables), [stream], alike);
  } finally {
    await closeSession(session);
  }
}

/**
 * The workflow knows the parcels that were cut first, so pieces go to one of those: of the same table, or of the same
 * stream. Where a stream has none, nobody copies the new parcel, and its table is left to tablesync. Pure.
 *
 * @param parcels in the order of their numbers
 */
export function addToParcels(parcels: readonly Parcel[], added: readonly Parcel[]): Parcel[] {
  const all = new Map(parcels.map((parcel) => [parcel.id, parcel]));
  const changed = new Set<number>();
  let next = Math.max(-1, ...all.keys()) + 1;
  for (const { stream, pieces } of added) {
    for (const piece of pieces) {
      const like = [...all.values()].filter((parcel) => parcel.stream === stream);
      const parcel = like.findLast((one) => one.pieces.some((its) => isOfSameTable(its, piece))) ?? like.at(-1);
      const into = parcel ?? { id: next++, label: formatTableName(piece.source), bytes: 0, stream, pieces: [] };
      const key = `${into.id}.${into.pieces.length}`;
      all.set(into.id, { ...into, bytes: into.bytes + piece.bytes, pieces: [...into.pieces, { ...piece, key }] });
      changed.add(into.id);
    }
  }
  return [...all.values()].filter(({ id }) => changed.has(id));
}

function isOfSameTable(a: Piece, b: Piece): boolean {
  return formatTableName(a.root) === formatTableName(b.root);
}

function snapshotGone({ name }: Stream): VerdigrisError {
  return new VerdigrisError({
    type: 'ConnectionFailed',
    message: `blue: the snapshot of the slot ${name} was gone before it was read`,
    nextStep: 'nothing: another one is made',
    retryable: true,
  });
}
