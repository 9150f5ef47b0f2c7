import { spawn } from 'node:child_process';
import { guard, release } from '../../src/embedded/guardian.js';
import { endProcess } from '../../src/embedded/process-end.js';
import { tsxArguments } from '../../src/embedded/tsx-process.js';
import type { Side } from '../../src/side.js';
import type { LoadReply, LoadRequest, LoadResult, LoadSettings } from './load-messages.js';

/** The application under load, in a process of its own. */
export interface Load {
  /** Points a plain pool at a side. */
  use(side: Side): Promise<void>;
  /** No further payments; waits for those that are under way, and tells everything that was seen. */
  finish(): Promise<LoadResult>;
  stop(): Promise<void>;
}

/** Starts the application and waits until it pays. */
export async function startLoad(settings: LoadSettings): Promise<Load> {
  const child = spawn(process.execPath, tsxArguments(new URL('./load-main.ts', import.meta.url)), {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    serialization: 'advanced',
    detached: true,
    env: { ...process.env, BENCH_LOAD: JSON.stringify(settings) },
  });
  if (child.pid !== undefined) guard({ pid: child.pid, signal: 'SIGTERM', graceMs: 2_000 });
  const waiting = new Map<number, { resolve: (reply: LoadReply) => void; reject: (error: Error) => void }>();
  child.on('exit', () => {
    for (const { reject } of waiting.values()) reject(new Error('the application has ended'));
    waiting.clear();
  });
  await new Promise<void>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`the application did not start (exit ${code})`)));
    child.on('message', (message: LoadReply) => {
      if ('ready' in message) return resolve();
      waiting.get(message.id)?.resolve(message);
      waiting.delete(message.id);
    });
  });
  let asked = 0;
  const ask = (what: { readonly use: Side } | { readonly finish: true }): Promise<LoadReply> =>
    new Promise((resolve, reject) => {
      const id = (asked += 1);
      waiting.set(id, { resolve, reject });
      const request: LoadRequest = { id, ...what };
      child.send(request, (error) => (error === null ? undefined : reject(error)));
    });
  return {
    use: async (side) => void (await ask({ use: side })),
    finish: async () => {
      const reply = await ask({ finish: true });
      if (!('result' in reply)) throw new Error('the application has not told what it saw');
      return reply.result;
    },
    stop: async () => {
      await endProcess(child, [
        { signal: 'SIGTERM', graceMs: 2_000 },
        { signal: 'SIGKILL', graceMs: 2_000 },
      ]);
      if (child.pid !== undefined) release(child.pid);
    },
  };
}
