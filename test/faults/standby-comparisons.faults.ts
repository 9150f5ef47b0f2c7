import type { WorkflowHandle } from '@temporalio/client';
import { afterEach, describe, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { retireUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { testBundleFile } from '../support/bundle.js';
import { rowsOf, until } from '../support/migration.js';
import { testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { temporalClient, uniqueTaskQueue } from '../support/temporal.js';
import { WorkerProcess } from '../support/worker-process.js';

/* The comparisons of a standby window: attempts of one activity, of which the run is told what is new. */

const WHO = { by: 'grace', reason: 'the test says so' };
const ROWS = 300_000;
const SCHEMA = `
  CREATE TABLE items (id int PRIMARY KEY, amount numeric NOT NULL, note text);
  INSERT INTO items SELECT n, n / 100.0, repeat('x', n % 50) FROM generate_series(1, ${ROWS}) n`;

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

interface Standby {
  readonly blue: TestDatabase;
  readonly handle: WorkflowHandle;
  readonly worker: WorkerProcess;
  /** Takes the place of the worker when it begins. */
  readonly next: WorkerProcess;
}

async function inStandby(plan: Partial<PlanInput>): Promise<Standby> {
  const blue = await testDatabase('pg15', 'compared blue');
  const green = await testDatabase('pg18', 'compared green');
  open.push(() => blue.drop());
  open.push(() => green.drop());
  await withClient(blue.config, (client) => client.query(SCHEMA));
  const taskQueue = uniqueTaskQueue('compared');
  const connections = { compared_blue: blue.uri, compared_green: green.uri };
  const bundle = await testBundleFile();
  const worker = await WorkerProcess.start({ taskQueue, connections, bundle });
  open.push(() => worker.kill());
  const next = await WorkerProcess.prepare({ taskQueue, connections, bundle });
  open.push(() => next.kill());
  const client = await temporalClient();
  open.push(() => client.connection.close());
  const input: PlanInput = {
    name: taskQueue.toLowerCase(),
    blue: { connection: 'compared_blue' },
    green: { connection: 'compared_green' },
    replicate: { holdFor: '300ms', maxLag: '5s' },
    traffic: { stages: [], approval: { before: [] } },
    ...plan,
  };
  const handle = await client.workflow.start('blueGreenMigration', {
    ...{ workflowId: `verdigris/${input.name}`, taskQueue, args: [input] },
  });
  await until(handle, 'standing by', (s) => s.waiting?.for === 'standby', 120_000);
  return { blue, handle, worker, next };
}

interface Said {
  readonly attempt: number;
  readonly comparing?: string;
  readonly progress?: { readonly done: number };
  readonly last?: { readonly differingRows: number };
}

/** What the comparisons say of themselves. */
async function said(handle: WorkflowHandle): Promise<Said | undefined> {
  const { raw } = await handle.describe();
  const pending = raw.pendingActivities?.find(({ activityType }) => activityType?.name === 'compareRegularly');
  const [payload] = pending?.heartbeatDetails?.payloads ?? [];
  const text = Buffer.from(payload?.data ?? []).toString();
  return text === '' ? undefined : ((JSON.parse(text) ?? undefined) as Said | undefined);
}

async function untilSaid(handle: WorkflowHandle, what: (said: Said) => boolean): Promise<Said> {
  let last: Said | undefined;
  await expect
    .poll(async () => (last = await said(handle)) !== undefined && what(last), { timeout: 60_000, interval: 50 })
    .toBe(true);
  if (last === undefined) throw new Error('nothing was said');
  return last;
}

describe('the comparisons of a standby window', () => {
  it('tell a row that differs, and that it differs no more; what is equal adds nothing to the history', async () => {
    const { blue, handle } = await inStandby({ standby: { for: '1h', verifyEvery: '2s' } });
    const { attempt } = await untilSaid(handle, ({ last }) => last?.differingRows === 0);
    const events = async (): Promise<number> => (await handle.describe()).historyLength;
    const before = await events();
    await untilSaid(handle, (now) => now.attempt >= attempt + 2);
    expect(await events()).toBe(before);

    const pastTheFence = (change: string): Promise<unknown> =>
      rowsOf(
        blue,
        `BEGIN; ALTER TABLE items DISABLE TRIGGER _verdigris_fence; ${change};
         ALTER TABLE items ENABLE ALWAYS TRIGGER _verdigris_fence; COMMIT`,
      );
    await pastTheFence('UPDATE items SET amount = 0 WHERE id = 42');
    const differs = await until(handle, 'told', (s) => s.alarms?.some(({ state }) => state === 'differ') === true);
    expect(differs.alarms?.find(({ about }) => about === 'rows')?.why).toMatch(
      /1 row differs.*public\.items "id" = 42/,
    );
    expect(differs.rollback.safe).toBe(false);
    await pastTheFence('UPDATE items SET amount = 42 / 100.0 WHERE id = 42');
    await until(handle, 'mended', (s) => s.alarms?.every(({ about }) => about !== 'rows') === true && s.rollback.safe);
    await handle.executeUpdate(retireUpdate, { args: [WHO] });
    await handle.result();
  }, 240_000);

  it('go on where they were when their worker is killed in the middle of one, and keep no rollback waiting', async () => {
    const { handle, worker, next } = await inStandby({
      standby: { for: '1h', verifyEvery: '2s' },
      verify: { parallel: 1, rest: 0.95 },
    });
    await untilSaid(handle, ({ comparing, progress }) => comparing !== undefined && (progress?.done ?? 0) > 0);
    await worker.kill();
    const killed = await said(handle);
    expect(killed?.comparing).toBeDefined();
    await next.begin();
    // What is left of it takes some seconds: its first words are met.
    const again = await untilSaid(handle, (now) => now.attempt > (killed?.attempt ?? 0));
    expect(again.comparing).toBe(killed?.comparing);
    await until(handle, 'told', (s) => s.verification?.again !== undefined);
    await handle.executeUpdate(rollbackUpdate, { args: [WHO] });
    await until(handle, 'writes are back', (s) => s.writesOn === 'blue', 10_000);
    await handle.result();
  }, 240_000);
});
