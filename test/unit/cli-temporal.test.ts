import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Client } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../src/cli/run.js';
import { temporalClient, testTemporal, uniqueTaskQueue } from '../support/temporal.js';
import { planWith } from './lint-plan.js';

let client: Client;
let folder = '';
beforeAll(async () => {
  Runtime.install({ logger: new DefaultLogger('WARN') });
  client = await temporalClient();
  folder = await mkdtemp(join(tmpdir(), 'verdigris-cli-'));
});
afterAll(async () => {
  await client.connection.close();
  await rm(folder, { recursive: true, force: true });
});

async function verdigris(...args: string[]): Promise<{ code: number; out: string; note: string }> {
  const out: string[] = [];
  const note: string[] = [];
  const code = await run([...args, '--address', testTemporal().address], {
    out: (text) => out.push(text),
    note: (text) => note.push(text),
  });
  return { code, out: out.join('\n'), note: note.join('\n') };
}

const WHO = ['--by', 'ada', '--reason', "it's time"];

async function planFile(): Promise<{ name: string; path: string; workflowId: string; taskQueue: string }> {
  const name = `cli-${randomUUID().slice(0, 8)}`;
  const path = join(folder, `${name} plan.json`);
  await writeFile(path, JSON.stringify(planWith({ name })));
  return { name, path, workflowId: `verdigris/${name}`, taskQueue: uniqueTaskQueue('cli') };
}

/** What a start leaves on the server, without what differs from run to run. */
async function started(workflowId: string): Promise<unknown> {
  const handle = client.workflow.getHandle(workflowId);
  const description = await handle.describe();
  const history = await handle.fetchHistory();
  const start = history.events?.[0]?.workflowExecutionStartedEventAttributes;
  return {
    type: description.type,
    taskQueue: description.taskQueue,
    attributes: description.searchAttributes,
    summary: await description.staticSummary(),
    details: await description.staticDetails(),
    input: start?.input?.payloads?.map((payload) => JSON.parse(Buffer.from(payload.data ?? []).toString()) as unknown),
    timeouts: [start?.workflowExecutionTimeout, start?.workflowRunTimeout].map((t) => Number(t?.seconds ?? 0)),
  };
}

describe('what the flags name and nobody knows', () => {
  it('is said, with where to look: a namespace, whoever asks', async () => {
    const { path } = await planFile();
    const who = ['--by', 'ada', '--reason', 'why'];
    for (const command of [
      ['start', path],
      ['status', 'x'],
      ['watch', 'x'],
      ['rollback', 'x', ...who],
    ]) {
      const { code, note } = await verdigris(...command, '--namespace', 'nowhere');
      expect(code, command[0]).toBe(2);
      expect(note, command[0]).toContain(`has no namespace "nowhere"\nnext step: mend --namespace`);
      expect(note, command[0]).not.toContain('start a worker');
    }
  });

  it('is said, with where to look: a profile', async () => {
    const { code, note } = await verdigris('status', 'x', '--profile', 'nowhere');
    expect(code).toBe(2);
    expect(note).toMatch(/nowhere[\s\S]*next step: mend --profile/);
  });
});

describe('verdigris start', () => {
  it('starts the workflow with summary, details and search attributes, once', async () => {
    const { name, path, workflowId, taskQueue } = await planFile();
    expect(await verdigris('start', path, '--task-queue', taskQueue)).toMatchObject({
      code: 0,
      out: expect.stringContaining(`started ${workflowId}`) as string,
    });
    expect(await started(workflowId)).toMatchObject({
      type: 'blueGreenMigration',
      taskQueue,
      attributes: { VerdigrisPhase: ['preflight'], VerdigrisTraffic: [0] },
      summary: 'orders_blue to orders_green: same schema, reads 1/10/50/100 %, standby 48h',
      details: expect.stringContaining('--name approve') as string,
      input: [planWith({ name })],
    });
    const again = await verdigris('start', path, '--task-queue', taskQueue);
    expect(again).toMatchObject({
      code: 1,
      note: expect.stringContaining(`${workflowId} is running already`) as string,
    });
    await client.workflow.getHandle(workflowId).terminate();
    expect(await verdigris('start', path, '--task-queue', taskQueue)).toMatchObject({ code: 0 });
    await client.workflow.getHandle(workflowId).terminate();
  });

  it('--print prints a command of the official CLI that starts the same', async () => {
    const { path, workflowId, taskQueue } = await planFile();
    await verdigris('start', path, '--task-queue', taskQueue);
    const byUs = await started(workflowId);
    await client.workflow.getHandle(workflowId).terminate();

    const { code, out } = await verdigris('start', path, '--task-queue', taskQueue, '--print');
    expect(code).toBe(0);
    const { cliPath } = testTemporal();
    await promisify(execFile)('sh', ['-c', out.replace(/^temporal /, `'${cliPath}' `)], {
      env: { ...process.env, PATH: `${dirname(cliPath)}:${process.env['PATH'] ?? ''}` },
    });
    expect(await started(workflowId)).toEqual(byUs);
    await client.workflow.getHandle(workflowId).terminate();
  });
});

