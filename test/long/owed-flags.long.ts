import { ApplicationFailure } from '@temporalio/activity';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Route } from '../../src/postgres/state.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { ScriptedRuns, untilCancelled } from '../support/scripted-run.js';

const BLUE: Route = {
  ...{ migration: 'm', epoch: 3, generation: 9, writesOn: 'blue', greenReadPercent: 0 },
  ...{ flag: 'use-green-db', opening: null },
};
const OWED = { route: BLUE, why: 'the file for flagd, /flags/a.json, could not be written (ENOTDIR)' };
const PLAN = {
  traffic: { stages: [{ percent: 1, for: '1h' }], approval: { before: [] }, flagd: { path: '/flags/a.json' } },
};

function refused(retryable: boolean): ApplicationFailure {
  const message = 'the file for flagd, /flags/a.json, could not be written';
  return ApplicationFailure.create({ type: 'FlagsNotWritten', message, nonRetryable: !retryable });
}

describe("flagd's file, when it can't be written on the way back,", () => {
  let runs: ScriptedRuns;
  beforeAll(async () => {
    runs = await ScriptedRuns.start();
  }, 60_000);
  afterAll(() => runs.stop());

  const askBack = { by: 'ada', reason: 'changed our mind' };

  it('stops no rollback, and is tried again until it is written', async () => {
    let tries = 0;
    const run = await runs.begin(
      {
        readsToBlue: () => OWED,
        writeOwedFlags: (_, __, route) => {
          expect(route).toEqual(BLUE);
          if (++tries < 3) throw refused(true);
        },
      },
      PLAN,
    );
    await run.saw('+openStage');
    await run.handle.signal('rollback', askBack);
    const report = (await run.handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', rollingBack: { notUndone: [] } });
    expect(report.warnings.join()).toContain('/flags/a.json, could not be written (ENOTDIR); until it is written');
    expect(tries).toBe(3);
    // Everything else was undone before the file was written.
    expect(run.at('-releaseDatabases')).toBeLessThan(run.log.lastIndexOf('+writeOwedFlags'));
  });

  it('is reported when it is never written', async () => {
    const run = await runs.begin(
      {
        readsToBlue: () => OWED,
        writeOwedFlags: () => {
          throw refused(false);
        },
      },
      PLAN,
    );
    await run.saw('+openStage');
    await run.handle.signal('rollback', askBack);
    await expect(run.handle.result()).rejects.toMatchObject({
      cause: {
        type: 'MigrationRolledBack',
        message: expect.stringMatching(
          /Not undone: flagd's file: .*\/flags\/a\.json, could not be written.*; .*write \S+ by hand, with "defaultVariant": "blue"/,
        ),
      },
    });
    expect(run.log).toContain('-releaseDatabases');
  });

  it('of an earlier move is let go when a later one owes another', async () => {
    const routes: number[] = [];
    let reads = 0;
    const run = await runs.begin(
      {
        finishPromotion: () => OWED,
        readsToBlue: () => ({ ...OWED, route: { ...BLUE, generation: 10 + ++reads } }),
        writeOwedFlags: (_, __, route) => {
          routes.push(route.generation);
          return route.generation === BLUE.generation ? untilCancelled() : undefined;
        },
      },
      { ...PLAN, traffic: { ...PLAN.traffic, stages: [{ percent: 1, for: '0s' }] } },
    );
    await run.saw('+watchStandby');
    await run.saw('+writeOwedFlags');
    await run.handle.signal('rollback', askBack);
    expect((await run.handle.result()) as MigrationReport).toMatchObject({ outcome: 'rolledBack' });
    expect(routes.at(-1)).toBe(11);
  });
});
