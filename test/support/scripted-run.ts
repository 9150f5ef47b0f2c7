import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Context } from '@temporalio/activity';
import type { Client, WorkflowHandle, WorkflowOptions } from '@temporalio/client';
import { NativeConnection, Worker, type WorkerOptions } from '@temporalio/worker';
import { alive } from '../../activities/context.js';
import { createActivities, type Activities } from '../../activities/index.js';
import { compareInTurn } from '../../activities/regular-comparison.js';
import type { VerificationResult } from '../../activities/verify.js';
import { parseDuration } from '../../src/plan/duration.js';
import { parsePlan } from '../../src/plan/parse.js';
import type { Plan, PlanInput } from '../../src/plan/schema.js';
import type { Side } from '../../src/side.js';
import { testBundle } from './bundle.js';
import { quietRuntime } from './quiet-runtime.js';
import { recordHistory } from './record-history.js';
import { temporalClient, testTemporal, uniqueTaskQueue } from './temporal.js';

/** What a test has its activities do instead of what the script does by itself. */
export type Overrides = Partial<{
  [Name in keyof Activities]: (run: ScriptedRun, ...args: Parameters<Activities[Name]>) => unknown;
}>;

/** What whoever starts a run may set. */
export type StartOptions = Partial<
  Pick<WorkflowOptions, 'workflowId' | 'workflowExecutionTimeout' | 'workflowRunTimeout'>
>;

/**
 * Runs of the real workflow on a real server, with activities that touch nothing and write down when they begin and
 * end: for what no database shows, such as the order of things when messages, cancels and failures come at the same time.
 */
export class ScriptedRuns {
  readonly #runs = new Map<string, ScriptedRun>();
  #down: () => Promise<void> = () => Promise.resolve();

  private constructor(
    readonly client: Client,
    private readonly connection: NativeConnection,
    private readonly taskQueue: string,
  ) {}

  static async start(): Promise<ScriptedRuns> {
    quietRuntime();
    const { address } = testTemporal();
    const connection = await NativeConnection.connect({ address });
    const taskQueue = uniqueTaskQueue('scripted');
    const started = new ScriptedRuns(await temporalClient(), connection, taskQueue);
    await started.up();
    return started;
  }

  /** A worker begins. @param options its own ones, over those that all have */
  async up(options: Partial<WorkerOptions> = {}): Promise<void> {
    const worker = await Worker.create({
      connection: this.connection,
      namespace: testTemporal().namespace,
      taskQueue: this.taskQueue,
      workflowBundle: await testBundle(),
      activities: scriptedActivities((id) => this.of(id)),
      maxHeartbeatThrottleInterval: '300ms',
      defaultHeartbeatThrottleInterval: '300ms',
      maxConcurrentActivityTaskExecutions: 100,
      ...options,
    });
    const running = worker.run();
    this.#down = () => {
      worker.shutdown();
      return running;
    };
  }

  /** The worker ends; what it was doing is for the next one. */
  async down(): Promise<void> {
    await this.#down();
  }

  of(workflowId: string): ScriptedRun | undefined {
    return this.#runs.get(workflowId);
  }

  /**
   * Begins a run, the next one of an earlier workflow where its id is given. By default it goes on to its standby window without an
   * approval, and stays there.
   */
  async begin(
    overrides: Overrides = {},
    plan: Partial<PlanInput> = {},
    start: StartOptions = {},
  ): Promise<ScriptedRun> {
    const name = `s-${randomUUID().slice(0, 8)}`;
    const { workflowId = `verdigris/${name}` } = start;
    const run = new ScriptedRun(overrides);
    this.#runs.set(workflowId, run);
    const input: PlanInput = {
      name,
      blue: { connection: 'b' },
      green: { connection: 'g' },
      bootstrap: { method: 'tablesync' },
      traffic: { stages: [{ percent: 1, for: '0s' }], approval: { before: [] } },
      standby: { for: '1h', verifyEvery: '1h' },
      ...plan,
    };
    const options = { ...start, workflowId, taskQueue: this.taskQueue, args: [input] };
    run.handle = await this.client.workflow.start('blueGreenMigration', options);
    return run;
  }

  async stop(): Promise<void> {
    await this.down();
    await this.connection.close();
    await this.client.connection.close();
  }
}

export class ScriptedRun {
  /** `+name` when an activity begins, `-name` when it has ended, in order. */
  readonly log: string[] = [];
  writesOn: Side = 'blue';
  epoch = 1;
  #handle: WorkflowHandle | undefined;

  constructor(readonly overrides: Overrides) {}

  /** The plan with its defaults, as a run reads it at its beginning. */
  lint(input: unknown): { plan: Plan; warnings: string[] } {
    const parsed = parsePlan(input);
    if ('findings' in parsed) throw new Error(JSON.stringify(parsed.findings));
    return { plan: parsed.plan, warnings: [] };
  }

