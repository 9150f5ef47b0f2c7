import { formatTableName, type TableName } from '../plan/table-name.js';
import { VerdigrisError } from '../errors.js';
import { readProgress, writeProgress, type ProgressKey } from './migrate/progress-row.js';
import type { Session } from './session.js';

/*
 * TRUNCATE of one partition is not replicated: with publish_via_partition_root what happens to a partition happens to its
 * topmost parent, and that was not emptied (manual, CREATE PUBLICATION). It leaves one trace: the partition has another
 * file. VACUUM FULL, CLUSTER and a TRUNCATE of the parent leave the same one, so only a comparison tells whether the other
 * side has rows that are no more. Until then nobody may rely on what was compared before.
 */

/** The file of each partition that is not its first one, by its formatted name. */
export type PartitionFiles = Readonly<Record<string, number>>;

/** A row of PARTITION_FILES. */
export interface PartitionFile {
  readonly schema: string;
  readonly name: string;
  readonly root_schema: string;
  readonly root_name: string;
  readonly file: number;
}

/** The first file of a table has its oid for a number: most partitions never get another one. */
export const PARTITION_FILES = `
  SELECT n.nspname::text AS schema, c.relname::text AS name, rn.nspname::text AS root_schema, r.relname::text AS root_name,
         c.relfilenode::int8::float8 AS file
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class r ON r.oid = pg_partition_root(c.oid) JOIN pg_namespace rn ON rn.oid = r.relnamespace
   WHERE c.relispartition AND c.relkind = 'r' AND c.relfilenode <> c.oid`;

/** @param isMoved whether the plan moves a topmost parent */
export function partitionFiles(rows: readonly PartitionFile[], isMoved: (root: TableName) => boolean): PartitionFiles {
  return Object.fromEntries(
    rows
      .filter(({ root_schema: schema, root_name: name }) => isMoved({ schema, name }))
      .map((row) => [formatTableName(row), row.file]),
  );
}

export async function readPartitionFiles(
  session: Session,
  isMoved: (root: TableName) => boolean,
): Promise<PartitionFiles> {
  return partitionFiles((await session.query<PartitionFile>(PARTITION_FILES)).rows, isMoved);
}

/** The partitions that have another file now, in order. Pure. */
export function withOtherFiles(before: PartitionFiles, now: PartitionFiles): string[] {
  return Object.keys(now)
    .filter((name) => now[name] !== before[name])
    .sort();
}

/**
 * `compared`: the files as the side that takes writes had them when its rows were last compared, or when the run began to
 * rely on it. `looked at`: as green had them when the way back was last asked what it would bring back.
 */
type Relied = 'compared' | 'looked at';

function keyOf(runId: string, as: Relied): ProgressKey {
  return { runId, step: 'partition files', object: as };
}

/** Kept on the side whose files they are. */
export async function rememberFiles(session: Session, runId: string, as: Relied, files: PartitionFiles): Promise<void> {
  await writeProgress(session, keyOf(runId, as), files, true);
}

/** Undefined where an earlier version has begun the run. */
export async function rememberedFiles(
  session: Session,
  runId: string,
  as: Relied,
): Promise<PartitionFiles | undefined> {
  return (await readProgress<PartitionFiles>(session, keyOf(runId, as)))?.state;
}

/** The partitions of a side that may have been emptied since its rows were compared. */
export async function maybeEmptied(
  session: Session,
  runId: string,
  isMoved: (root: TableName) => boolean,
): Promise<{ readonly partitions: readonly string[]; readonly files: PartitionFiles }> {
  const compared = await rememberedFiles(session, runId, 'compared');
  const files = await readPartitionFiles(session, isMoved);
  return { files, partitions: compared === undefined ? [] : withOtherFiles(compared, files) };
}

const NAMED = 10;

/** The first of them: a job may empty hundreds. */
export function firstPartitions(partitions: readonly string[]): readonly string[] {
  if (partitions.length <= NAMED) return partitions;
  return [...partitions.slice(0, NAMED), `${partitions.length - NAMED} more`];
}

/**
 * A partition may have been emptied since both sides were compared: writes do not move then.
 *
 * @throws VerdigrisError PartitionEmptied
 */
export function refuseOtherFiles(side: string, before: PartitionFiles, now: PartitionFiles): void {
  const partitions = withOtherFiles(before, now);
  if (partitions.length === 0) return;
  throw new VerdigrisError({
    type: 'PartitionEmptied',
    message: `${side}: ${firstPartitions(partitions).join(', ')} may have been emptied since rows were compared: TRUNCATE of one partition is not replicated`,
    nextStep: 'nothing: it is looked at again before writes move',
  });
}
