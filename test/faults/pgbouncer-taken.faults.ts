import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { Console } from '../../src/pgbouncer/console.js';
import { markName, markValue } from '../../src/pgbouncer/mark.js';
import { approveUpdate } from '../../workflows/messages.js';
import { inPhase, until } from '../support/migration.js';
import {
  isPromotedWithOneApproval,
  pooledMigration,
  waitsForPooler,
  type PooledMigration,
} from '../support/pooled-migration.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED a PgBouncer in another promotion: pgbouncer is not installed\n');

const WHO = { by: 'grace', reason: 'the test says so' };
/** Longer than one look waits for the end of the other promotion. */
const OTHER_LASTS_MS = 12_000;

describe.skipIf(!isThere)(
  'a PgBouncer that the promotion of another migration is at when one has been approved',
  () => {
    let pooled: PooledMigration;

    beforeAll(async () => {
      pooled = await pooledMigration('pooler taken');
    });

    afterAll(() => pooled.close());

    it('is waited for, the status says so, and nobody is asked again', { timeout: 300_000 }, async () => {
      const { migration, pooler, console: config } = pooled;
      const handle = await migration.start();
      await until(handle, 'asked', (s) => inPhase('promote')(s) && s.waiting?.for === 'approval', 180_000);
      const mark = markValue({ epoch: 1, side: 'blue', state: 'moving', token: '0123abcd' });
      writeFileSync(pooler.file, `${readFileSync(pooler.file, 'utf8')}${markName('other')} = ${mark}\n`);
      const other = await Console.open({ connection: 'pooler_1', config, file: pooler.file }, { migration: 'other' });
      await other.reload();
      await handle.executeUpdate(approveUpdate, { args: [{ ...WHO, gate: 'promote' }] });
      const approved = performance.now();
      const isTold = /waits for a pooler: PgBouncer "pooler_1" is in the promotion of another migration, "other"/;
      await waitsForPooler(handle, isTold);
      await sleep(Math.max(0, OTHER_LASTS_MS - (performance.now() - approved)));
      other.close();
      await isPromotedWithOneApproval(handle);
    });
  },
);
