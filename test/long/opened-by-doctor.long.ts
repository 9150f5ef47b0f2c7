import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { typed, type Said } from '../support/doctor-patient.js';
import { FaultRun } from '../support/fault-run.js';
import { holdPoint } from '../support/hold-points.js';
import { leftovers } from '../support/migration.js';
import { RunPooler } from '../support/run-pooler.js';
import { TemporalProcess } from '../support/temporal-process.js';

/* Nobody is left who would open green: after the decision the worker and Temporal are killed, and a person does it by the doctor. */

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED a green that is opened by the doctor: pgbouncer is not installed\n');

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
}, 120_000);

/** As a person asks it who has the plan and the connections of the worker. */
async function doctorOf(
  { plan, own }: FaultRun,
  pooler: RunPooler,
  address: string,
  ...flags: string[]
): Promise<Said> {
  const folder = await mkdtemp(join(tmpdir(), 'doctor-'));
  const file = join(folder, 'plan.json');
  await writeFile(file, JSON.stringify(plan));
  Object.assign(process.env, pooler.environment, {
    VERDIGRIS_CONNECTION_APP_BLUE: own.blue.uri,
    VERDIGRIS_CONNECTION_APP_GREEN: own.green.uri,
  });
  return typed('doctor', file, '--address', address, ...flags).finally(() => rm(folder, { recursive: true }));
}

describe.skipIf(!isThere)('a promotion whose worker and Temporal are killed after its decision', () => {
  it(
    'is opened by the doctor, for applications with a router at once; clients of poolers follow when the run goes on',
    { timeout: 1_200_000 },
    async () => {
      const temporal = await TemporalProcess.start();
      open.push(() => temporal.stop());
      const pooler = await RunPooler.start();
      open.push(() => pooler.close());
      const run = await FaultRun.create({
        purpose: 'opened by doctor',
        temporalAddress: temporal.address,
        plan: {
          traffic: {
            stages: [{ percent: 100, for: '1s' }],
            gates: [{ metric: 'lag', max: '10s' }],
            approval: { before: [] },
            pgbouncer: pooler.planned,
          },
        },
        environment: pooler.environment,
      });
      open.push(() => run.close());
      await pooler.leadTo(run);
      const own = await leftovers(run.own.blue);
      const decided = run.stopWhere('blue', ...holdPoint('the decision is not known'));
      await run.start();
      await run.inTraffic();
      await decided;
      await Promise.all([run.worker.kill(), temporal.kill()]);
      expect([await run.refusesWrites('blue'), await run.refusesWrites('green')]).toEqual([true, true]);
      const client = pooler.write(400_000);
      client.catch(() => undefined);

      const { text } = await doctorOf(run, pooler, temporal.address, '--open', '--yes');
      expect(text).toContain('PgBouncer "pooler_1" holds its clients');
      expect([await run.refusesWrites('blue'), await run.refusesWrites('green')]).toEqual([true, false]);
      const before = run.writers?.acknowledged ?? 0;
      await expect.poll(() => run.writers?.acknowledged).toBeGreaterThan(before + 20);
      expect(await pooler.look(run)).toMatchObject({ paused: ['orders'], leadsTo: 'blue' });

      await temporal.restart();
      await run.replaceWorker();
      const { promotion } = await run.inStandby();
      expect(promotion).toMatchObject({ to: 'green', holdMs: null });
      expect(await client).toBe('green');
      expect(await pooler.look(run)).toMatchObject({ paused: [], leadsTo: 'green', mark: { state: 'settled' } });
      expect(await run.audit('green', 'follows')).toEqual([]);

      await run.rollBack();
      const { outcome, report } = await run.ended();
      expect(outcome).toBe('rolledBack');
      expect(report?.rollingBack?.notUndone).toEqual([]);
      expect(await run.audit('blue', 'is not followed')).toEqual([]);
      expect(await pooler.write(30_000)).toBe('blue');
      expect([...(run.writers?.failures ?? []), ...(run.writers?.unknown ?? [])]).toEqual([]);
      expect(await leftovers(run.own.blue)).toEqual(own);
    },
  );
});
