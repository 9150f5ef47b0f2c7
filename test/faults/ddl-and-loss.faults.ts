import { afterEach, describe, expect, it } from 'vitest';
import { feedName } from '../../src/postgres/feed.js';
import { LEDGER_MIGRATIONS, LEDGER_SCHEMA } from '../support/ledger-application.js';
import { leftovers, Migration, rowsOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { approveUpdate, resumeUpdate, rollbackUpdate } from '../../workflows/messages.js';

const open: Migration[] = [];

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

const WHO = { by: 'grace', reason: 'the test says so' };

describe('a run that meets DDL on blue, and later a feed that dies', () => {
  it('is held, goes on when it may, and goes back only with the loss that it names', async () => {
    const migration = await Migration.create({
      blue: 'pg15',
      green: 'pg18',
      purpose: 'ddl and loss',
      schema: LEDGER_SCHEMA,
      plan: {
        migrations: LEDGER_MIGRATIONS,
        traffic: {
          stages: [{ percent: 0, for: '0s' }],
          gates: [{ metric: 'lag', max: '2s' }],
          approval: { before: ['promote'] },
        },
        standby: { for: '10m' },
      },
    });
    open.push(migration);
    const handle = await migration.start();
    await until(handle, 'waiting for the approval', (s) => s.waiting?.gate === 'promote');
    await withClient({ ...migration.blue.config, application_name: 'flyway' }, (client) =>
      client.query('CREATE INDEX entries_created ON entries (created_at)'),
    );
    const held = await until(handle, 'held', (s) => (s.held ?? null) !== null);
    expect(held.held?.why).toMatch(/public\.entries: index entries_created is new .*application "flyway"/);
    await handle.executeUpdate(approveUpdate, { args: [{ gate: 'promote', ...WHO }] });
    await until(handle, 'not promoting', (s) => s.waiting?.for === 'resume');
    await handle.executeUpdate(resumeUpdate, { args: [WHO] });
    await until(handle, 'in the standby window', (s) => s.phase === 'standby' && s.waiting?.for === 'standby');

    const feed = feedName(migration.plan.name, 'to_blue');
    const confirmed = `SELECT FROM verdigris.progress WHERE step = 'standby'`;
    while ((await rowsOf(migration.green, confirmed)).length === 0) continue;
    await rowsOf(migration.blue, `ALTER SUBSCRIPTION ${feed} DISABLE`);
    await rowsOf(
      migration.green,
      `DO $$ BEGIN FOR i IN 1..500 LOOP
         EXIT WHEN NOT (SELECT active FROM pg_replication_slots WHERE slot_name = '${feed}'); PERFORM pg_sleep(0.02);
       END LOOP; END $$`,
    );
    await rowsOf(migration.green, `SELECT pg_drop_replication_slot('${feed}')`);
    await rowsOf(migration.green, 'UPDATE accounts SET balance = 7 WHERE id <= 3');
    await until(handle, 'told', (s) => s.rollback.loses !== undefined);
    await expect(handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringMatching(/would lose .*"acceptLoss": true/) as string },
    });
    await handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    const report = (await handle.result()) as MigrationReport;

    expect(report.outcome).toBe('rolledBack');
    expect(report.rollingBack?.notUndone).toEqual([]);
    expect(report.rollingBack?.lost).toMatch(/about \d+ writes/);
    expect(await rowsOf(migration.blue, 'SELECT count(*)::int AS n FROM accounts WHERE balance = 7')).toEqual([
      { n: 0 },
    ]);
    expect(await rowsOf(migration.green, 'SELECT count(*)::int AS n FROM accounts WHERE balance = 7')).toEqual([
      { n: 3 },
    ]);
    await rowsOf(migration.blue, 'UPDATE accounts SET balance = balance');
    await expect(rowsOf(migration.green, 'UPDATE accounts SET balance = 0')).rejects.toMatchObject({ code: '25006' });
    for (const database of [migration.blue, migration.green]) {
      expect(await rowsOf(database, 'SELECT evtname FROM pg_event_trigger')).toEqual([]);
      expect((await leftovers(database)).filter((what) => /publication|slot|subscription/.test(what))).toEqual([]);
    }
  }, 120_000);
});
