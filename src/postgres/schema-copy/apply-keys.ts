import { formatTableName } from '../../plan/table-name.js';
import { watched } from '../migrate/index-watch.js';
import { inLanes } from '../migrate/index-lanes.js';
import { DEFAULT_INDEX_SETTINGS, type IndexSettings } from '../migrate/index-settings.js';
import type { StepContext } from '../migrate/step-context.js';
import { applyOnce, applyStatements, readApplied, wasApplied } from './apply-post-data.js';
import { byTable, largestFirst } from './by-table.js';
import { keyUsingIndex } from './key-index.js';
import type { SchemaStatements } from './schema-statements.js';

/**
 * Primary keys, unique and exclusion constraints, replica identities, of tables that nobody uses yet: before the rows,
 * or after them, `settings.parallel` tables at a time and the largest first. Run again it makes what is missing.
 *
 * @throws VerdigrisError SchemaCopyFailed that names the key.
 */
export async function applyKeys(
  context: StepContext,
  keys: SchemaStatements['keys'],
  settings: IndexSettings = DEFAULT_INDEX_SETTINGS,
): Promise<void> {
  const applied = await readApplied(context);
  const left = keys.create.filter(({ create }) => !wasApplied(applied, 'keys', create));
  const tables = await largestFirst(context.session, byTable(left));
  let done = keys.create.length - left.length;
  await inLanes(context, 'keys', settings, tables, async (lane, table) => {
    for (const key of table) {
      const object = formatTableName({ schema: key.table.schema, name: key.name });
      // Not given up for whoever waits: green is not in use, and its rows need their keys.
      await watched(lane, lane.session, { object, maxBlockingMs: null }, async () =>
        applyOnce(lane, applied, 'keys', key.create, await keyUsingIndex(lane.session, key)),
      );
      context.onProgress({
        step: 'schema',
        object: 'keys',
        done: ++done,
        total: keys.create.length,
        rowsPerSecond: 0,
        etaSeconds: null,
      });
    }
  });
  await applyStatements(context, 'keys', keys.join);
}
