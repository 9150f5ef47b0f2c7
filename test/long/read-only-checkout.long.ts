import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { chmod, cp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ownTemporalEnvironment } from '../../src/embedded/temporal-environment.js';
import { isNobodyServed, NOBODY } from '../support/nobody.js';
import { testTemporal, uniqueTaskQueue } from '../support/temporal.js';

const HERE = fileURLToPath(new URL('../..', import.meta.url));

let checkout = '';
let worker: ChildProcess | undefined;

beforeAll(async () => {
  checkout = mkdtempSync(join(tmpdir(), 'verdigris-read-only-'));
  for (const name of ['src', 'workflows', 'activities', 'package.json', 'tsconfig.json']) {
    await cp(join(HERE, name), join(checkout, name), { recursive: true });
  }
  await symlink(join(HERE, 'node_modules'), join(checkout, 'node_modules'));
  await chmod(checkout, 0o555);
});

afterAll(async () => {
  if (worker?.exitCode === null && worker.kill('SIGKILL')) await once(worker, 'exit');
  await chmod(checkout, 0o755);
  await rm(checkout, { recursive: true, force: true });
});

it.skipIf(!isNobodyServed)('a worker starts in a checkout that can not be written', { timeout: 90_000 }, async () => {
  worker = spawn(process.execPath, [join(checkout, 'src/worker/from-source.js')], {
    ...NOBODY,
    cwd: checkout,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...ownTemporalEnvironment(testTemporal().address),
      VERDIGRIS_TASK_QUEUE: uniqueTaskQueue('read only'),
      TSX_DISABLE_CACHE: '1',
    },
  });
  let said = '';
  for (const stream of [worker.stdout, worker.stderr]) stream?.on('data', (data: Buffer) => (said += data.toString()));
  await expect.poll(() => said, { timeout: 80_000 }).toMatch(/worker ready|worker failed/);
  expect(said).toContain('worker ready');
  const [code] = worker.kill('SIGTERM') ? ((await once(worker, 'exit')) as [number | null]) : [null];
  expect(code).toBe(0);
});