  get handle(): WorkflowHandle {
    if (this.#handle === undefined) throw new Error('the run has not been started');
    return this.#handle;
  }

  set handle(handle: WorkflowHandle) {
    this.#handle = handle;
  }

  /** Waits until an entry is in the log. */
  async saw(entry: string, times = 1): Promise<void> {
    const deadline = Date.now() + 55_000;
    while (this.log.filter((one) => one === entry).length < times) {
      if (Date.now() > deadline) throw new Error(`never ${entry}: ${this.log.join(' ')}`);
      await sleep(5);
    }
  }

  /** Position of the first such entry at or after `from`; fails where there is none. */
  at(entry: string, from = 0): number {
    const found = this.log.indexOf(entry, from);
    if (found < 0) throw new Error(`no ${entry} in ${this.log.join(' ')}`);
    return found;
  }

  /** One activity: what the test has it do, else what the script does by itself. */
  async does(name: keyof Activities, args: unknown[]): Promise<unknown> {
    const act = (this.overrides[name] ?? DEFAULTS[name]) as
      ((run: ScriptedRun, ...args: unknown[]) => unknown) | undefined;
    this.log.push(`+${name}`);
    try {
      return await act?.(this, ...args);
    } finally {
      this.log.push(`-${name}`);
    }
  }

  move(from: Side): { holdMs: number; attempts: number; epoch: number; at: string; lost: string | null } {
    if (this.writesOn === from) {
      this.writesOn = from === 'blue' ? 'green' : 'blue';
      this.epoch++;
    }
    return { holdMs: 1, attempts: 1, epoch: this.epoch, at: new Date().toISOString(), lost: null };
  }
}

/**
 * Has the workflow go the same way once more, from the history of the run.
 *
 * @param name under which the history is kept for the workflow of later. Default: it is not
 */
export async function replayed({ handle }: ScriptedRun, name?: string): Promise<void> {
  const workflowBundle = await testBundle();
  await Worker.runReplayHistory({ workflowBundle }, await handle.fetchHistory(), handle.workflowId);
  if (name !== undefined) await recordHistory(handle, name);
}

/** Works until it is cancelled, and needs `ms` to stop then, as an activity that rolls a transaction back. */
export function untilCancelled(ms = 0): Promise<never> {
  return beating(({ cancelled }) => cancelled.finally(() => sleep(ms)));
}

/** Takes so long, unless it is cancelled. */
export async function slowly(ms: number): Promise<void> {
  await beating(({ cancelled }) => Promise.race([sleep(ms), cancelled]));
}

/** Heartbeats while it works, so that it hears of a cancel. */
async function beating<T>(work: (context: Context) => Promise<T>): Promise<T> {
  const context = Context.current();
  const beat = setInterval(() => context.heartbeat(), 100);
  try {
    return await work(context);
  } finally {
    clearInterval(beat);
  }
}

/** What the script does by itself. */
const DEFAULTS: Overrides = {
  lintPlan: (run, input) => run.lint(input),
  preflight: () => ({ warnings: [] }),
  claimDatabases: (run) => ({ epoch: run.epoch }),
  completeSchema: () => ({ warnings: [] }),
  awaitLag: () => ({ lagSeconds: 0 }),
  watchRetainedWal: () => untilCancelled(),
  expandTables: () => ({ tables: [], steps: [] }),
  verify: (_run, _ref, _source, scope) => ({
    ...{ scope, tables: 1, rowsVerified: 1, differingRows: 0, examples: [] },
    at: new Date().toISOString(),
  }),
  // Each comparison is one of the above; when it comes, and what comes of it, is as it is.
  compareRegularly: (run, ref, round) =>
    alive({ environment: {}, redact: String }, (signal, report) =>
      compareInTurn(round, {
        everyMs: parseDuration(ref.plan.standby.verifyEvery),
        ...{ signal, report },
        compare: (pass) => run.does('verify', [ref, 'green', 'changed', pass]) as Promise<VerificationResult>,
      }),
    ),
  forecastGates: () => ({ warnings: [] }),
  openStage: () => ({ routers: 0 }),
  judgeStage: () => ({ outcome: 'pass', evidence: [], lagSeconds: 0 }),
  watchGates: () => untilCancelled(),
  awaitConfirmed: () => ({ unconfirmed: [] }),
  promote: (run, _ref, from) => run.move(from),
  whereWritesAre: (run) => ({ writesOn: run.writesOn, epoch: run.epoch }),
  writesOfGreen: (run) => (run.writesOn === 'green' ? 'has them' : 'gave them away'),
  tracesOfRun: (run) => ({
    isOwner: run.log.includes('-claimDatabases'),
    isBack: run.writesOn === 'blue' && run.epoch > 1,
  }),
  maybeEmptied: () => [],
  unmovedOnGreen: () => [],
  watchStandby: () => untilCancelled(),
  otherReaders: () => [],
  watchSchema: () => untilCancelled(),
  lookAtSchema: () => ({ what: null }),
  acceptSchema: () => ({ refused: null, accepted: null }),
};

/** Every activity by its real name, so that none is forgotten. */
function scriptedActivities(runOf: (workflowId: string) => ScriptedRun | undefined): Record<string, () => unknown> {
  const names = Object.keys(createActivities({ environment: {}, redact: (text) => text })) as (keyof Activities)[];
  return Object.fromEntries(
    names.map((name) => [
      name,
      async (...args: unknown[]): Promise<unknown> => {
        const run = runOf(Context.current().info.workflowExecution?.workflowId ?? '');
        if (run === undefined) throw new Error('a run of another test');
        return run.does(name, args);
      },
    ]),
  );
}
