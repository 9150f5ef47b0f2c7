import { setTimeout as sleep } from 'node:timers/promises';
import type { WorkflowHandle } from '@temporalio/client';
import { afterEach, describe, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { statusOf } from '../support/migration.js';
import { temporalClient, uniqueTaskQueue } from '../support/temporal.js';
import { testBundleFile } from '../support/bundle.js';
import { testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { WorkerProcess } from '../support/worker-process.js';

/*
 * A worker is killed with SIGKILL at a random moment of each heavy step of the data path, under writes; a new one goes
 * on. Then every row is on green, every computed column is right, and no index is left INVALID.
 * VERDIGRIS_FAULT_ROUNDS says how often each is done (default 2).
 */

const ROUNDS = Number(process.env['VERDIGRIS_FAULT_ROUNDS'] ?? 2);
const ROWS = 300_000;

const SCHEMA = `
  CREATE TABLE owners (id int PRIMARY KEY, name text NOT NULL UNIQUE);
  CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner int NOT NULL REFERENCES owners,
                      amount numeric NOT NULL, payload varchar(200), at timestamptz NOT NULL DEFAULT now());
  CREATE INDEX items_owner ON items (owner);
  CREATE TABLE notes (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), note text);
  INSERT INTO owners SELECT n, 'owner ' || n FROM generate_series(1, 1000) n;
  INSERT INTO items (owner, amount, payload)
  SELECT 1 + n % 1000, n / 100.0, json_build_object('n', n, 'channel', 'web')::text FROM generate_series(1, ${ROWS}) n;
  INSERT INTO notes (note) SELECT repeat('x', n % 500) FROM generate_series(1, 20000) n`;

const MIGRATIONS: PlanInput['migrations'] = [
  {
    addColumn: {
      table: 'items',
      column: 'metadata',
      type: 'jsonb',
      up: "jsonb_build_object('owner', owner)",
      notNull: true,
    },
  },
  {
    changeType: {
      table: 'items',
      column: 'payload',
      newColumn: 'payload_json',
      type: 'jsonb',
      up: 'verdigris.try_jsonb(payload)',
      down: 'payload_json::text',
    },
  },
  { createIndex: { table: 'items', name: 'items_metadata', method: 'gin', columns: ['metadata'] } },
  { createIndex: { table: 'items', name: 'items_owner_at', columns: ['owner', 'at'] } },
];

interface Moment {
  readonly name: string;
  /** What the status says while it lasts. */
  readonly now: RegExp;
  /** The activities that do its work: the worker must have been in one of them. */
  readonly at: readonly string[];
  /** The kill comes within so long of its beginning, ms: less than the step takes. */
  readonly within: number;
  readonly methods: readonly ('copy' | 'tablesync')[];
}

const MOMENTS: readonly Moment[] = [
  {
    name: 'bootstrap',
    now: /^(copying the rows|building keys|following blue)/,
    at: ['planCopy', 'holdSnapshot', 'copyParcel', 'finishCopy', 'buildKeysAndIndexes', 'followCopy'],
    within: 2_000,
    methods: ['copy'],
  },
  { name: 'backfill', now: /^backfilling/, at: ['backfillTables'], within: 3_000, methods: ['tablesync'] },
  {
    name: 'index build',
    now: /index/,
    at: ['buildKeysAndIndexes', 'applyMigration'],
    within: 500,
    methods: ['copy', 'tablesync'],
  },
  { name: 'verification', now: /^comparing blue/, at: ['verify'], within: 1_000, methods: ['copy', 'tablesync'] },
];

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

describe.each(MOMENTS)('a worker that is killed in the $name', ({ now, at, within, methods }) => {
  it.each(Array.from({ length: ROUNDS }, (_, i) => [i + 1, methods[i % methods.length] ?? 'copy'] as const))(
    'round %i, bootstrap %s: the run goes on, and every row is right',
    { timeout: 240_000 },
    async (round, method) => {
      const blue = await testDatabase(round % 2 === 0 ? 'pg15' : 'pg18', 'killed blue');
      const green = await testDatabase('pg18', 'killed green');
      open.push(() => blue.drop());
      open.push(() => green.drop());
      await withClient(blue.config, (client) => client.query(SCHEMA));
      const taskQueue = uniqueTaskQueue('killed');
      const connections = { killed_blue: blue.uri, killed_green: green.uri };
      const bundle = await testBundleFile();
      const worker = await WorkerProcess.start({ taskQueue, connections, bundle });
      open.push(() => worker.kill());
      const next = await WorkerProcess.prepare({ taskQueue, connections, bundle });
      open.push(() => next.kill());
      const writer = startWriter(blue);
      open.push(() => writer.stop());

      const client = await temporalClient();
      open.push(() => client.connection.close());
      const plan: PlanInput = {
        name: taskQueue.toLowerCase(),
        blue: { connection: 'killed_blue' },
        green: { connection: 'killed_green' },
        bootstrap: { method },
        replicate: { holdFor: '300ms', maxLag: '5s' },
        // So that the comparison is still under way when the worker is killed.
        verify: { rest: 0.8 },
        migrations: MIGRATIONS,
        traffic: { approval: { before: ['traffic'] } },
      };
      const handle = await client.workflow.start('blueGreenMigration', {
        workflowId: `verdigris/${plan.name}`,
        taskQueue,
        args: [plan],
      });
      await untilNow(handle, now);
      await sleep(Math.random() * within);
      // Between two activities there is a moment without one.
      for (let look = 0; look < 100 && !at.includes(await underWay(handle, at)); look++) await sleep(20);
      await worker.kill();
      expect(at).toContain(await underWay(handle, at));
      await next.begin();

      await untilApproval(handle);
      await writer.stop();
      expect(writer.written).toBeGreaterThan(50);
      expect(writer.failures).toEqual([]);
      await expect.poll(() => contents(green, 'items'), { timeout: 30_000 }).toEqual(await contents(blue, 'items'));
      for (const table of ['owners', 'notes']) {
        expect(await contents(green, table)).toEqual(await contents(blue, table));
      }
      expect(await wrongOnGreen(green)).toEqual({ wrong: 0, invalid: 0, indexes: 7, not_null: true });
      await handle.terminate('the test is over');
    },
  );
});

/** Inserts, updates and deletes on blue, all the time. */
function startWriter(blue: TestDatabase): { written: number; failures: string[]; stop(): Promise<void> } {
  let running = true;
  const state = { written: 0, failures: [] as string[] };
  const loop = withClient(blue.config, async (client) => {
    while (running) {
      const id = Math.ceil(Math.random() * ROWS);
      try {
        await client.query(`INSERT INTO items (owner, amount, payload) VALUES (1 + $1 % 1000, $1, 'not json ' || $1)`, [
          id,
        ]);
        await client.query(`UPDATE items SET owner = 1 + (owner + 7) % 1000, payload = '{"u":1}' WHERE id = $1`, [id]);
        await client.query(`DELETE FROM items WHERE id = $1 AND id % 10 = 0`, [id]);
        await client.query(`UPDATE notes SET note = note || '.' WHERE id = (SELECT id FROM notes LIMIT 1)`);
        state.written += 4;
      } catch (error) {
        state.failures.push(error instanceof Error ? error.message : String(error));
      }
      await sleep(10);
    }
  });
  return Object.assign(state, {
    stop: async () => {
      running = false;
      await loop;
    },
  });
}

async function untilNow(handle: WorkflowHandle, now: RegExp): Promise<void> {
  for (const deadline = Date.now() + 90_000; Date.now() < deadline; await sleep(10)) {
    const status = await statusOf(handle);
    if (now.test(status.now)) return;
    if (status.outcome !== 'running' || status.waiting?.for === 'approval') {
      throw new Error(`it never came to ${now.source}: ${status.now}; ${status.warnings.join('; ')}`);
    }
  }
  throw new Error(`it never came to ${now.source}`);
}

/** Which of these activities the dead worker had, as Temporal knows it: the status can't be asked for without a worker. */
async function underWay(handle: WorkflowHandle, activities: readonly string[]): Promise<string> {
  const { raw } = await handle.describe();
  const had = (raw.pendingActivities ?? []).flatMap(({ activityType }) => activityType?.name ?? []);
  return had.find((name) => activities.includes(name)) ?? `none of them, but ${had.join(', ')}`;
}

async function untilApproval(handle: WorkflowHandle): Promise<void> {
  let last = '';
  for (const deadline = Date.now() + 150_000; Date.now() < deadline; await sleep(100)) {
    const status = await statusOf(handle);
    last = `${status.now} ${JSON.stringify(status.waiting)} ${status.warnings.join('; ')}`;
    if (status.waiting?.for === 'approval') return;
    if (status.outcome !== 'running') break;
  }
  throw new Error(`the run did not go on: ${last}`);
}

async function contents(database: TestDatabase, table: string): Promise<unknown> {
  const columns = { items: 'id, owner, amount, payload, at', owners: 'id, name', notes: 'id, note' }[table] ?? '*';
  return withClient(database.config, async (client) => {
    const { rows } = await client.query(
      `SELECT count(*) AS rows, sum(hashtextextended(ROW(${columns})::text, 0)) AS hash FROM ${table}`,
    );
    return rows[0] as unknown;
  });
}

async function wrongOnGreen(green: TestDatabase): Promise<unknown> {
  return withClient(green.config, async (client) => {
    const { rows } = await client.query(
      `SELECT (SELECT count(*)::int FROM items WHERE metadata IS DISTINCT FROM jsonb_build_object('owner', owner)
                  OR payload_json IS DISTINCT FROM verdigris.try_jsonb(payload)) AS wrong,
              (SELECT count(*)::int FROM pg_index WHERE NOT indisvalid) AS invalid,
              (SELECT count(*)::int FROM pg_index WHERE indrelid IN ('items'::regclass, 'owners'::regclass, 'notes'::regclass)) AS indexes,
              (SELECT attnotnull FROM pg_attribute WHERE attrelid = 'items'::regclass AND attname = 'metadata') AS not_null`,
    );
    return rows[0] as unknown;
  });
}
