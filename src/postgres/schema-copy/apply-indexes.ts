import { formatTableName } from '../../plan/table-name.js';
import { isOffline } from '../offline.js';
import type { Session } from '../session.js';
import { buildIndex, type Build } from '../migrate/index-build.js';
import { TRIED_AGAIN } from '../migrate/index-failed.js';
import { inLanes } from '../migrate/index-lanes.js';
import { DEFAULT_INDEX_SETTINGS, type IndexSettings } from '../migrate/index-settings.js';
import type { StepContext } from '../migrate/step-context.js';
import { applyStatements } from './apply-post-data.js';
import { byTable, largestFirst } from './by-table.js';
import { schemaCopyFailed } from './schema-copy-failed.js';
import { concurrently, type IndexStatement, type SchemaStatements } from './schema-statements.js';

/**
 * Makes the secondary indexes: those of partitioned tables on the parent only, then all others, `settings.parallel` at
 * a time and the largest tables first, then joins them. While nobody writes green's tables each takes one pass, and
 * those of one table are built side by side; afterwards they are built CONCURRENTLY, one table's after each other. Run
 * again it goes on where it was: a finished index is kept, an INVALID leftover of a build that died is built again.
 *
 * @throws VerdigrisError SchemaCopyFailed that names the index.
 */
export async function applySecondaryIndexes(
  context: StepContext,
  { parents, indexes, attach }: SchemaStatements['secondaryIndexes'],
  settings: IndexSettings = DEFAULT_INDEX_SETTINGS,
): Promise<void> {
  await applyStatements(
    context,
    'parent indexes',
    parents.map(({ create }) => create),
  );
  const left = await withoutThoseThere(context.session, indexes);
  // Two concurrent builds on one table would wait for each other, so there a table is one piece of work.
  const tables = await largestFirst(context.session, byTable(left));
  const pieces = (await isOffline(context.session)) ? tables.flat().map((index) => [index]) : tables;
  let done = indexes.length - left.length;
  await inLanes(context, 'indexes', settings, pieces, async (lane, piece) => {
    for (const index of piece) {
      await buildIndex(lane, indexBuild(index), settings);
      context.onProgress({
        step: 'schema',
        object: 'indexes',
        done: ++done,
        total: indexes.length,
        rowsPerSecond: 0,
        etaSeconds: null,
      });
    }
  });
  await applyStatements(context, 'attached indexes', attach);
}

/** The finished ones need neither a session of their own nor a look each: a second pass finds all of them there. */
async function withoutThoseThere(session: Session, indexes: readonly IndexStatement[]): Promise<IndexStatement[]> {
  if (indexes.length === 0) return [];
  const { rows } = await session.query<{ i: number }>(
    `SELECT wanted.i::int - 1 AS i
       FROM unnest($1::name[], $2::name[]) WITH ORDINALITY AS wanted (schema, name, i)
       JOIN pg_namespace n ON n.nspname = wanted.schema
       JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
       JOIN pg_index x ON x.indexrelid = c.oid
      WHERE x.indisvalid`,
    [indexes.map(({ table }) => table.schema), indexes.map(({ name }) => name)],
  );
  const there = new Set(rows.map(({ i }) => i));
  return indexes.filter((_, i) => !there.has(i));
}

/** The build of one of blue's indexes. */
export function indexBuild({ table, name, create }: IndexStatement): Build {
  return {
    table,
    name,
    object: formatTableName({ schema: table.schema, name }),
    // Every name in a dump is qualified.
    searchPath: '',
    sql: (how) => (how === 'plain' ? create : concurrently(create)),
    // Whether it is blue's index, the comparison of the catalogs says.
    accept: () => undefined,
    failed: (error, why) => schemaCopyFailed(create, error, why === 'in the way' ? TRIED_AGAIN : undefined),
  };
}
