import { afterEach, describe, expect, it } from 'vitest';
import { LEDGER_MIGRATIONS, LEDGER_SCHEMA } from '../support/ledger-application.js';
import { leftovers, Migration, statusOf, until } from '../support/migration.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import type { MigrationStatus } from '../../workflows/lib/status.js';
import { rollbackUpdate } from '../../workflows/messages.js';

const open: Migration[] = [];

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

const WHO = { by: 'ada', reason: 'the test says so' };

const waitsForAccess = ({ progress }: MigrationStatus): boolean =>
  progress.some(({ step, object, note }) => `${step} ${object}` === 'waits for access' && note?.includes('APP_BLUE'));

const refused = ({ blue, green }: Migration): Record<string, string> => ({
  VERDIGRIS_CONNECTION_APP_BLUE: blue.uri.replace(/:[^:@]*@/, ':of-yesterday@'),
  VERDIGRIS_CONNECTION_APP_GREEN: green.uri,
});

describe('a run whose worker', { timeout: 300_000 }, () => {
  it.each([
    ['does not know its connections', () => ({})],
    ['is not let in', refused],
  ])(
    '%s waits and says so; with another one it goes on, and so does a rollback, which leaves nothing',
    async (_, without) => {
      const migration = await Migration.create({
        blue: 'pg15',
        green: 'pg18',
        purpose: 'unknown',
        schema: LEDGER_SCHEMA,
        plan: { migrations: LEDGER_MIGRATIONS, replicate: { holdFor: '1h' } },
      });
      open.push(migration);
      const handle = await migration.start();
      await until(handle, 'following', (s) => s.waiting?.for === 'lag');

      await migration.replaceWorker(without(migration));
      const waits = await until(handle, 'waiting for access', waitsForAccess);
      expect(waits).toMatchObject({ outcome: 'running', phase: 'replicate', rollingBack: null });
      await migration.replaceWorker();
      await until(handle, 'going on', (s) => !waitsForAccess(s));

      await migration.replaceWorker(without(migration));
      await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
      const undoes = await until(handle, 'a rollback that waits', (s) => s.rollingBack !== null && waitsForAccess(s));
      expect(undoes.rollingBack).toMatchObject({ undone: [], notUndone: [] });
      await migration.replaceWorker();
      const report = (await handle.result()) as MigrationReport;
      expect(report).toMatchObject({ outcome: 'rolledBack', rollingBack: { notUndone: [] } });
      expect((await statusOf(handle)).progress).toEqual([]);
      for (const side of [migration.blue, migration.green]) {
        expect((await leftovers(side)).filter((what) => /verdigris|publication|slot|subscription/.test(what))).toEqual(
          [],
        );
      }
    },
  );
});
