import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { approveUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { inPhase, until } from '../support/migration.js';
import {
  isPromotedWithOneApproval,
  pooledMigration,
  waitsForPooler,
  type PooledMigration,
} from '../support/pooled-migration.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED a PgBouncer that is away: pgbouncer is not installed\n');

const WHO = { by: 'grace', reason: 'the test says so' };

describe.skipIf(!isThere)('a PgBouncer that is restarted when a promotion has been approved', () => {
  let pooled: PooledMigration;

  beforeAll(async () => {
    pooled = await pooledMigration('pooler away');
  });

  afterAll(() => pooled.close());

  it(
    'is waited for, the status says so, and nobody is asked again; one that is down on the way back is named',
    { timeout: 300_000 },
    async () => {
      const { migration, pooler } = pooled;
      const handle = await migration.start();
      await until(handle, 'asked', (s) => inPhase('promote')(s) && s.waiting?.for === 'approval', 180_000);
      await pooler.stopProcess();
      await handle.executeUpdate(approveUpdate, { args: [{ ...WHO, gate: 'promote' }] });
      const isTold = /waits for a pooler: the admin console of PgBouncer "pooler_1" can't be opened/;
      await waitsForPooler(handle, isTold);
      await sleep(2_000);
      await pooler.restart();
      await isPromotedWithOneApproval(handle);

      // It may have clients all the same.
      await pooler.stopProcess();
      await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
      const report = (await handle.result()) as MigrationReport;
      expect(report).toMatchObject({ outcome: 'rolledBack', rollingBack: { notUndone: [] } });
      expect(report.warnings).toContainEqual(
        expect.stringMatching(/^nothing listens at the address of PgBouncer "pooler_1", .* writes are on blue/),
      );
    },
  );
});
