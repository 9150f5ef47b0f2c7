import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { connectionVariable } from '../../src/postgres/session.js';
import { ownTemporalEnvironment } from '../../src/embedded/temporal-environment.js';
import { tsxArguments } from '../../src/embedded/tsx-process.js';
import { testTemporal } from './temporal.js';

export interface WorkerProcessOptions {
  readonly taskQueue: string;
  /** Connections by the name that the plan gives them, as URIs. */
  readonly connections: Readonly<Record<string, string>>;
  /** `127.0.0.1:<port>` of the Temporal server. Default: that of the run of the tests. */
  readonly address?: string;
  readonly environment?: Readonly<Record<string, string>>;
  /** A file with the workflow code. Default: the worker bundles it, as `npm run worker` does. */
  readonly bundle?: string;
}

/** A worker in a process of its own, as `npm run worker` starts it: one that can be killed or frozen. */
export class WorkerProcess {
  private constructor(private readonly child: ChildProcess) {}

  /** Returns when the worker polls its task queue. */
  static async start(options: WorkerProcessOptions): Promise<WorkerProcess> {
    const { taskQueue, connections, address = testTemporal().address, environment = {}, bundle } = options;
    const program = bundle === undefined ? '../../src/worker/main.ts' : './prebundled-worker.ts';
    const child = spawn(process.execPath, tsxArguments(new URL(program, import.meta.url)), {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...ownTemporalEnvironment(address),
        ...environment,
        ...(bundle === undefined ? {} : { VERDIGRIS_TEST_BUNDLE: bundle }),
        VERDIGRIS_TASK_QUEUE: taskQueue,
        ...Object.fromEntries(
          Object.entries(connections).map(([name, uri]) => [`VERDIGRIS_CONNECTION_${connectionVariable(name)}`, uri]),
        ),
      },
    });
    let log = '';
    await new Promise<void>((resolve, reject) => {
      const read = (chunk: Buffer): void => {
        log = (log + chunk.toString()).slice(-20_000);
        if (log.includes('worker ready')) resolve();
      };
      child.stdout.on('data', read);
      child.stderr.on('data', read);
      child.once('exit', () => reject(new Error(`the worker ended before it was ready:\n${log}`)));
    });
    return new WorkerProcess(child);
  }

  /** Ends it without a chance to say goodbye. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  freeze(): void {
    this.child.kill('SIGSTOP');
  }

  thaw(): void {
    this.child.kill('SIGCONT');
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, 'exit');
    this.child.kill(signal);
    await ended;
  }
}
