import { formatTableName } from '../../plan/table-name.js';
import { vacuumTable } from '../bootstrap/copy/vacuum-copied.js';
import { buildIndex, type Build } from '../migrate/index-build.js';
import { inLanes } from '../migrate/index-lanes.js';
import { DEFAULT_INDEX_SETTINGS, whileOffline, type IndexSettings } from '../migrate/index-settings.js';
import type { StepContext } from '../migrate/step-context.js';
import { isOffline } from '../offline.js';
import { readApplied, wasApplied } from './apply-post-data.js';
import { indexBuild } from './apply-indexes.js';
import { byTable, largestFirst } from './by-table.js';
import { keyIndexBuild } from './key-index.js';
import type { SchemaStatements } from './schema-statements.js';

/**
 * Builds the indexes of keys and blue's other indexes side by side, the largest tables first: builds of one table that
 * begin together share one scan of it. Each table is vacuumed before: the first scan after the rows were written is the
 * dearest, and one table's can be under way while another's indexes are built. While nobody writes green's tables only;
 * the keys themselves and what joins partitions is made afterwards, of what is there then.
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
  const work = new TablesAtWork(await largestFirst(session, byTable(builds)));
  await inLanes(context, 'indexes', whileOffline(settings), work.pieces, async (lane) => {
    await work.next(lane, settings);
  });
}

/** Each table is vacuumed once, and its indexes are built then: by whatever lane is free. */
class TablesAtWork {
  /** As many as there are vacuums and builds: which one it is, is seen when a lane is free for it. */
  readonly pieces: readonly number[];
  private readonly ready: Build[] = [];
  private readonly vacuums = new Set<Promise<void>>();

  constructor(private readonly tables: Build[][]) {
    this.pieces = Array.from({ length: tables.length + tables.flat().length }, (_, i) => i);
  }

  async next(lane: StepContext, settings: IndexSettings): Promise<unknown> {
    for (;;) {
      const build = this.ready.shift();
      if (build !== undefined) return buildIndex(lane, build, settings);
      const builds = this.tables.shift();
      if (builds !== undefined) return this.vacuum(lane, builds);
      if (this.vacuums.size === 0) return;
      await Promise.race(this.vacuums);
    }
  }

  private async vacuum(lane: StepContext, builds: readonly Build[]): Promise<void> {
    const [first] = builds;
    if (first === undefined) return;
    const vacuum = vacuumTable(lane, first.table);
    this.vacuums.add(vacuum);
    try {
      await vacuum;
      this.ready.push(...builds);
    } finally {
      this.vacuums.delete(vacuum);
    }
  }
}

/** Their keys have no index of their own that a constraint could use. */
async function partitionedTables({ session }: StepContext): Promise<ReadonlySet<string>> {
  const { rows } = await session.query<{ schema: string; name: string }>(
    `SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind = 'p'`,
  );
  return new Set(rows.map(formatTableName));
}
