import { formatTableName } from '../../plan/table-name.js';
import { inLanes } from '../migrate/index-lanes.js';
import { DEFAULT_INDEX_SETTINGS, type IndexSettings } from '../migrate/index-settings.js';
import { planByHash } from '../migrate/plan-by-hash.js';
import type { StepContext } from '../migrate/step-context.js';
import { applyOnce, applyStatements, readApplied } from './apply-post-data.js';
import { byTable, largestFirst } from './by-table.js';
import { withoutThoseOfPlan } from './constraints-of-plan.js';
import type { ForeignKeyStatements } from './schema-statements.js';

/**
 * Foreign keys, added first and validated then: only the validation reads the tables, and it lets writers go on.
 * Several tables are validated at once, the largest first. One that a step of the plan has made stays as it is.
 */
export async function applyForeignKeys(
  context: StepContext,
  all: readonly ForeignKeyStatements[],
  settings: IndexSettings = DEFAULT_INDEX_SETTINGS,
): Promise<void> {
  const foreignKeys = await withoutThoseOfPlan(context, all);
  await applyStatements(
    context,
    'foreign keys',
    foreignKeys.map(({ add }) => add),
  );
  const applied = await readApplied(context);
  const validations = foreignKeys.flatMap(({ table, validate }) => (validate === null ? [] : [{ table, validate }]));
  const tables = await largestFirst(context.session, byTable(validations));
  let done = 0;
  await inLanes(context, 'foreign keys', settings, tables, async (lane, keys) => {
    await planByHash(lane.session, 'session');
    for (const { table, validate } of keys) {
      const object = `foreign keys of ${formatTableName(table)}`;
      const total = validations.length;
      lane.onProgress({ step: 'constraint', object, done, total, rowsPerSecond: 0, etaSeconds: null });
      await applyOnce(lane, applied, 'foreign keys', validate);
      done += 1;
    }
  });
}
