import { parseDuration } from '../src/plan/duration.js';
import { planSchema } from '../src/plan/schema.js';
import { formatTableName } from '../src/plan/table-name.js';
import { copyAnew } from '../src/postgres/bootstrap/copy-anew.js';
import { awaitsRows } from '../src/postgres/bootstrap/copy/awaited-rows.js';
import { analyzeTables, staleTables } from '../src/postgres/migrate/analyze.js';
import { backfillTables, type BackfillResult } from '../src/postgres/migrate/backfill.js';
import { expandTable } from '../src/postgres/migrate/expand-table.js';
import { planWork } from '../src/postgres/migrate/plan-work.js';
import { recheckForeignKeys } from '../src/postgres/migrate/recheck-foreign-keys.js';
import { revertMigrations } from '../src/postgres/migrate/revert.js';
import { describeStep, runStep } from '../src/postgres/migrate/run-step.js';
import { takeStepOver } from '../src/postgres/migrate/step-lock.js';
import { rememberSequences } from '../src/postgres/unmoved-contents.js';
import { LoadMeter } from '../src/postgres/load.js';
import { measureLag } from '../src/postgres/marker.js';
import { FeedErrors } from '../src/postgres/stuck-feed.js';
import { hasState } from '../src/postgres/state.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { buildSettings } from './build-settings.js';
import { perform, performWhileBlueServes, type ActivityDependencies, type Work } from './context.js';
import { movedTables } from './run-tables.js';
import type { Keep } from './rollback.js';
import { readsAreBack } from './reads-to-blue.js';
import { schemaStep, stepContext } from './step-context.js';

/** What is left to do after the new columns are there: names for the timeline. */
export interface MigrationSteps {
  /** Tables to be backfilled. */
  readonly tables: readonly string[];
  /** Later steps, by their number, in their order. */
  readonly steps: readonly (readonly [number: number, name: string])[];
  /** How many of the steps come before the first raw SQL, which may depend on anything. */
  readonly beforeSql: number;
}

/** Activities of phase 3. */
export function migrateActivities(dependencies: ActivityDependencies) {
  return {
    /** New columns and up/down triggers of every table: from then on each row that arrives is complete. */
    expandTables: (ref: RunRef): Promise<MigrationSteps> =>
      performWhileBlueServes(dependencies, ref, async (work) => {
        await readsAreBack(work, ref, dependencies.environment);
        const context = await schemaStep(work, 'expand');
        const { tables, steps } = await planWork(ref.plan);
        await rememberSequences(context.session, work.run.runId);
        for (const table of tables) await expandTable(context, table);
        const firstSql = steps.findIndex(({ kind }) => kind === 'sql');
        return {
          tables: tables.filter((t) => t.derived.some((d) => d.up !== undefined)).map((t) => formatTableName(t.table)),
          steps: steps.map((step, i) => [i, describeStep(step)] as const),
          beforeSql: firstSql === -1 ? steps.length : firstSql,
        };
      }),

    /** Fills the new columns of the rows that were there before: `backfill.parallel` ranges of one table or of several. */
    backfillTables: (ref: RunRef, tables: readonly string[]): Promise<readonly BackfillResult[]> =>
      performWhileBlueServes(dependencies, ref, (work) => backfill(ref, tables, work)),

    /**
     * One of the later steps: indexes, a constraint, NOT NULL, raw SQL.
     *
     * @param when `copied`: green does not follow blue yet, and a step that needs rows which are still to come is left to
     * phase 3. Default `following`
     */
    applyMigration: (ref: RunRef, index: number, when: 'copied' | 'following' = 'following'): Promise<void> =>
      performWhileBlueServes(dependencies, ref, async (work) => {
        const step = (await planWork(ref.plan)).steps[index];
        if (step === undefined) return;
        const context = await schemaStep(work, 'migrate');
        if (when === 'copied' && (await awaitsRows(context.session, work.run.runId, step))) return;
        await runStep(context, step, await buildSettings(work, ref));
      }),

    /** Rows that a foreign key of the plan should refuse, a line a key: the apply worker does not check what it writes. */
    recheckForeignKeys: (ref: RunRef): Promise<readonly string[]> =>
      perform(dependencies, ref, async (work) => {
        const context = stepContext(work, await work.session('green', 'foreign keys'), 'green');
        const orphans = await recheckForeignKeys(context, ref.plan);
        return orphans.map(
          ({ table, constraint, rows, query }) =>
            `${rows} rows of ${formatTableName(table)} violate the foreign key ${constraint}: ${query}`,
        );
      }),

    /**
     * Statistics of every table on green: without them its first reads would be slow. With `onlyStale`, where nothing
     * was changed since the last ANALYZE but rows, of those that need it.
     */
    analyzeGreen: (ref: RunRef, onlyStale: boolean): Promise<void> =>
      perform(dependencies, ref, async (work) => {
        const green = await work.session('green', 'analyze');
        const tables = (await movedTables(green, ref.plan))
          .filter((table) => table.kind !== 'partition')
          .map((table) => table.name);
        const chosen = onlyStale ? await staleTables(green, tables) : tables;
        await analyzeTables(stepContext(work, green, 'green'), chosen);
      }),

    /** The compensation: the plan's changes are taken back, the last one first. */
    undoMigrations: (ref: RunRef, { keepGreen }: Keep): Promise<void> =>
      performWhileBlueServes(dependencies, ref, async (work) => {
        if (keepGreen) return;
        await readsAreBack(work, ref, dependencies.environment, { onlyIfAnswered: true });
        await work.asOwner('green', 'undo migrations', async (green) => {
          if (!(await hasState(green))) return;
          await takeStepOver(green, work.signal, 'ended');
          await revertMigrations(stepContext(work, green, 'green'), await planWork(ref.plan));
        });
      }),
  };
}

async function backfill(ref: RunRef, names: readonly string[], work: Work): Promise<readonly BackfillResult[]> {
  // A run that an older worker has begun has no defaults of settings that came later.
  const settings = planSchema.shape.backfill.parse(ref.plan.backfill);
  const mine = (await planWork(ref.plan)).tables.filter(({ table }) => names.includes(formatTableName(table)));
  const feed = { databases: work.databases, run: work.run, plan: ref.plan, signal: work.signal };
  await copyAnew({ ...feed, report: work.report });
  const blue = await work.session('blue', 'backfill lag');
  const green = await work.session('green', 'backfill lag');
  const errors = new FeedErrors(feed, blue, green);
  let own = 0;
  const load = new LoadMeter({ blue, green }, () => own);
  return backfillTables(stepContext(work, await work.session('green', 'backfill'), 'green'), mine, {
    batchMs: parseDuration(settings.batch),
    parallel: settings.parallel,
    besideOthers: {
      batchMs: parseDuration(settings.besideOthers.batch),
      parallel: settings.besideOthers.parallel,
    },
    maxLagSeconds: parseDuration(settings.maxLag) / 1_000,
    lagSeconds: async () => {
      const lag = await measureLag(blue, green, 'to_green', LAG_TIMEOUT_MS, work.signal);
      if (!Number.isFinite(lag)) await errors.refuse();
      return lag / 1_000;
    },
    pauseAbove: { ...settings.pauseAbove, load: () => load.measure() },
    onTransaction: () => {
      own += 1;
    },
  });
}

/** A feed that takes longer for a marker is as good as stopped; the backfill asks again. */
const LAG_TIMEOUT_MS = 60_000;
