import { WorkflowFailedError } from '@temporalio/client';
import pg from 'pg';
import { describe, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { LEDGER_SCHEMA } from '../support/ledger-application.js';
import { leftovers, Migration, rowsOf, statusOf, until } from '../support/migration.js';
import { resetBefore } from '../support/reset.js';
import { approveUpdate, retireUpdate, rollbackUpdate } from '../../workflows/messages.js';

/*
 * `temporal workflow reset` after the promotion: the workflow's memory is that of an earlier moment, in which writes were on
 * blue. What it would do then takes away the database that serves.
 */

const WHO = { by: 'grace', reason: 'the test says so' };

const ROWS = 'SELECT count(*)::int AS n FROM accounts';

describe('a run that is reset in its standby window', () => {
  it.each(['claimDatabases', 'copySchema', 'expandTables', 'fenceGreen', 'openStage'])(
    'to the moment before %s: is refused, and green goes on serving',
    { timeout: 240_000 },
    async (activity) => {
      const migration = await Migration.create({
        ...{ blue: 'pg15', green: 'pg18', purpose: 'reset', schema: LEDGER_SCHEMA },
        plan: {
          standby: { for: '1h' },
          traffic: {
            stages: [{ percent: 1, for: '0s' }],
            gates: [{ metric: 'lag', max: '5s' }],
            approval: { before: [] },
          },
          migrations: [{ addColumn: { table: 'entries', column: 'version', type: 'integer', default: '1' } }],
        },
      });
      try {
        const handle = await migration.start();
        await until(handle, 'standing by', (s) => s.waiting?.for === 'standby' && s.rollback.safe);
        const [before] = await rowsOf(migration.green, ROWS);
        await resetBefore(handle, activity);

        const error: unknown = await migration.client.workflow
          .getHandle(handle.workflowId)
          .result()
          .catch((e: unknown) => e);
        expect(error).toBeInstanceOf(WorkflowFailedError);
        expect(String((error as WorkflowFailedError).cause?.message)).toMatch(
          /green has (taken )?the writes|writes are on green/,
        );
        expect(await rowsOf(migration.green, ROWS)).toEqual([before]);
        await rowsOf(migration.green, `INSERT INTO accounts (id, balance) VALUES (987654, 0)`);
        await rowsOf(migration.green, 'SELECT version FROM entries LIMIT 1');
        await expect(
          rowsOf(migration.blue, `INSERT INTO accounts (id, balance) VALUES (987655, 0)`),
        ).rejects.toMatchObject({ code: '25006' });
      } finally {
        await migration.close();
      }
    },
  );
});

describe('a run that is reset to a point before its stages', () => {
  const create = (): Promise<Migration> =>
    Migration.create({
      ...{ blue: 'pg15', green: 'pg18', purpose: 'reset in stage', schema: LEDGER_SCHEMA },
      plan: {
        traffic: {
          stages: [{ percent: 50, for: '1h' }],
          gates: [{ metric: 'lag', max: '60s' }],
          approval: { before: ['traffic'] },
        },
        migrations: [{ addColumn: { table: 'entries', column: 'version', type: 'integer', default: '1' } }],
      },
    });
  const percent = async (migration: Migration): Promise<unknown> =>
    (await rowsOf(migration.blue, 'SELECT green_read_percent::int AS n FROM verdigris.route'))[0]?.['n'];
  const inStage = async (migration: Migration): Promise<Awaited<ReturnType<Migration['start']>>> => {
    const handle = await migration.start();
    await until(handle, 'an approval', (s) => s.waiting?.for === 'approval');
    await handle.executeUpdate(approveUpdate, { args: [{ gate: 'traffic', ...WHO }] });
    await until(handle, 'the stage', (s) => s.waiting?.for === 'stage');
    expect(await percent(migration)).toBe(50);
    return handle;
  };

  it('has no reads on green while it asks for the first one again', { timeout: 240_000 }, async () => {
    const migration = await create();
    try {
      const handle = await inStage(migration);
      await resetBefore(handle, 'verify');
      const again = migration.client.workflow.getHandle(handle.workflowId);
      const asked = await until(again, 'an approval', (s) => s.waiting?.for === 'approval');
      expect(asked).toMatchObject({ phase: 'traffic', greenReadPercent: 0 });
      expect(await percent(migration)).toBe(0);
      await again.executeUpdate(approveUpdate, { args: [{ gate: 'traffic', ...WHO }] });
      await until(again, 'the stage', (s) => s.waiting?.for === 'stage');
      expect(await percent(migration)).toBe(50);
    } finally {
      await migration.close();
    }
  });

  it('drops no column of green before its reads are back', { timeout: 240_000 }, async () => {
    const migration = await create();
    const reader = new pg.Client(migration.green.config);
    try {
      const handle = await inStage(migration);
      await reader.connect();
      await reader.query('BEGIN; SELECT version FROM entries LIMIT 1');
      await resetBefore(handle, 'expandTables');
      const again = migration.client.workflow.getHandle(handle.workflowId);
      await again.executeUpdate(rollbackUpdate, { args: [WHO] });
      await expect.poll(() => percent(migration), { timeout: 60_000 }).toBe(0);
      await reader.query('SELECT version FROM entries LIMIT 1; COMMIT');
      expect((await again.result()) as object).toMatchObject({ outcome: 'rolledBack' });
    } finally {
      await reader.end();
      await migration.close();
    }
  });
});

describe('a run that is reset to its beginning, and rolled back at once', () => {
  const OWN = /^relation (accounts|balances|entries|recent|entries_id_seq)$/;
  const create = (traffic: PlanInput['traffic']): Promise<Migration> =>
    Migration.create({
      ...{ blue: 'pg15', green: 'pg18', purpose: 'reset to the beginning', schema: LEDGER_SCHEMA },
      plan: {
        traffic: { gates: [{ metric: 'lag', max: '60s' }], approval: { before: [] }, ...traffic },
        standby: { for: '1h' },
        migrations: [{ addColumn: { table: 'entries', column: 'version', type: 'integer', default: '1' } }],
      },
    });

  it('in a stage: leaves nothing of what it had done', { timeout: 240_000 }, async () => {
    const migration = await create({ stages: [{ percent: 50, for: '1h' }] });
    try {
      const handle = await migration.start();
      await until(handle, 'in the stage', (s) => s.greenReadPercent === 50);
      await resetBefore(handle, 'lintPlan');
      const again = migration.client.workflow.getHandle(handle.workflowId);
      await again.executeUpdate(rollbackUpdate, { args: [WHO] });
      expect(await again.result()).toMatchObject({ outcome: 'rolledBack', rollingBack: { notUndone: [] } });
      expect((await leftovers(migration.blue)).filter((what) => !OWN.test(what))).toEqual([]);
      expect(await leftovers(migration.green)).toEqual([]);
      await rowsOf(migration.blue, 'INSERT INTO accounts (id, balance) VALUES (987654, 0)');
    } finally {
      await migration.close();
    }
  });

  it('in its standby window: says that green serves, and takes nothing from it', { timeout: 240_000 }, async () => {
    const migration = await create({ stages: [{ percent: 0, for: '0s' }] });
    try {
      const handle = await migration.start();
      await until(handle, 'standing by', (s) => s.waiting?.for === 'standby' && s.rollback.safe);
      await resetBefore(handle, 'lintPlan');
      const again = migration.client.workflow.getHandle(handle.workflowId);
      await again.executeUpdate(rollbackUpdate, { args: [WHO] });
      const error: unknown = await again.result().catch((e: unknown) => e);
      const message = String((error as WorkflowFailedError).cause?.message);
      expect(message).toMatch(/Not undone: [^]*; drop replication.*: green has the writes/);
      expect(message).toMatch(/verdigris doctor .*--clean/);
      await rowsOf(migration.green, 'INSERT INTO accounts (id, balance) VALUES (987654, 0)');
      await rowsOf(migration.green, 'SELECT version FROM entries LIMIT 1');
      const onBlue = rowsOf(migration.blue, 'INSERT INTO accounts (id, balance) VALUES (987655, 0)');
      await expect(onBlue).rejects.toMatchObject({ code: '25006' });
    } finally {
      await migration.close();
    }
  });
});

describe('a run that is reset to its comparison before the promotion', () => {
  it('compares what was written since, and reports nothing that was found before', { timeout: 240_000 }, async () => {
    const migration = await Migration.create({
      ...{ blue: 'pg15', green: 'pg18', purpose: 'reset compared', schema: LEDGER_SCHEMA },
      plan: {
        traffic: { stages: [{ percent: 0, for: '0s' }], approval: { before: ['promote'] } },
        standby: { for: '1h' },
      },
    });
    try {
      const handle = await migration.start();
      const asked = await until(handle, 'an approval', (s) => s.waiting?.gate === 'promote');
      expect(asked.verification?.differingRows).toBe(0);
      await rowsOf(
        migration.green,
        `BEGIN; ALTER TABLE accounts DISABLE TRIGGER _verdigris_fence;
         UPDATE accounts SET balance = 7 WHERE id = 42;
         ALTER TABLE accounts ENABLE ALWAYS TRIGGER _verdigris_fence; COMMIT`,
      );
      await resetBefore(handle, 'verify', 2);
      const again = migration.client.workflow.getHandle(handle.workflowId);
      await until(again, 'the end, or an approval', (s) => s.outcome !== 'running' || s.waiting?.gate === 'promote');
      expect((await statusOf(again)).outcome).toBe('failed');
      const error: unknown = await again.result().catch((e: unknown) => e);
      expect(String((error as WorkflowFailedError).cause?.message)).toMatch(
        /1 row differs between blue and green: public\.accounts "id" = 42/,
      );
    } finally {
      await migration.close();
    }
  });
});

describe('a run that is reset to its standby window when a rollback has given the writes back', () => {
  it(
    'is not completed by a retirement: green stays fenced, and the rollback is finished',
    { timeout: 240_000 },
    async () => {
      const migration = await Migration.create({
        ...{ blue: 'pg15', green: 'pg18', purpose: 'reset back', schema: LEDGER_SCHEMA },
        plan: { standby: { for: '1h' }, traffic: { stages: [{ percent: 0, for: '0s' }], approval: { before: [] } } },
      });
      const reader = new pg.Client(migration.blue.config);
      try {
        const handle = await migration.start();
        await until(handle, 'standing by', (s) => s.waiting?.for === 'standby' && s.rollback.safe);
        // The fence of blue can't go before this ends.
        await reader.connect();
        await reader.query('BEGIN; SELECT FROM accounts');
        await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
        await until(handle, 'writes are back', (s) => s.writesOn === 'blue' && s.rollingBack !== null);
        await rowsOf(migration.blue, 'INSERT INTO accounts (id, balance) VALUES (987654, 0)');
        await resetBefore(handle, 'watchStandby');

        const again = migration.client.workflow.getHandle(handle.workflowId);
        const told = await until(again, 'told', ({ alarms = [] }) =>
          alarms.some(({ why }) => /given back to blue/.test(why)),
        );
        expect(told).toMatchObject({ phase: 'standby', writesOn: 'green', rollback: { safe: false } });
        await again.executeUpdate(retireUpdate, { args: [WHO] });
        await until(again, 'rolling back', (s) => s.rollingBack !== null);
        await reader.query('COMMIT');
        const error: unknown = await again.result().catch((e: unknown) => e);
        expect(String((error as WorkflowFailedError).cause?.message)).toMatch(
          /^rolled back: writes have been given back/,
        );
        await rowsOf(migration.blue, 'INSERT INTO accounts (id, balance) VALUES (987655, 0)');
        const onGreen = rowsOf(migration.green, 'INSERT INTO accounts (id, balance) VALUES (987656, 0)');
        await expect(onGreen).rejects.toMatchObject({ code: '25006' });
      } finally {
        await reader.end();
        await migration.close();
      }
    },
  );
});
