import { spawn } from 'node:child_process';
import { guard, release } from '../../src/embedded/guardian.js';
import { endProcess } from '../../src/embedded/process-end.js';
import { tsxArguments } from '../../src/embedded/tsx-process.js';
import type { WriterReply, WriterWindow } from './writer-messages.js';

export interface WriterOptions {
  /** The database that it writes to. */
  readonly uri: string;
  readonly transactionsPerSecond: number;
  /** Rows and users that are there: the range of the ids that it picks. */
  readonly rows: number;
  readonly users: number;
}

/** An application that writes all the time, in a process of its own. */
export interface Writer {
  /** Ends the present window, tells what was seen in it, and begins the next one. */
  nextWindow(): Promise<WriterWindow>;
  stop(): Promise<void>;
}

/** Starts the writer and waits until it writes. */
export async function startWriter(options: WriterOptions): Promise<Writer> {
  const { uri, transactionsPerSecond, rows, users } = options;
  const child = spawn(
    process.execPath,
    tsxArguments(new URL('./writer-main.ts', import.meta.url), ...[transactionsPerSecond, rows, users].map(String)),
    // The address is not for the list of processes.
    { stdio: ['ignore', 'ignore', 'ignore', 'ipc'], detached: true, env: { ...process.env, BENCH_WRITER_URL: uri } },
  );
  if (child.pid !== undefined) guard({ pid: child.pid, signal: 'SIGTERM', graceMs: 2_000 });
  const waiting = new Map<number, { resolve: (window: WriterWindow) => void; reject: (error: Error) => void }>();
  const gone = (): void => {
    for (const { reject } of waiting.values()) reject(new Error('the writer has ended'));
    waiting.clear();
  };
  child.on('exit', gone);
  await new Promise<void>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`the writer did not start (exit ${code})`)));
    child.on('message', (message: WriterReply) => {
      if ('ready' in message) return resolve();
      waiting.get(message.id)?.resolve(message.window);
      waiting.delete(message.id);
    });
  });
  let asked = 0;
  return {
    nextWindow: () =>
      new Promise((resolve, reject) => {
        const id = (asked += 1);
        waiting.set(id, { resolve, reject });
        child.send({ id }, (error) => (error === null ? undefined : reject(error)));
      }),
    stop: async () => {
      await endProcess(child, [
        { signal: 'SIGTERM', graceMs: 2_000 },
        { signal: 'SIGKILL', graceMs: 2_000 },
      ]);
      if (child.pid !== undefined) release(child.pid);
    },
  };
}
