import { formatTableName, type TableName } from '../src/plan/table-name.js';
import { listed } from '../src/postgres/preflight/finding.js';
import { compareCatalogs, type CatalogDifference } from '../src/postgres/schema-copy/compare-catalogs.js';
import { dumpSchema, type DumpOptions } from '../src/postgres/schema-copy/pg-dump.js';
import {
  readPostDataStatements,
  readPreDataStatements,
  type SchemaStatements,
} from '../src/postgres/schema-copy/schema-statements.js';
import { applyPreData, readLeftOutOfRun } from '../src/postgres/schema-copy/apply-pre-data.js';
import { applyForeignKeys } from '../src/postgres/schema-copy/apply-foreign-keys.js';
import { applyRest } from '../src/postgres/schema-copy/apply-post-data.js';
import { buildTogether } from '../src/postgres/schema-copy/build-together.js';
import { applyKeys } from '../src/postgres/schema-copy/apply-keys.js';
import { applySecondaryIndexes } from '../src/postgres/schema-copy/apply-indexes.js';
import { refreshMaterializedViews, unpopulatedViews } from '../src/postgres/schema-copy/materialized-views.js';
import { largestCopied, whileVacuuming } from '../src/postgres/bootstrap/copy/vacuum-copied.js';
import { excludedRelations } from '../src/postgres/schema-copy/excluded-relations.js';
import type { LeftOut } from '../src/postgres/schema-copy/left-out-extensions.js';
import { readDumpFilter } from '../src/postgres/schema-copy/dump-filter.js';
import { canGiveOwnership } from '../src/postgres/schema-copy/ownership-given.js';
import { describeSystemGrants, differentSystemGrants } from '../src/postgres/schema-copy/system-grants.js';
import { planWork } from '../src/postgres/migrate/plan-work.js';
import { describeMissingRights, missingRights } from '../src/postgres/missing-rights.js';
import { describePlanRights, missingPlanRights, rolesToAsk } from '../src/postgres/plan-rights.js';
import { describeMissingSettings, missingSettings } from '../src/postgres/missing-settings.js';
import { buildsAhead } from '../src/postgres/migrate/create-index.js';
import { indexSettings } from '../src/postgres/migrate/index-settings.js';
import type { StepContext } from '../src/postgres/migrate/step-context.js';
import { majorVersion } from '../src/postgres/retry.js';
import type { Session } from '../src/postgres/session.js';
import { VerdigrisError } from '../src/errors.js';
import type { Side } from '../src/side.js';
import { together } from '../src/timing.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { buildSettings } from './build-settings.js';
import { perform, performWhileBlueServes, type ActivityDependencies, type Work } from './context.js';
import { readsAreBack } from './reads-to-blue.js';
import { schemaStep } from './step-context.js';

/** Materialized views that green has got filled: their rows are not replicated, so that is what they hold from then on. */
export interface FilledViews {
  /** Their names, for people. */
  readonly views: string;
  /** ISO 8601. */
  readonly at: string;
}

function filledNow(views: readonly TableName[]): FilledViews {
  return { views: listed(views.map(formatTableName)), at: new Date().toISOString() };
}

