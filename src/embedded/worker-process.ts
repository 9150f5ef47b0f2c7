import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { connectionVariable } from '../postgres/session.js';
import { EmbeddedError } from './embedded-error.js';
import { guard, release } from './guardian.js';
import { lastLines } from './last-lines.js';
import { endProcess, hasEnded, waitForEnd } from './process-end.js';
import { ownTemporalEnvironment } from './temporal-environment.js';
import { tsxArguments } from './tsx-process.js';

export interface WorkerOptions {
  readonly temporalAddress: string;
  /** Connections by the name that a plan gives them, as URIs. */
  readonly connections: Readonly<Record<string, string>>;
  /** Where its log goes. */
  readonly logFile: string;
}

/** A worker in a process of its own. */
export interface WorkerProcess {
  /** Lets the activities that run give back control, then ends it. */
  stop(): Promise<void>;
}

/** Starts a worker as `npm run worker` does, with the connections of the embedded databases. */
export async function startWorker(options: WorkerOptions): Promise<WorkerProcess> {
  const main = new URL('../worker/main.ts', import.meta.url);
  const output = openSync(options.logFile, 'a');
  const child = spawn(process.execPath, tsxArguments(main), {
    stdio: ['ignore', output, output],
    detached: true,
    env: {
      ...ownTemporalEnvironment(options.temporalAddress),
      ...Object.fromEntries(
        Object.entries(options.connections).map(([name, uri]) => [
          `VERDIGRIS_CONNECTION_${connectionVariable(name)}`,
          uri,
        ]),
      ),
    },
  });
  closeSync(output);
  child.on('error', () => undefined);
  if (child.pid !== undefined) guard({ pid: child.pid, signal: 'SIGTERM', graceMs: 10_000 });
  // A worker that can't start says so and ends in its first moments; work waits in the task queue until it polls.
  await waitForEnd(child, 1_000);
  if (child.pid === undefined || hasEnded(child)) {
    throw new EmbeddedError(`the worker did not start:\n${lastLines(options.logFile)}`, 'see the lines above');
  }
  return {
    stop: async () => {
      await endProcess(child, [
        { signal: 'SIGTERM', graceMs: 20_000 },
        { signal: 'SIGKILL', graceMs: 2_000 },
      ]);
      if (child.pid !== undefined) release(child.pid);
    },
  };
}
