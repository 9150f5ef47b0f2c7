import { describe, expect, it } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { approveUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { LEDGER_MIGRATIONS } from '../support/ledger-application.js';
import { leftovers, rowsOf, statusOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';
import { newMigration, quick, WHO } from '../support/rolled-back-run.js';

const COUPONS = {
  sql: {
    name: 'coupons',
    up: 'CREATE TABLE coupons (id int PRIMARY KEY, used boolean DEFAULT false)',
    down: 'DROP TABLE IF EXISTS coupons',
  },
};

/** Runs on to the question before the promotion of a plan that makes a table of its own. */
async function asked() {
  const migration = await newMigration({
    migrations: [...LEDGER_MIGRATIONS, COUPONS],
    green: { connection: 'app_green', afterRollback: 'drop' },
    traffic: { ...quick(), approval: { before: ['promote'] } },
  });
  const handle = await migration.start();
  const { waiting } = await until(handle, 'asked', (s) => s.waiting?.gate === 'promote');
  expect(waiting?.evidence?.join('\n')).toMatch(/what is written into public\.coupons once green serves/);
  return {
    migration,
    handle,
    approve: () => handle.executeUpdate(approveUpdate, { args: [{ gate: 'promote', ...WHO }] }),
  };
}

/** The same on to its standby window. */
async function promoted() {
  const { migration, handle, approve } = await asked();
  await approve();
  const { promotion } = await until(handle, 'in its standby window', (s) => s.waiting?.for === 'standby');
  // Before anybody could have made a table on an open green.
  const [baseline] = await rowsOf<{ at: Date }>(
    migration.green,
    `SELECT updated_at AS at FROM verdigris.progress WHERE step = 'schema baseline' AND object = 'green'`,
  );
  expect(baseline?.at.getTime()).toBeLessThan(Date.parse(promotion?.at ?? ''));
  return { migration, handle };
}

describe('a table that the plan makes', () => {
  it('has no way back once the application writes there: a rollback is refused until that is accepted, and green is kept', async () => {
    const { migration, handle } = await promoted();
    expect((await statusOf(handle)).rollback.safe).toBe(true);
    await rowsOf(migration.green, 'INSERT INTO coupons VALUES (1)');
    const { rollback, alarms } = await until(handle, 'told', (s) => s.rollback.loses !== undefined);
    expect(rollback).toMatchObject({ safe: false, loses: 'the rows of public.coupons, which blue does not have' });
    expect(alarms?.map(({ about }) => about)).toEqual(['contents']);
    await expect(handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toMatchObject({
      cause: { message: expect.stringMatching(/would lose the rows of public\.coupons/) as string },
    });

    await handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    const report = (await handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(report.rollingBack).toMatchObject({ lost: rollback.loses, notUndone: [] });
    expect(await rowsOf(migration.green, 'SELECT id FROM coupons')).toEqual([{ id: 1 }]);
  }, 240_000);

  it('is no loss while nothing is written there: a rollback needs no acceptance, and green is dropped as the plan says', async () => {
    const { migration, handle } = await promoted();
    await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = (await handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(report.rollingBack?.lost).toBeUndefined();
    expect(report.rollingBack?.notUndone).toEqual([]);
    expect(await leftovers(migration.green)).toEqual([]);
  }, 240_000);

  it('or that is made in the moment after the decision, before any watch has begun, has no way back either', async () => {
    const { migration, handle, approve } = await asked();
    await withClient(migration.green.config, async (client) => {
      await approve();
      const serves = async (): Promise<boolean> =>
        (await client.query(`SELECT FROM verdigris.route WHERE writes_on = 'green'`)).rowCount === 1;
      while (!(await serves())) continue;
      await client.query('CREATE TABLE late (id int); INSERT INTO late VALUES (1)');
    });
    const { rollback } = await until(handle, 'told', (s) => s.rollback.loses !== undefined);
    expect(rollback.loses).toMatch(/what is in table public\.late, made on green since the promotion/);
    await handle.executeUpdate(rollbackUpdate, { args: [{ ...WHO, acceptLoss: true }] });
    const report = (await handle.result()) as MigrationReport;
    expect(report.rollingBack?.lost).toMatch(/public\.late/);
    expect(await rowsOf(migration.green, 'SELECT id FROM late')).toEqual([{ id: 1 }]);
  }, 240_000);

  it('and that somebody has locked keeps the promotion for a moment; then its question says who it is', async () => {
    const { migration, handle, approve } = await asked();
    const request = await withClient(migration.green.config, async (client) => {
      await client.query('BEGIN; LOCK TABLE coupons');
      await approve();
      const { waiting } = await until(handle, 'asked again', (s) => /described/.test(s.waiting?.why ?? ''));
      expect(waiting?.why).toMatch(/green: its tables can't be described: .*Locking: .*\bpid \d+/);
      await client.query('ROLLBACK');
      return waiting?.request ?? '';
    });
    await handle.executeUpdate(approveUpdate, { args: [{ gate: 'promote', request, ...WHO }] });
    await until(handle, 'in its standby window', (s) => s.waiting?.for === 'standby');
    await handle.terminate();
  }, 240_000);
});

describe("a column that the plan's SQL adds to a table of blue", () => {
  it('has no way back: the feed leaves it out and goes on, and a rollback asks for no loss, as the lint has said', async () => {
    const extra = {
      sql: {
        name: 'extra',
        up: 'ALTER TABLE public.accounts ADD COLUMN extra text',
        down: 'ALTER TABLE public.accounts DROP COLUMN IF EXISTS extra',
      },
    };
    const migration = await newMigration({
      migrations: [...LEDGER_MIGRATIONS, extra],
      traffic: { ...quick(), approval: { before: [] } },
      standby: { for: '10m', verifyEvery: '5s' },
    });
    const handle = await migration.start();
    const { warnings } = await until(handle, 'in its standby window', (s) => s.waiting?.for === 'standby');
    expect(warnings.join('\n')).toMatch(/column "extra" to public\.accounts: what .* on green has no way back/);
    await rowsOf(migration.green, `INSERT INTO accounts (id, balance, extra) VALUES (999999, 0, 'on green alone')`);
    const { rollback } = await until(handle, 'compared', (s) =>
      s.warnings.some((text) => /^not compared.*public\.accounts\.extra/.test(text)),
    );
    expect(rollback).toMatchObject({ safe: true });
    await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    const report = (await handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'rolledBack', rollingBack: { notUndone: [] } });
    expect(report.rollingBack?.lost).toBeUndefined();
    expect(await rowsOf(migration.blue, 'SELECT * FROM accounts WHERE id = 999999')).toEqual([
      { id: 999999, balance: '0' },
    ]);
    expect(await rowsOf(migration.green, 'SELECT extra FROM accounts WHERE id = 999999')).toEqual([
      { extra: 'on green alone' },
    ]);
  }, 240_000);
});
