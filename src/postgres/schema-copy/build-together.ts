import { VerdigrisError } from '../../errors.js';
import { sameTable } from '../catalog.js';
import { formatTableName } from '../../plan/table-name.js';
import { vacuumTable, type BegunVacuum } from '../bootstrap/copy/vacuum-copied.js';
import { longestFirst, SharedGreen, sizedBuild, type SizedBuild } from '../migrate/index-effort.js';
import { inLanes } from '../migrate/index-lanes.js';
import { DEFAULT_INDEX_SETTINGS, whileOffline, type IndexSettings } from '../migrate/index-settings.js';
import { noted, type StepContext } from '../migrate/step-context.js';
import { isOffline } from '../offline.js';
import { readApplied, wasApplied } from './apply-post-data.js';
import { indexBuild } from './apply-indexes.js';
import { byTable, readSizes } from './by-table.js';
import { keyIndexBuild } from './key-index.js';
import type { IndexStatement, SchemaStatements } from './schema-statements.js';

/**
 * Builds the indexes of keys, blue's other indexes and those that `ahead` has side by side, the longest first: builds of one
 * table that begin together share one scan of it. Each table is vacuumed before: the first scan after the rows were written
 * is the dearest, and one table's can be under way while another's indexes are built. While nobody writes green's tables
 * only; the keys themselves and what joins partitions is made afterwards, of what is there then.
 *
 * One of `ahead` that can't be built (two rows are alike) ends none of the others, and is left to whoever makes it at its
 * place: that is where its error is told.
 *
 * @param begun a vacuum of one of the tables that is under way. Default: none is
 * @throws VerdigrisError SchemaCopyFailed that names the index or key; what `ahead` throws.
 */
export async function buildTogether(
  context: StepContext,
  { keys, secondaryIndexes }: Pick<SchemaStatements, 'keys' | 'secondaryIndexes'>,
  settings: IndexSettings = DEFAULT_INDEX_SETTINGS,
  ahead: (context: StepContext) => Promise<readonly SizedBuild[]> = () => Promise.resolve([]),
  begun?: BegunVacuum,
): Promise<void> {
  const { session } = context;
  if (!(await isOffline(session))) return;
  const partitioned = await partitionedTables(context);
  const applied = await readApplied(context);
  const sizeOf = await readSizes(session);
  const early = new Set(await ahead(context));
  const builds = [
    ...keys.create.flatMap((key) => {
      if (wasApplied(applied, 'keys', key.create) || partitioned.has(formatTableName(key.table))) return [];
      const build = keyIndexBuild(key);
      return build === undefined ? [] : [sizedBuild(build, 'btree', sizeOf(key.table))];
    }),
    ...secondaryIndexes.indexes.map((index) => sizedBuild(indexBuild(index), methodOf(index), sizeOf(index.table))),
    ...early,
  ];
  const green = new SharedGreen(builds, whileOffline(settings));
  const work = new TablesAtWork(builds, begun);
  await inLanes(context, 'indexes', green.settings, work.pieces, (lane) =>
    work.next(lane, async (build) => {
      await green.build(lane, build).catch((error: unknown) => {
        if (!early.has(build) || !(error instanceof VerdigrisError) || error.retryable) throw error;
        lane.onProgress(noted('index', build.object, `left to its step: ${error.what}`));
      });
    }),
  );
}

/** As pg_dump writes it, which always does. */
function methodOf({ create }: IndexStatement): string {
  return / USING ([a-z0-9_]+) \(/.exec(create)?.[1] ?? 'btree';
}

/** Each table is vacuumed once, and its indexes are built then: by whatever lane is free. */
class TablesAtWork {
  /** As many as there are vacuums and builds: which one it is, is seen when a lane is free for it. */
  readonly pieces: readonly number[];
  /** Those with the longest builds first. */
  private readonly tables: SizedBuild[][];
  /** The longest first. */
  private ready: SizedBuild[] = [];
  private readonly vacuums = new Set<Promise<void>>();

  constructor(
    builds: readonly SizedBuild[],
    private readonly begun: BegunVacuum | undefined,
  ) {
    this.tables = byTable(longestFirst(builds));
    this.pieces = Array.from({ length: this.tables.length + builds.length }, (_, i) => i);
  }

  async next(lane: StepContext, build: (build: SizedBuild) => Promise<void>): Promise<void> {
    for (;;) {
      const next = this.ready.shift();
      if (next !== undefined) return build(next);
      const table = this.tables.shift();
      if (table !== undefined) return this.vacuum(lane, table);
      if (this.vacuums.size === 0) return;
      await Promise.race(this.vacuums);
    }
  }

  private async vacuum(lane: StepContext, table: readonly SizedBuild[]): Promise<void> {
    const [first] = table;
    if (first === undefined) return;
    const isBegun = this.begun !== undefined && sameTable(this.begun.table, first.table);
    const vacuum = isBegun ? whileGoesOn(lane.signal, this.begun.over) : vacuumTable(lane, first.table);
    this.vacuums.add(vacuum);
    try {
      await vacuum;
      this.ready = longestFirst([...this.ready, ...table]);
    } finally {
      this.vacuums.delete(vacuum);
    }
  }
}

/** Waits for what others have begun, and end: no longer than the signal is not aborted. */
function whileGoesOn(signal: AbortSignal, over: Promise<void>): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => reject(signal.reason as Error);
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    over.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
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
