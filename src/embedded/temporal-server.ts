import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Connection } from '@temporalio/client';
import { SEARCH_ATTRIBUTES } from '../worker/search-attributes.js';
import { EmbeddedError } from './embedded-error.js';
import { freePort } from './free-port.js';
import { guard, release } from './guardian.js';
import { endProcess, hasEnded } from './process-end.js';
import { lastLines } from './last-lines.js';
import { makeScratchFolder, removeScratchFolder } from './scratch-folder.js';
import { ownTemporalEnvironment } from './temporal-environment.js';

export interface TemporalOptions {
  /** The path of the `temporal` CLI, see findTemporalCli(). */
  readonly cliPath: string;
  /** Serve the Web UI. Default: false. */
  readonly ui?: boolean;
  /** Keep the runs in this file. Default: in memory. */
  readonly dbFile?: string;
}

/** A Temporal dev server of our own, on free ports of 127.0.0.1. */
export interface EmbeddedTemporal {
  /** `127.0.0.1:<port>`, as TEMPORAL_ADDRESS takes it. */
  readonly address: string;
  /** The Web UI; undefined without one. */
  readonly uiUrl: string | undefined;
  stop(): Promise<void>;
}

/** Starts `temporal server start-dev` and waits until its default namespace answers. */
export async function startTemporal(options: TemporalOptions): Promise<EmbeddedTemporal> {
  const folder = makeScratchFolder('temporal');
  const logFile = join(folder, 'server.log');
  try {
    for (let attempt = 1; attempt <= 5; attempt++) {
      const ports = { grpc: await freePort(), http: await freePort(), metrics: await freePort(), ui: await freePort() };
      const child = launch(options, ports, folder, logFile);
      const address = `127.0.0.1:${ports.grpc}`;
      if (await becomesHealthy(child, address)) {
        return {
          address,
          uiUrl: options.ui === true ? `http://127.0.0.1:${ports.ui}` : undefined,
          stop: async () => {
            await end(child);
            removeScratchFolder(folder);
          },
        };
      }
      await end(child);
      if (!/address already in use|can't (set|listen)|bind/i.test(lastLines(logFile))) break;
    }
    throw new EmbeddedError(
      `the Temporal dev server did not start:\n${lastLines(logFile)}`,
      `see the lines above; check that ${options.cliPath} runs: temporal --version`,
    );
  } catch (error) {
    removeScratchFolder(folder);
    throw error;
  }
}

interface Ports {
  readonly grpc: number;
  readonly http: number;
  readonly metrics: number;
  readonly ui: number;
}

function launch(options: TemporalOptions, ports: Ports, folder: string, logFile: string): ChildProcess {
  const output = openSync(logFile, 'w');
  const child = spawn(
    options.cliPath,
    [
      ...['server', 'start-dev', '--ip', '127.0.0.1', '--port', String(ports.grpc), '--http-port', String(ports.http)],
      ...['--metrics-port', String(ports.metrics), '--log-level', 'warn'],
      ...(options.ui === true ? ['--ui-ip', '127.0.0.1', '--ui-port', String(ports.ui)] : ['--headless']),
      ...(options.dbFile === undefined ? [] : ['--db-filename', options.dbFile]),
      ...Object.entries(SEARCH_ATTRIBUTES).flatMap(([name, type]) => ['--search-attribute', `${name}=${type}`]),
    ],
    { cwd: folder, stdio: ['ignore', output, output], detached: true, env: ownTemporalEnvironment() },
  );
  closeSync(output);
  child.on('error', () => undefined);
  if (child.pid !== undefined) guard({ pid: child.pid, signal: 'SIGTERM', graceMs: 5_000 });
  return child;
}

async function becomesHealthy(child: ChildProcess, address: string): Promise<boolean> {
  const deadline = Date.now() + 30_000;
  while (Date.now() < deadline && child.pid !== undefined && !hasEnded(child)) {
    if (await answers(address)) return true;
    await sleep(100);
  }
  return false;
}

async function answers(address: string): Promise<boolean> {
  let connection: Connection | undefined;
  try {
    connection = await Connection.connect({ address, connectTimeout: '2s' });
    await connection.workflowService.describeNamespace({ namespace: 'default' });
    return true;
  } catch {
    return false;
  } finally {
    await connection?.close();
  }
}

async function end(child: ChildProcess): Promise<void> {
  await endProcess(child, [
    { signal: 'SIGTERM', graceMs: 5_000 },
    { signal: 'SIGKILL', graceMs: 5_000 },
  ]);
  if (child.pid !== undefined) release(child.pid);
}
