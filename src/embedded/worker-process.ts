import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { connectionVariable } from '../postgres/session.js';
import { EmbeddedError } from './embedded-error.js';
import { guard, release } from './guardian.js';
import { lastLines } from './last-lines.js';
import { endProcess, hasEnded } from './process-end.js';
import { ownTemporalEnvironment } from './temporal-environment.js';

export interface WorkerOptions {
  readonly temporalAddress: string;
  /** Connections by the name that a plan gives them, as URIs. */
  readonly connections: Readonly<Record<string, string>>;
  /** Where its log goes. */
  readonly logFile: string;
}

/** What `npm run worker` runs: a small young generation keeps a worker some 50 MB smaller, whatever it copies. */
const WORKER = ['--max-semi-space-size=1', fileURLToPath(new URL('../worker/from-source.js', import.meta.url))];
/** The bundle of the workflow code is built at the start. */
const READY_TIMEOUT_MS = 60_000;

/** A worker in a process of its own. */
export interface WorkerProcess {
  /** Whether it still runs. */
  isRunning(): boolean;
  /** Lets the activities that run give back control, then ends it. */
  stop(): Promise<void>;
}

/** Starts a worker as `npm run worker` does, with the connections of the embedded databases. */
export async function startWorker(options: WorkerOptions): Promise<WorkerProcess> {
  const output = openSync(options.logFile, 'a');
  const child = spawn(process.execPath, WORKER, {
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
  await untilReady(child, options.logFile);
  return {
    isRunning: () => !hasEnded(child),
    stop: async () => {
      await endProcess(child, [
        { signal: 'SIGTERM', graceMs: 20_000 },
        { signal: 'SIGKILL', graceMs: 2_000 },
      ]);
      if (child.pid !== undefined) release(child.pid);
    },
  };
}

/** Waits for the line in which the worker says that it polls its task queue. */
async function untilReady(child: ChildProcess, logFile: string): Promise<void> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while (child.pid !== undefined && !hasEnded(child) && Date.now() < deadline) {
    const log = readFileSync(logFile, 'utf8');
    if (log.includes('worker ready')) return;
    if (log.includes('worker failed')) break;
    await sleep(100);
  }
  await endProcess(child, [{ signal: 'SIGKILL', graceMs: 2_000 }]);
  throw new EmbeddedError(`the worker did not start:\n${lastLines(logFile)}`, 'see the lines above');
}
