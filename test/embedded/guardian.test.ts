import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { describe, expect, it } from 'vitest';
import { isRunning } from '../../src/embedded/process-state.js';
import { tsxArguments } from '../../src/embedded/tsx-process.js';

describe('the guardian', () => {
  it('ends the servers and removes their files when the process that started them is killed', async () => {
    const child = spawn(process.execPath, tsxArguments(new URL('./start-server.ts', import.meta.url)), {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = await new Promise<string[]>((resolve) => {
      createInterface({ input: child.stdout }).once('line', (text) => resolve([text]));
    });
    const { pid, folder } = JSON.parse(line ?? '{}') as { pid: number; folder: string };
    expect(isRunning(pid)).toBe(true);
    expect(existsSync(folder)).toBe(true);

    child.kill('SIGKILL');
    await expect.poll(() => isRunning(pid), { timeout: 15_000 }).toBe(false);
    await expect.poll(() => existsSync(folder), { timeout: 15_000 }).toBe(false);
  });
});
