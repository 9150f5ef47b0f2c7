import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Connection } from '@temporalio/client';
import { freePort } from '../../src/embedded/free-port.js';
import { SEARCH_ATTRIBUTES } from '../../src/worker/search-attributes.js';
import { testTemporal } from './temporal.js';

/** A Temporal dev server with a database on disk, which can be killed and started again where it was. */
export class TemporalProcess {
  #child: ChildProcess | undefined;

  private constructor(
    private readonly folder: string,
    private readonly ports: readonly number[],
  ) {}

  static async start(): Promise<TemporalProcess> {
    const ports = [await freePort(), await freePort(), await freePort()];
    const server = new TemporalProcess(mkdtempSync(join(tmpdir(), 'verdigris-temporal-')), ports);
    await server.restart();
    return server;
  }

  get address(): string {
    return `127.0.0.1:${this.ports[0] ?? 0}`;
  }

  /** Starts it, and waits until it answers. */
  async restart(): Promise<void> {
    const [grpc = 0, http = 0, metrics = 0] = this.ports;
    this.#child = spawn(
      testTemporal().cliPath,
      [
        ...['server', 'start-dev', '--headless', '--ip', '127.0.0.1', '--log-level', 'error'],
        ...['--port', String(grpc), '--http-port', String(http), '--metrics-port', String(metrics)],
        ...['--db-filename', join(this.folder, 'temporal.db')],
        ...Object.entries(SEARCH_ATTRIBUTES).flatMap(([name, type]) => ['--search-attribute', `${name}=${type}`]),
      ],
      { stdio: 'ignore' },
    );
    for (const deadline = Date.now() + 60_000; Date.now() < deadline; await sleep(200)) {
      try {
        const connection = await Connection.connect({ address: this.address, connectTimeout: '2s' });
        await connection.workflowService.describeNamespace({ namespace: 'default' });
        return await connection.close();
      } catch {
        // Not yet.
      }
    }
    throw new Error('the Temporal dev server does not answer');
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }

  freeze(): void {
    this.#child?.kill('SIGSTOP');
  }

  thaw(): void {
    this.#child?.kill('SIGCONT');
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
