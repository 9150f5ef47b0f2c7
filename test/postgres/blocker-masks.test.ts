import { describe, expect, it } from 'vitest';
import { blockersOf } from '../../src/postgres/blockers.js';
import { whoHasWritten } from '../../src/postgres/locks.js';
import { backendPid } from '../../src/postgres/migrate/step-context.js';
import { withSession } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient } from '../support/postgres.js';

describe('who is in the way', () => {
  it.each([
    ["SELECT 'secret', 4711", 'SELECT ...'],
    ['SELECT 4711, 1', 'SELECT ..., ...'],
    ['DO $x$secret$x$', 'DO ...'],
    ['SELECT $$secret$$', 'SELECT ...'],
  ])('is told without the values of its statement: %s', async (statement, told) => {
    const database = await testDatabase('pg15', 'masks');
    try {
      await withClient(database.config, async (other) => {
        await other.query('CREATE TABLE t ()');
        await other.query('BEGIN; LOCK TABLE t; SELECT pg_current_xact_id()');
        await other.query(statement.startsWith('DO') ? 'DO $x$BEGIN NULL; END$x$' : statement);
        await withSession(asDatabase(database, 'blue'), { purpose: 'ours', lockTimeoutMs: 20_000 }, async (ours) => {
          const waiting = ours.query('BEGIN; LOCK TABLE public.t').catch(() => undefined);
          await withSession(asDatabase(database, 'blue'), { purpose: 'watch' }, async (watch) => {
            await expect
              .poll(() => blockersOf(watch, { pid: backendPid(ours) }), { interval: 50, timeout: 10_000 })
              .toMatchObject([{ statement: told }]);
            expect(await whoHasWritten(watch)).not.toMatch(/secret|4711|NULL/);
          });
          await other.query('ROLLBACK');
          await waiting;
        });
      });
    } finally {
      await database.drop();
    }
  });
});
