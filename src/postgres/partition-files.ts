import { formatTableName, type TableName } from '../plan/table-name.js';
import { VerdigrisError } from '../errors.js';
import { readProgress, writeProgress, type ProgressKey } from './migrate/progress-row.js';
import { notOfExtension } from './schema-copy/catalog-description.js';
import type { Session } from './session.js';

/*
 * TRUNCATE of one partition is not replicated: with publish_via_partition_root what happens to a partition happens to its
 * topmost parent, and that was not emptied (manual, CREATE PUBLICATION). It leaves one trace: the partition has another
 * file. VACUUM FULL, CLUSTER and a TRUNCATE of the parent leave the same one, so only a comparison tells whether the other
 * side has rows that are no more. Until then nobody may rely on what was compared before.
 */

/** The file of each partition that is not its first one, by its formatted name. */
export type PartitionFiles = Readonly<Record<string, number>>;

/** A partition with its topmost parent and its file, which is not its first one. */
export interface PartitionFile {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly root_schema: string;
  readonly root_name: string;
  readonly file: number;
}

/**
 * The files of partitions as rows of PartitionFile, those of tables that no run moves left out: unlogged and temporary
 * ones, and those of extensions. The first file of a table has its oid for a number: many partitions never get another
 * one, but all that pg_restore -j or pg_repack has made have.
 *
 * @param known left out, before anything else is asked of them: where nothing has happened no row is left
 */
export function partitionFilesSql(known: readonly Pick<PartitionFile, 'oid' | 'file'>[] = []): string {
  const [oids, files] = [known.map(({ oid }) => oid).join(','), known.map(({ file }) => file).join(',')];
  return `
  SELECT c.oid::int8::float8 AS oid, n.nspname::text AS schema, c.relname::text AS name, rn.nspname::text AS root_schema,
         r.relname::text AS root_name, c.relfilenode::int8::float8 AS file
    FROM (SELECT p.oid, p.relname, p.relnamespace, p.relfilenode FROM pg_class p
           WHERE p.relispartition AND p.relkind = 'r' AND p.relpersistence = 'p' AND p.relfilenode <> p.oid
             AND NOT EXISTS (SELECT FROM unnest('{${oids}}'::oid[], '{${files}}'::oid[]) AS known (oid, file)
                              WHERE known.oid = p.oid AND known.file = p.relfilenode)
          OFFSET 0) AS c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class r ON r.oid = pg_partition_root(c.oid) JOIN pg_namespace rn ON rn.oid = r.relnamespace
   WHERE r.relpersistence = 'p' AND ${notOfExtension('pg_class', 'r.oid')}`;
}

/** Those of partitions whose topmost parent is moved. Pure. */
export function ofMoved(rows: readonly PartitionFile[], isMoved: (root: TableName) => boolean): PartitionFile[] {
  return rows.filter(({ root_schema: schema, root_name: name }) => isMoved({ schema, name }));
}

/** @param isMoved whether the plan moves a topmost parent */
export async function readPartitions(
  session: Session,
  isMoved: (root: TableName) => boolean,
): Promise<readonly PartitionFile[]> {
  return ofMoved((await session.query<PartitionFile>(partitionFilesSql())).rows, isMoved);
}

function filesOf(partitions: readonly PartitionFile[]): PartitionFiles {
  return Object.fromEntries(partitions.map((partition) => [formatTableName(partition), partition.file]));
}

export async function readPartitionFiles(
  session: Session,
  isMoved: (root: TableName) => boolean,
): Promise<PartitionFiles> {
  return filesOf(await readPartitions(session, isMoved));
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

export interface MaybeEmptied {
  /** In order. */
  readonly partitions: readonly string[];
  /** Their topmost parents. */
  readonly roots: readonly TableName[];
  /** The files of all partitions as they are now. */
  readonly files: PartitionFiles;
}

/** The partitions of a side that may have been emptied since its rows were compared. */
export async function maybeEmptied(
  session: Session,
  runId: string,
  isMoved: (root: TableName) => boolean,
): Promise<MaybeEmptied> {
  const compared = await rememberedFiles(session, runId, 'compared');
  const all = await readPartitions(session, isMoved);
  const files = filesOf(all);
  const partitions = compared === undefined ? [] : withOtherFiles(compared, files);
  const emptied = new Set(partitions);
  const roots = all
    .filter((partition) => emptied.has(formatTableName(partition)))
    .map(({ root_schema: schema, root_name: name }) => ({ schema, name }));
  return { files, partitions, roots: [...new Map(roots.map((root) => [formatTableName(root), root])).values()] };
}

const NAMED = 10;

/** The first of them: a job may empty hundreds. */
export function firstPartitions(partitions: readonly string[]): readonly string[] {
  if (partitions.length <= NAMED) return partitions;
  return [...partitions.slice(0, NAMED), `${partitions.length - NAMED} more`];
}

/**
 * The partitions of a side before its writes move, none of which has been emptied since rows were compared.
 *
 * @param relied undefined where an earlier version has begun the run: then undefined is returned, and nothing is refused
 * @throws VerdigrisError PartitionEmptied
 */
export async function comparedPartitions(
  session: Session,
  side: string,
  relied: PartitionFiles | undefined,
  isMoved: (root: TableName) => boolean,
): Promise<readonly PartitionFile[] | undefined> {
  if (relied === undefined) return undefined;
  const partitions = await readPartitions(session, isMoved);
  refuseEmptied(side, withOtherFiles(relied, filesOf(partitions)));
  return partitions;
}

/**
 * A partition may have been emptied since both sides were compared: writes do not move then.
 *
 * @throws VerdigrisError PartitionEmptied
 */
export function refuseEmptied(side: string, partitions: readonly string[]): void {
  if (partitions.length === 0) return;
  throw new VerdigrisError({
    type: 'PartitionEmptied',
    message: `${side}: ${firstPartitions(partitions).join(', ')} may have been emptied since rows were compared: TRUNCATE of one partition is not replicated`,
    nextStep: 'nothing: the rows of these are compared again before writes move',
  });
}
