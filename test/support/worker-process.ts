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
  private constructor(
    private readonly child: ChildProcess,
    private readonly log: Log,
  ) {}

  /** Returns when the worker polls its task queue. */
  static async start(options: WorkerProcessOptions): Promise<WorkerProcess> {
    const worker = WorkerProcess.#spawn(options, {});
    await worker.log.says('worker ready');
    return worker;
  }

  /**
   * Returns when the worker has loaded everything; it polls its task queue from begin() on. So another one takes over as
   * soon as one that runs already would, however slow the machine is at starting one.
   */
  static async prepare(options: WorkerProcessOptions & { readonly bundle: string }): Promise<WorkerProcess> {
    const worker = WorkerProcess.#spawn(options, { VERDIGRIS_TEST_ON_REQUEST: '1' });
    await worker.log.says('worker loaded');
    return worker;
  }

  get pid(): number | undefined {
    return this.child.pid;
  }

  async begin(): Promise<void> {
    this.child.stdin?.write('begin\n');
    await this.log.says('worker ready');
  }

  static #spawn(options: WorkerProcessOptions, more: Readonly<Record<string, string>>): WorkerProcess {
    const { taskQueue, connections, address = testTemporal().address, environment = {}, bundle } = options;
    const program = bundle === undefined ? '../../src/worker/main.ts' : './prebundled-worker.ts';
    const child = spawn(process.execPath, tsxArguments(new URL(program, import.meta.url)), {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: {
        ...ownTemporalEnvironment(address),
        ...environment,
        ...more,
        ...(bundle === undefined ? {} : { VERDIGRIS_TEST_BUNDLE: bundle }),
        VERDIGRIS_TASK_QUEUE: taskQueue,
        ...Object.fromEntries(
          Object.entries(connections).map(([name, uri]) => [`VERDIGRIS_CONNECTION_${connectionVariable(name)}`, uri]),
        ),
      },
    });
    // It may be gone when it is told to begin.
    child.stdin.on('error', () => undefined);
    return new WorkerProcess(child, new Log(child));
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

/** What a worker has written, and who waits for a word of it. */
class Log {
  #text = '';

  constructor(private readonly child: ChildProcess) {
    const read = (chunk: Buffer): void => void (this.#text = (this.#text + chunk.toString()).slice(-20_000));
    child.stdout?.on('data', read);
    child.stderr?.on('data', read);
  }

  /** Resolves when it has been written; fails when the worker ends before. */
  async says(word: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const look = (): void => void (this.#text.includes(word) && resolve());
      this.child.stdout?.on('data', look);
      this.child.stderr?.on('data', look);
      this.child.once('exit', () => reject(new Error(`the worker ended before it said "${word}":\n${this.#text}`)));
      look();
    });
  }
}
