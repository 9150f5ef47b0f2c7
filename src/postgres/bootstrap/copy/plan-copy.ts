import { formatTableName } from '../../../plan/table-name.js';
import { readTables, type TableInfo } from '../../catalog.js';
import { expandColumns, expandTable } from '../../migrate/expand-table.js';
import { refuseMistakes } from '../../migrate/plan-trial.js';
import { planWork } from '../../migrate/plan-work.js';
import type { StepContext } from '../../migrate/step-context.js';
import type { Session } from '../../session.js';
import { readStreams } from '../../streams.js';
import { answersBy } from '../../same-answers.js';
import { computedTable, isSameOnGreen, type ComputedTable } from './computed-table.js';
import { sourceTables } from './copied-tables.js';
import type { CopyContext } from './copy-context.js';
import { readCopyState, readParcels, storeCopy } from './copy-state.js';
import { planParcels, type Parcel } from './plan-parcels.js';

/**
 * Decides what is copied how, once: green gets the plan's new columns, and the tables are cut into parcels. Where blue
 * can't compute the new columns as green would, green's trigger must be there before the rows.
 *
 * @throws VerdigrisError MigrationStepFailed for what green would refuse of the plan, before a row is copied.
 * @param tables those of blue; their publications are there.
 */
export async function planCopy(
  context: CopyContext,
  blue: Session,
  green: StepContext,
  tables: readonly TableInfo[],
): Promise<readonly Parcel[]> {
  const { run, plan } = context;
  const session = green.session;
  if ((await readCopyState(session, run.runId)) === undefined) {
    const computed: Record<string, ComputedTable> = {};
    const alike = (await answersBy(blue)) === (await answersBy(session));
    const work = await planWork(plan);
    // All that green refuses is told at once, before anything is made.
    await refuseMistakes({ session, blue, moved: tables, work });
    for (const changed of work.tables) {
      await expandColumns(green, changed);
      const same = alike || (await isSameOnGreen(session, changed));
      const onBlue = same ? await computedTable(blue, session, changed) : undefined;
      if (onBlue === undefined) await expandTable(green, changed);
      else computed[formatTableName(changed.table)] = onBlue;
    }
    const streams = await readStreams(blue, run.migration, 'to_green', plan.replicate.streams);
    const sources = await sourceTables(blue, tables, await readTables(session, plan.tables), streams, alike);
    await storeCopy(session, run.runId, planParcels(sources, plan.bootstrap.parallel), computed);
  }
  return readParcels(session, run.runId);
}
