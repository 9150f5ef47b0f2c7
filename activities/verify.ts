import { activityInfo } from '@temporalio/activity';
import { replicatedRoots } from '../src/postgres/catalog.js';
import { directionTo } from '../src/postgres/feed.js';
import { planWork } from '../src/postgres/migrate/plan-work.js';
import type { Difference } from '../src/postgres/verify/difference.js';
import { verifyTables } from '../src/postgres/verify/verify-tables.js';
import { otherSide, type Side } from '../src/side.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import type { VerificationSummary } from '../workflows/lib/status.js';
import { perform, type ActivityDependencies } from './context.js';
import { movedTables } from './run-tables.js';

export interface VerificationResult extends VerificationSummary {
  /** The first differing rows, a line each: table, key, what differs. */
  readonly examples: readonly string[];
}

/** How many differing rows go into the history. */
const EXAMPLES = 10;

/** Activities of phase 4. */
export function verifyActivities(dependencies: ActivityDependencies) {
  return {
    /** Compares every moved row of the side that takes writes with the other side, while both live. */
    verify: (ref: RunRef, source: Side): Promise<VerificationResult> =>
      perform(dependencies, ref, async (work) => {
        const target = otherSide(source);
        const tables = await movedTables(await work.session('blue', 'verify'), ref.plan);
        const found = await verifyTables({
          source: work.databases[source],
          target: work.databases[target],
          direction: directionTo(target),
          runId: work.run.runId,
          pass: activityInfo().activityId,
          tables: replicatedRoots(tables).map((table) => table.name),
          work: await planWork(ref.plan),
          signal: work.signal,
          onProgress: work.report,
        });
        return {
          tables: found.tables,
          rowsVerified: found.rowsVerified,
          differingRows: found.differingRows,
          at: new Date().toISOString(),
          examples: found.differing.slice(0, EXAMPLES).map(describeDifference),
        };
      }),
  };
}

function describeDifference({ table, key, kind, columns }: Difference): string {
  return `${table} ${key}: ${kind}${columns === undefined ? '' : ` (${columns.join(', ')})`}`;
}