/** Activities of phase 2 that give green blue's schema: before the rows what they need, after them the rest. */
export function copySchemaActivities(dependencies: ActivityDependencies) {
  return {
    /** Types, functions, tables, views and sequences; then keys, unless the rows are copied first. */
    copySchema: (ref: RunRef): Promise<void> =>
      performWhileBlueServes(dependencies, ref, async (work) => {
        await readsAreBack(work, ref, dependencies.environment);
        const { context, sides } = await schemaSides(work, 'schema');
        const { statements, leftOut } = await readPreData(work, ref, sides);
        await applyPreData(context, statements, leftOut);
        if (ref.plan.bootstrap.method === 'copy') return;
        const { keys } = await readPostData(work, ref, sides);
        await applyKeys(context, keys, indexSettings(ref.plan));
      }),

    /**
     * Keys and blue's other indexes, side by side: after the rows, before anybody writes green's tables.
     *
     * @param ahead of so many of the plan's steps the indexes are built with them. Default: 0
     */
    buildKeysAndIndexes: (ref: RunRef, ahead = 0): Promise<{ keys: number; indexes: number }> =>
      perform(dependencies, ref, async (work) => {
        const { context, sides } = await schemaSides(work, 'keys');
        const { steps } = await planWork(ref.plan);
        const indexes = steps.slice(0, ahead).flatMap((step) => (step.kind === 'indexes' ? step.indexes : []));
        const settings = await buildSettings(work, ref, sides);
        // Beside a blue at work one process at a time: then each table is vacuumed when its indexes are built.
        const early = settings.oneProcess ? undefined : await largestCopied(context);
        return whileVacuuming(context, early, async (begun) => {
          const statements = await readPostData(work, ref, sides);
          await buildTogether(context, statements, settings, (own) => buildsAhead(own, indexes), begun);
          // A key waits for the lock of its table for a moment only, and the vacuum of a large one takes longer.
          await begun?.over;
          await applyKeys(context, statements.keys, settings);
          await applySecondaryIndexes(context, statements.secondaryIndexes, settings);
          return { keys: statements.keys.create.length, indexes: statements.secondaryIndexes.indexes.length };
        });
      }),

    /** Secondary indexes, foreign keys, triggers; then both catalogs are compared. */
    completeSchema: (ref: RunRef): Promise<{ warnings: string[]; filled?: FilledViews }> =>
      performWhileBlueServes(dependencies, ref, async (work) => {
        const { context, sides } = await schemaSides(work, 'schema');
        const green = context.session;
        const statements = await readPostData(work, ref, sides);
        const settings = await buildSettings(work, ref, sides);
        await applySecondaryIndexes(context, statements.secondaryIndexes, settings);
        await applyForeignKeys(context, statements.foreignKeys, settings);
        await applyRest(context, statements);
        // Hours may have passed: blue may have been restarted.
        const blue = await work.session('blue', 'schema');
        const views = await refreshMaterializedViews(context, await unpopulatedViews(blue));
        const filled = views.length === 0 ? {} : { filled: filledNow(views) };
        const leftOut = await readLeftOutOfRun(green, ref.runId);
        const differences = await compareCatalogs(blue, green, ref.plan, leftOut);
        const errors = differences.filter((found) => found.severity === 'error');
        if (errors.length > 0) throw schemasDiffer(errors);
        const rights = describeMissingRights(await missingRights(blue, green));
        const asked = await rolesToAsk(blue, green);
        const ofPlan = describePlanRights(await missingPlanRights(green, asked, await planWork(ref.plan)));
        const stored = describeMissingSettings(await missingSettings(blue, green));
        const ofSystem = describeSystemGrants(await differentSystemGrants(blue, green, leftOut.extensions));
        const warnings = [...rights, ...ofPlan, ...stored, ...ofSystem, ...differences.map(describeDifference)].slice(
          0,
          20,
        );
        return { warnings, ...filled };
      }),
  };
}

type Sides = Readonly<Record<Side, Session>>;

/** What changes green's schema, and whom it asks: green by the session that changes it. */
async function schemaSides(work: Work, purpose: string): Promise<{ context: StepContext; sides: Sides }> {
  const [context, blue] = await together(schemaStep(work, purpose), work.session('blue', 'schema'));
  return { context, sides: { blue, green: context.session } };
}

async function readPreData(
  work: Work,
  ref: RunRef,
  sides: Sides,
): Promise<{ statements: SchemaStatements['preData']; leftOut: LeftOut }> {
  const options = await dumpOptions(work, ref, sides);
  const [dump, filter] = await together(
    dumpSchema(work.databases.blue, 'pre-data', options),
    readDumpFilter(sides.blue, sides.green, ref.plan.tables),
  );
  return { statements: await readPreDataStatements(dump, filter), leftOut: filter.leftOut };
}

/** What is made after the rows; the other half of the schema is there. */
async function readPostData(work: Work, ref: RunRef, sides: Sides): Promise<Omit<SchemaStatements, 'preData'>> {
  const options = await dumpOptions(work, ref, sides);
  return readPostDataStatements(await dumpSchema(work.databases.blue, 'post-data', options));
}

async function dumpOptions({ signal }: Work, { plan }: RunRef, { blue, green }: Sides): Promise<DumpOptions> {
  return {
    exclude: await excludedRelations(blue, plan.tables),
    ownersAndGrants: await canGiveOwnership(blue, green, plan.tables),
    server: await majorVersion(blue),
    signal,
  };
}

function describeDifference({ kind, object, difference }: CatalogDifference): string {
  return `${kind} ${object}: ${difference}`;
}

function schemasDiffer(differences: readonly CatalogDifference[]): VerdigrisError {
  const more = differences.length > 10 ? `; and ${differences.length - 10} more` : '';
  return new VerdigrisError({
    type: 'SchemaCopyFailed',
    message: `green's schema is not blue's: ${differences.slice(0, 10).map(describeDifference).join('; ')}${more}`,
    nextStep: 'DDL on blue during the run does this: start again after the rollback, and keep DDL away until the end',
  });
}
