import { inTransaction, type Session } from '../session.js';
import { cancellable, type StepContext } from '../migrate/step-context.js';
import { readProgress, writeProgress } from '../migrate/progress-row.js';
import { readSchemaRights, type SchemaRights } from './schema-rights.js';
import { objectsMade, readUserObjects, type DatabaseObject } from './created-objects.js';
import { NOTHING_LEFT_OUT, type LeftOut } from './left-out-extensions.js';
import { schemaCopyFailed } from './schema-copy-failed.js';

/** The step of a schema copy's rows in verdigris.progress. */
export const SCHEMA_STEP = 'schema';
const PRE_DATA = 'pre-data';

/** What the pre-data half has made on green: the only objects that its compensation may drop. */
export interface PreDataState {
  readonly made: readonly DatabaseObject[];
  /** The schemas that were there before, as they were: the dump may have changed their owner and grants. */
  readonly schemasBefore: readonly SchemaRights[];
  /** What has stayed on blue, whatever green's server offers later. Runs of an earlier version have left nothing out. */
  readonly leftOut?: LeftOut;
}

/**
 * Makes on green what rows need, in one transaction together with the list of what was made: after a crash it is all
 * there or nothing is, and nothing is forgotten. Does nothing when this run has done it.
 *
 * @param leftOut what the statements leave out. Default: nothing
 * @throws VerdigrisError SchemaCopyFailed that names the statement.
 */
export async function applyPreData(
  context: StepContext,
  statements: readonly string[],
  leftOut: LeftOut = NOTHING_LEFT_OUT,
): Promise<void> {
  const { session } = context;
  if ((await readPreDataState(session, context.runId)) !== undefined) return;
  await cancellable(context, session, () =>
    inTransaction(session, async () => {
      await session.query(`SELECT set_config('search_path', '', true)`);
      const before = await readUserObjects(session);
      const schemasBefore = await readSchemaRights(session);
      for (const [i, statement] of statements.entries()) {
        await session.query(statement).catch((error: unknown) => {
          context.signal.throwIfAborted();
          throw schemaCopyFailed(statement, error);
        });
        report(context, i + 1, statements.length);
      }
      const made = objectsMade(before, await readUserObjects(session));
      const state: PreDataState = { made, schemasBefore, leftOut };
      await writeProgress(session, { runId: context.runId, step: SCHEMA_STEP, object: PRE_DATA }, state, true);
    }),
  );
}

/** What this run's schema copy has made on green; undefined when it has made nothing. */
export async function readPreDataState(session: Session, runId: string): Promise<PreDataState | undefined> {
  return (await readProgress<PreDataState>(session, { runId, step: SCHEMA_STEP, object: PRE_DATA }))?.state;
}

/** What this run's schema copy has left on blue. */
export async function readLeftOutOfRun(session: Session, runId: string): Promise<LeftOut> {
  return (await readPreDataState(session, runId))?.leftOut ?? NOTHING_LEFT_OUT;
}

function report(context: StepContext, done: number, total: number): void {
  context.onProgress({ step: SCHEMA_STEP, object: PRE_DATA, done, total, rowsPerSecond: 0, etaSeconds: null });
}
