import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { testBundleFile } from '../support/bundle.js';
import { rowsOf, statusOf } from '../support/migration.js';
import { testDatabase, withClient } from '../support/postgres.js';
import { temporalClient, uniqueTaskQueue } from '../support/temporal.js';
import { WorkerProcess } from '../support/worker-process.js';

/*
 * Values of 100 MB: larger than any buffer of the worker's. They pass through it in pieces, so its memory stays what it
 * is for small rows. Most of a value is compressed by TOAST at once; one is not, and fills 100 MB on disk, too.
 */

const VALUE_BYTES = 100_000_000;

const SCHEMA = `
  CREATE TABLE documents (id int PRIMARY KEY, body text NOT NULL, raw bytea);
  ALTER TABLE documents ALTER raw SET STORAGE EXTERNAL;
  INSERT INTO documents SELECT n, repeat('0123456789', ${VALUE_BYTES / 10}) FROM generate_series(1, 4) n;
  INSERT INTO documents SELECT 10, 'raw', decode(repeat('00ff7f5c', ${VALUE_BYTES / 4}), 'hex');
  INSERT INTO documents SELECT n, 'small ' || n FROM generate_series(100, 200) n`;

/** Every value by its hash: what comes over the wire is small. */
const HASHES = `SELECT id, length(body) AS length, md5(body) AS body, md5(raw) AS raw FROM documents ORDER BY id`;

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

describe('values of 100 MB', () => {
  it.each(['copy', 'tablesync'] as const)(
    'are copied, computed from, followed and compared by a worker that has none of them in memory, bootstrap %s',
    { timeout: 300_000 },
    async (method) => {
      const blue = await testDatabase('pg15', 'huge blue');
      const green = await testDatabase('pg18', 'huge green');
      open.push(
        () => blue.drop(),
        () => green.drop(),
      );
      await withClient(blue.config, (client) => client.query(SCHEMA));
      const taskQueue = uniqueTaskQueue('huge');
      const worker = await WorkerProcess.start({
        taskQueue,
        connections: { huge_blue: blue.uri, huge_green: green.uri },
        bundle: await testBundleFile(),
        // As `npm run worker` starts it.
        environment: { NODE_OPTIONS: '--max-semi-space-size=1' },
      });
      open.push(() => worker.kill());
      // What it took to start is not what it takes to work: VmHWM begins anew, see clear_refs in proc(5).
      writeFileSync(`/proc/${worker.pid ?? 0}/clear_refs`, '5');
      const before = memoryOf(worker);
      const client = await temporalClient();
      open.push(() => client.connection.close());
      const plan: PlanInput = {
        name: taskQueue.toLowerCase(),
        blue: { connection: 'huge_blue' },
        green: { connection: 'huge_green' },
        bootstrap: { method },
        replicate: { holdFor: '300ms', maxLag: '30s' },
        migrations: [
          { addColumn: { table: 'documents', column: 'size', type: 'int', up: 'length(body)', notNull: true } },
        ],
        traffic: { approval: { before: ['traffic'] } },
      };
      const handle = await client.workflow.start('blueGreenMigration', {
        workflowId: `verdigris/${plan.name}`,
        taskQueue,
        args: [plan],
      });
      open.push(() => handle.terminate('the test is over'));
      for (const deadline = Date.now() + 200_000; ; await sleep(200)) {
        const { waiting, outcome, now } = await statusOf(handle);
        if (waiting?.for === 'approval') break;
        expect(`${outcome}: ${now}`).toMatch(/^running/);
        expect(Date.now(), now).toBeLessThan(deadline);
      }
      const wanted = await rowsOf(blue, HASHES);
      expect(await rowsOf(green, HASHES)).toEqual(wanted);
      const wrong = `SELECT id FROM documents WHERE size IS DISTINCT FROM length(body)`;
      expect(await rowsOf(green, wrong)).toEqual([]);
      expect(memoryOf(worker) - before).toBeLessThan(VALUE_BYTES);

      await withClient(blue.config, (session) => session.query("UPDATE documents SET body = body || '!' WHERE id = 1"));
      await expect
        .poll(() => rowsOf(green, 'SELECT size FROM documents WHERE id = 1'), { timeout: 60_000 })
        .toEqual([{ size: VALUE_BYTES + 1 }]);
      expect(memoryOf(worker) - before).toBeLessThan(VALUE_BYTES);
      process.stdout.write(
        `values of 100 MB, bootstrap ${method}: the worker took ${Math.round(memoryOf(worker) / 1e6)} MB, of which ${Math.round(before / 1e6)} when it was ready\n`,
      );
    },
  );
});

/** The most that its process has had in memory since it was ready, bytes. */
function memoryOf({ pid }: WorkerProcess): number {
  const [, kilobytes] = /^VmHWM:\s+([0-9]+) kB$/m.exec(readFileSync(`/proc/${pid ?? 0}/status`, 'utf8')) ?? [];
  return Number(kilobytes) * 1_024;
}
