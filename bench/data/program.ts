import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { guard, release } from '../../src/embedded/guardian.js';
import { watchMemory } from './process-memory.js';

export interface ProgramRun {
  readonly peakMemoryBytes: number | null;
  readonly output: string;
}

export interface ProgramOptions {
  readonly signal: AbortSignal;
  readonly env?: NodeJS.ProcessEnv;
  /** Whether its memory is looked at meanwhile, which takes a processor's time from what is measured. Default true. */
  readonly watched?: boolean;
}

/** Runs another tool to its end, with its family in a process group of its own: an abort ends all of them. */
export function runProgram(program: string, args: readonly string[], options: ProgramOptions): Promise<ProgramRun> {
  return new Promise((resolve, reject) => {
    options.signal.throwIfAborted();
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      env: { ...process.env, ...options.env },
    });
    const { pid } = child;
    const memory = pid === undefined || options.watched === false ? undefined : watchMemory(pid);
    if (pid !== undefined) guard({ pid, signal: 'SIGTERM', graceMs: 2_000 });
    const abort = (): void => {
      if (pid !== undefined) endGroup(pid);
    };
    options.signal.addEventListener('abort', abort, { once: true });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => (output = (output + chunk.toString()).slice(-20_000)));
    }
    child.once('error', reject);
    child.once('close', (code, signal) => {
      options.signal.removeEventListener('abort', abort);
      const peakMemoryBytes = memory?.stop()?.family ?? null;
      if (pid !== undefined) release(pid);
      if (code === 0) return resolve({ peakMemoryBytes, output });
      reject(new Error(`${program} ${args[0] ?? ''} failed (${signal ?? `exit ${code}`})${complaint(output)}`));
    });
  });
}

function endGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It ended between the look and the signal.
  }
}

/** The line in which the tool says what went wrong: not a password, which tools print in connection strings. */
function complaint(output: string): string {
  const lines = output.trim().split('\n');
  const line = lines.find((text) => /error|fatal/i.test(text)) ?? lines.at(-1) ?? '';
  return line === '' ? '' : `: ${line.replace(/:\/\/[^@\s]*@/g, '://***@').trim()}`;
}

/** The program on PATH, or where Debian keeps the client programs of PostgreSQL `version`. */
export function findProgram(name: string, version?: number): string | undefined {
  const debian = version === undefined ? [] : [`/usr/lib/postgresql/${version}/bin`];
  return [...debian, ...(process.env['PATH'] ?? '').split(delimiter)]
    .filter((folder) => folder !== '')
    .map((folder) => join(folder, name))
    .find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
