import { spawn } from 'node:child_process';

/**
 * Runs a program to its end and returns what it printed.
 *
 * @throws Error with the last line of its complaint; `code` is ENOENT when there is no such program.
 */
export function run(
  program: string,
  args: readonly string[],
  timeoutMs: number,
  env: NodeJS.ProcessEnv = process.env,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
      env,
    });
    let output = '';
    let complaint = '';
    child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (complaint += chunk.toString()));
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (code === 0) return resolve(output);
      const why = signal === 'SIGKILL' ? `no end within ${timeoutMs / 1000} s` : lastLine(complaint || output);
      reject(new Error(`${program} ${args[0] ?? ''} failed: ${why || `exit ${code}`}`));
    });
  });
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? '';
}