describe('a run that no worker serves', () => {
  it('gets no answer in time, and the signal that waits for the worker is shown', async () => {
    const { name, path, workflowId, taskQueue } = await planFile();
    await verdigris('start', path, '--task-queue', taskQueue);
    const approve = await verdigris('approve', name, 'promote', ...WHO, '--timeout', '1');
    expect(approve.code).toBe(2);
    expect(approve.note).toContain(`temporal workflow signal`);
    expect(approve.note).toContain(`'{"gate":"promote","by":"ada","reason":"it'\\''s time"}'`);
    const stage = await verdigris('approve', name, '50', ...WHO, '--timeout', '1');
    expect(stage.note).toContain(`'{"gate":"stage-50",`);
    expect(await verdigris('status', name, '--timeout', '1')).toMatchObject({
      code: 2,
      note: expect.stringContaining(
        `no worker has answered within 1 s\nnext step: start a worker with VERDIGRIS_TASK_QUEUE=${taskQueue} (npm run worker)`,
      ) as string,
    });
    await client.workflow.getHandle(workflowId).terminate();
    // One that has ended is not one that never was.
    expect(await verdigris('rollback', name, ...WHO)).toMatchObject({
      code: 1,
      note: expect.stringMatching(
        /verdigris\/cli-\w+ has ended \(terminated\): it takes no messages any more\nnext step: .*verdigris status/,
      ) as string,
    });
  });
});

describe('a run that is not there', () => {
  it.each([
    ['status', 'none'],
    ['watch', 'none'],
    ['approve', 'none', 'promote', ...WHO],
    ['pause', 'none', ...WHO],
    ['resume', 'none', ...WHO],
    ['rollback', 'none', ...WHO],
    ['retire', 'none', ...WHO],
  ])('%s says so', async (...args) => {
    expect(await verdigris(...args)).toMatchObject({
      code: 2,
      note: expect.stringMatching(
        /there is no workflow verdigris\/none\nnext step: .*temporal workflow list/,
      ) as string,
    });
  });

  it.each(['approve', 'rollback'])('%s asks who and why', async (message) => {
    expect(
      await verdigris(message, 'none', ...(message === 'approve' ? ['promote'] : []), '--by', 'ada'),
    ).toMatchObject({
      code: 2,
      note: expect.stringContaining('--reason') as string,
    });
  });
});

describe('a run that a worker serves', () => {
  it('is shown, watched, approved and refused', async () => {
    const { name, path, taskQueue } = await planFile();
    const connection = await NativeConnection.connect({ address: testTemporal().address });
    const worker = await Worker.create({
      connection,
      taskQueue,
      workflowsPath: fileURLToPath(new URL('./cli-stub-workflow.ts', import.meta.url)),
      bundlerOptions: {
        webpackConfigHook: (config) => ({
          ...config,
          resolve: { ...config.resolve, extensionAlias: { '.js': ['.ts', '.js'] } },
        }),
      },
    });
    try {
      await worker.runUntil(async () => {
        await verdigris('start', path, '--task-queue', taskQueue);
        expect(await verdigris('status', name)).toMatchObject({
          code: 0,
          out: expect.stringContaining('approval before promote') as string,
        });
        expect(JSON.parse((await verdigris('status', name, '--json')).out)).toMatchObject({ name, phase: 'promote' });
        expect(await verdigris('approve', name, 'retire', ...WHO)).toMatchObject({
          code: 1,
          note: expect.stringContaining('approve refused: not "retire"') as string,
        });
        const shown: string[] = [];
        const watched = run(['watch', name, '--address', testTemporal().address], {
          out: (text) => shown.push(text),
          note: () => undefined,
        });
        await expect.poll(() => shown.join('\n')).toContain('answer with');
        expect(await verdigris('approve', name, 'promote', ...WHO)).toMatchObject({
          code: 0,
          out: 'approved: promote',
        });
        expect(await watched).toBe(0);
        expect(
          shown
            .join('\n')
            .split('\n')
            .map((line) => line.slice(10)),
        ).toEqual([
          'promote: waiting for approval',
          'reads on green 100 %, writes on blue',
          'waits: approval before promote',
          'answer with: temporal …',
          'promote: done',
          'ended: completed',
        ]);
      });
    } finally {
      await connection.close();
    }
  });
});
