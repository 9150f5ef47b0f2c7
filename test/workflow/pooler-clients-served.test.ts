import { ApplicationFailure } from '@temporalio/activity';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { replayed, ScriptedRuns } from '../support/scripted-run.js';

const POOL = { pooler: 'pgbouncer_1', database: 'orders', user: 'app' };
const UNSERVED = 'clients of "orders" (user "app") have got no connection to green through PgBouncer "pgbouncer_1"';

describe('clients of poolers that get a connection late', () => {
  let runs: ScriptedRuns;
  beforeAll(async () => {
    runs = await ScriptedRuns.start();
  }, 60_000);
  afterAll(() => runs.stop());

  it('are an alarm until they have it, and a warning from then on', async () => {
    let serve: () => void = () => undefined;
    const served = new Promise<void>((resolve) => (serve = resolve));
    const asked: unknown[] = [];
    const run = await runs.begin(
      {
        promote: (scripted, _, from) => ({ ...scripted.move(from), unserved: [UNSERVED], unservedPools: [POOL] }),
        awaitServed: (_run, _ref, pools) => {
          asked.push(pools);
          return served;
        },
      },
      { traffic: { stages: [], approval: { before: [] } } },
    );
    const status = (): Promise<MigrationStatus> => run.handle.query<MigrationStatus>('status');
    await run.saw('+awaitServed');
    expect((await status()).alarms).toMatchObject([{ about: 'clients', why: UNSERVED }]);
    serve();
    await expect.poll(async () => (await status()).alarms).toEqual([]);
    expect(await status()).toMatchObject({
      phase: 'standby',
      warnings: expect.arrayContaining([UNSERVED]) as string[],
    });
    expect(asked).toEqual([[POOL]]);
    await run.handle.signal('rollback', { by: 'ada', reason: 'the test is over' });
    expect(await run.handle.result()).not.toHaveProperty('promotion.unservedPools');
    await replayed(run, 'pooler-clients');
  });

  it('stay an alarm where that can not be seen', async () => {
    const run = await runs.begin(
      {
        promote: (scripted, _, from) => ({ ...scripted.move(from), unserved: [UNSERVED], unservedPools: [POOL] }),
        awaitServed: () => {
          throw ApplicationFailure.nonRetryable('no such plan');
        },
      },
      { traffic: { stages: [], approval: { before: [] } } },
    );
    const status = (): Promise<MigrationStatus> => run.handle.query<MigrationStatus>('status');
    await run.saw('-awaitServed');
    await run.saw('+watchStandby');
    await expect.poll(async () => (await status()).warnings.join()).toContain('is not known: no such plan');
    expect(await status()).toMatchObject({ phase: 'standby', alarms: [{ about: 'clients' }] });
    await run.handle.terminate();
  });
});
