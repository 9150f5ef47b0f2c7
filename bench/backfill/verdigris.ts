import { parseDuration } from '../../src/plan/duration.js';
import { planSchema } from '../../src/plan/schema.js';
import { LoadMeter } from '../../src/postgres/load.js';
import { measureLag } from '../../src/postgres/marker.js';
import { backfillTables, type BackfillOptions } from '../../src/postgres/migrate/backfill.js';
import { expandTable } from '../../src/postgres/migrate/expand-table.js';
import { planWork } from '../../src/postgres/migrate/plan-work.js';
import { runStep } from '../../src/postgres/migrate/run-step.js';
import type { StepContext } from '../../src/postgres/migrate/step-context.js';
import { closeSession, openSession, withSession, type Database, type Databases } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { UP, type Prepared } from './change.js';

/** How long a marker may take, ms. */
export const MARKER_WITHIN_MS = 60_000;

/**
 * What Verdigris' activities do on green, with the plan's defaults, its brake's marker and the look at the load, until
 * the column is NOT NULL and green has what blue had then. There is neither Temporal nor a worker.
 *
 * @param databases both with schema verdigris
 * @param lanes `backfill.parallel`
 */
export async function prepareVerdigris(databases: Databases, lanes: number): Promise<Prepared> {
  const plan = planSchema.parse({
    name: 'bench',
    blue: { connection: 'blue' },
    green: { connection: 'green' },
    migrations: [{ addColumn: { table: 'transactions', column: 'metadata', type: 'jsonb', up: UP, notNull: true } }],
    backfill: { parallel: lanes },
  });
  const { tables, steps } = await planWork(plan);
  const session = await openSession(databases.green, { purpose: 'bench' });
  const context: StepContext = {
    runId: 'bench',
    session,
    connect: (purpose) => openSession(databases.green, { purpose }),
    signal: new AbortController().signal,
    onProgress: () => undefined,
  };
  const blue = await openSession(databases.blue, { purpose: 'bench lag' });
  const green = await openSession(databases.green, { purpose: 'bench lag' });
  // A session has one marker on its way at a time, and the brake's last one is not waited for.
  const last = await openSession(databases.blue, { purpose: 'bench' });
  let own = 0;
  const load = new LoadMeter({ blue, green }, () => own);
  const { batch, parallel, besideOthers, maxLag, pauseAbove } = plan.backfill;
  const options: BackfillOptions = {
    batchMs: parseDuration(batch),
    parallel,
    besideOthers: { batchMs: parseDuration(besideOthers.batch), parallel: besideOthers.parallel },
    maxLagSeconds: parseDuration(maxLag) / 1_000,
    lagSeconds: async () => (await measureLag(blue, green, 'to_green', MARKER_WITHIN_MS)) / 1_000,
    pauseAbove: { ...pauseAbove, load: () => load.measure() },
    onTransaction: () => {
      own += 1;
    },
  };
  const beside = async (): Promise<void> => {
    try {
      for (const table of tables) await expandTable(context, table);
      await backfillTables(context, tables, options);
      for (const step of steps) await runStep(context, step);
      const lag = await measureLag(last, session, 'to_green', MARKER_WITHIN_MS);
      if (!Number.isFinite(lag)) throw new Error('green has not caught up with blue');
    } finally {
      for (const each of [session, blue, green, last]) await closeSession(each);
    }
  };
  return { beside };
}

/** One database for both sides: nothing is ever behind, but markers and the look at the load cost what they cost. */
export async function prepareInPlace(database: Database, lanes: number): Promise<Prepared> {
  await withSession(database, { purpose: 'bench' }, (session) => installState(session, 'green'));
  return prepareVerdigris({ blue: database, green: database }, lanes);
}
