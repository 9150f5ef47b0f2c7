import { afterEach, describe, expect, it } from 'vitest';
import { LEDGER_SCHEMA } from '../support/ledger-application.js';
import { Migration, statusOf, until } from '../support/migration.js';

const open: Migration[] = [];

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

describe('messages to a live run', () => {
  it('can not start a second run of the same database', async () => {
    const migration = await Migration.create({
      blue: 'pg15',
      green: 'pg18',
      purpose: 'second',
      schema: LEDGER_SCHEMA,
      plan: { replicate: { holdFor: '60s' } },
    });
    open.push(migration);
    const handle = await migration.start();
    await until(handle, 'owning both databases', (s) => s.waiting?.for === 'lag');
    const other = await migration.client.workflow.start('blueGreenMigration', {
      workflowId: `verdigris/${migration.plan.name}-2`,
      taskQueue: migration.taskQueue,
      args: [{ ...migration.plan, name: `${migration.plan.name}-2` }],
    });
    const error: unknown = await other.result().catch((e: unknown) => e);
    expect(JSON.stringify((error as { cause?: unknown }).cause)).toMatch(/PreflightFailed|DatabaseOwned/);
    expect(String((error as { cause?: Error }).cause?.message)).toContain(migration.plan.name);
    expect((await statusOf(handle)).outcome).toBe('running');
    await handle.cancel();
    await handle.result().catch(() => undefined);
  });
});
