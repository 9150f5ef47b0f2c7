import { formatTableName } from '../../plan/table-name.js';
import { buildIndex } from '../migrate/index-build.js';
import { inLanes } from '../migrate/index-lanes.js';
import { DEFAULT_INDEX_SETTINGS, whileOffline, type IndexSettings } from '../migrate/index-settings.js';
import type { StepContext } from '../migrate/step-context.js';
import { isOffline } from '../offline.js';
import { readApplied, wasApplied } from './apply-post-data.js';
import { indexBuild } from './apply-indexes.js';
import { largestFirst } from './by-table.js';
import { keyIndexBuild } from './key-index.js';
import type { SchemaStatements } from './schema-statements.js';

/**
 * Builds the indexes of keys and blue's other indexes side by side, the largest tables first: builds of one table that
 * begin together share one scan of it, the first after the rows were written, which is the dearest. While nobody
 * writes green's tables only; the keys themselves and what joins partitions is made afterwards, of what is there then.
 *
 * @throws VerdigrisError SchemaCopyFailed that names the index or key.
 */
export async function buildTogether(
  context: StepContext,
  { keys, secondaryIndexes }: Pick<SchemaStatements, 'keys' | 'secondaryIndexes'>,
  settings: IndexSettings = DEFAULT_INDEX_SETTINGS,
): Promise<void> {
  const { session } = context;
  if (!(await isOffline(session))) return;
  const partitioned = await partitionedTables(context);
  const applied = await readApplied(context);
  const builds = [
    ...keys.create.flatMap((key) => {
      if (wasApplied(applied, 'keys', key.create) || partitioned.has(formatTableName(key.table))) return [];
      return keyIndexBuild(key) ?? [];
    }),
    ...secondaryIndexes.indexes.map(indexBuild),
  ];
  const pieces = await largestFirst(
    session,
    builds.map((build) => [build]),
  );
  await inLanes(context, 'indexes', whileOffline(settings), pieces, async (lane, piece) => {
    for (const build of piece) await buildIndex(lane, build, settings);
  });
}

/** Their keys have no index of their own that a constraint could use. */
async function partitionedTables({ session }: StepContext): Promise<ReadonlySet<string>> {
  const { rows } = await session.query<{ schema: string; name: string }>(
    `SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind = 'p'`,
  );
  return new Set(rows.map(formatTableName));
}
