import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { approveUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { inPhase, statusOf, until } from '../support/migration.js';
import { pooledMigration, type PooledMigration } from '../support/pooled-migration.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED a PgBouncer that is lost in a try: pgbouncer is not installed\n');

const WHO = { by: 'grace', reason: 'the test says so' };

describe.skipIf(!isThere)('a PgBouncer that freezes while a promotion is tried', () => {
  let pooled: PooledMigration;

  beforeAll(async () => {
    pooled = await pooledMigration('pooler lost in try');
  });

  afterAll(async () => {
    pooled.pooler.kill('SIGCONT');
    await pooled.close();
  });

  it(
    'keeps no rollback: reads go back to blue, all else is undone, and it is named',
    { timeout: 400_000 },
    async () => {
      const { migration, pooler } = pooled;
      const handle = await migration.start();
      await until(handle, 'asked', (s) => inPhase('promote')(s) && s.waiting?.for === 'approval', 180_000);
      await handle.executeUpdate(approveUpdate, { args: [{ ...WHO, gate: 'promote' }] });
      // The try has announced its pause, and has not asked for it.
      const isAnnounced = (): boolean => readFileSync(pooler.file, 'utf8').includes('_moving_');
      for (let i = 0; i < 10_000 && !isAnnounced(); i++) await sleep(5);
      pooler.kill('SIGSTOP');
      expect(isAnnounced()).toBe(true);
      const begun = Date.now();
      await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
      await until(handle, 'reads back', (s) => s.rollingBack !== null && s.greenReadPercent === 0, 180_000);
      expect(Date.now() - begun).toBeLessThan(150_000);
      await handle.result().catch(() => undefined);
      const { rollingBack, writesOn } = await statusOf(handle);
      expect(writesOn).toBe('blue');
      expect(rollingBack?.notUndone).toEqual([expect.stringMatching(/^end the tries of the promotion: .*"pooler_1"/)]);
      expect(rollingBack?.undone).toContain('release both databases');
    },
  );
});
