import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { replayed, ScriptedRuns } from '../support/scripted-run.js';

const REFUSED = 'clients of "orders" (user "app") have got no connection to green through PgBouncer "pgbouncer_1"';

describe('clients of poolers that get no connection after the promotion', () => {
  let runs: ScriptedRuns;
  beforeAll(async () => {
    runs = await ScriptedRuns.start();
  }, 60_000);
  afterAll(() => runs.stop());

  it('are an alarm until writes are back, and what was seen before the pause is a warning', async () => {
    const run = await runs.begin(
      {
        promote: (scripted, _, from) => ({
          ...scripted.move(from),
          ...(from === 'blue' ? { mayBeRefused: ['green may refuse "app"'], unserved: [REFUSED] } : {}),
        }),
      },
      { traffic: { stages: [], approval: { before: [] } } },
    );
    await run.saw('+watchStandby');
    const status = await run.handle.query<MigrationStatus>('status');
    expect(status.alarms).toMatchObject([
      { about: 'clients', why: REFUSED, next: expect.stringContaining('`rollback` leads them back') as string },
    ]);
    expect(status.warnings).toEqual(expect.arrayContaining(['green may refuse "app"', REFUSED]));
    await run.handle.signal('rollback', { by: 'ada', reason: 'nobody gets in' });
    const report = (await run.handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(report.promotion).not.toHaveProperty('unserved');
    await replayed(run);
  });
});
