import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { type WorkflowHandle } from '@temporalio/client';
import { NativeConnection, type Worker } from '@temporalio/worker';
import type pg from 'pg';
import type { PlanInput } from '../../src/plan/schema.js';
import { testBundle } from './bundle.js';
import { createWorker } from '../../src/worker/create-worker.js';
import { redactor } from '../../src/worker/redact.js';
import type { MigrationStatus, Phase } from '../../workflows/lib/status.js';
import { statusQuery } from '../../workflows/messages.js';
import { testDatabase, withClient, type TestDatabase, type TestServer } from './postgres.js';
import { quietRuntime } from './quiet-runtime.js';
import { temporalClient, testTemporal, uniqueTaskQueue } from './temporal.js';

/** Gates that a few seconds of a test's traffic can decide. */
const QUICK_TRAFFIC: PlanInput['traffic'] = {
  stages: [
    { percent: 50, for: '1s' },
    { percent: 100, for: '1s' },
  ],
  gates: [
    { metric: 'errorRate', max: 0.2 },
    { metric: 'lag', max: '2s' },
  ],
  approval: { before: [] },
};

export interface MigrationOptions {
  readonly blue: TestServer;
  readonly green: TestServer;
  readonly purpose: string;
  /** Run on blue before anything else. */
  readonly schema: string;
  readonly plan?: Partial<PlanInput>;
  /** Variables of the worker, over those that the fixture sets. */
  readonly environment?: (own: Record<string, string>) => Record<string, string>;
}

let bundle: Promise<{ code: string }> | undefined;

/** Two databases, a worker of their own and a plan: what one whole migration needs. */
export class Migration {
  worker: Worker;
  #running: Promise<void>;

  private constructor(
    readonly blue: TestDatabase,
    readonly green: TestDatabase,
    readonly client: Client,
    readonly plan: PlanInput,
    readonly taskQueue: string,
    private readonly connection: NativeConnection,
    private readonly environment: Record<string, string>,
    worker: Worker,
  ) {
    this.worker = worker;
    this.#running = worker.run();
  }

  static async create(options: MigrationOptions): Promise<Migration> {
    quietRuntime();
    const { address, namespace } = testTemporal();
    const blue = await testDatabase(options.blue, `${options.purpose} blue`);
    const green = await testDatabase(options.green, `${options.purpose} green`);
    if (options.schema !== '') await withClient(blue.config, (client) => client.query(options.schema));
    const own = { VERDIGRIS_CONNECTION_APP_BLUE: blue.uri, VERDIGRIS_CONNECTION_APP_GREEN: green.uri };
    const environment = options.environment?.(own) ?? own;
    const connection = await NativeConnection.connect({ address });
    const taskQueue = uniqueTaskQueue(options.purpose);
    const client = await temporalClient();
    const plan: PlanInput = {
      name: `t-${randomUUID().slice(0, 12)}`,
      blue: { connection: 'app_blue' },
      green: { connection: 'app_green' },
      replicate: { holdFor: '300ms', maxLag: '2s' },
      traffic: QUICK_TRAFFIC,
      standby: { for: '1s' },
      ...options.plan,
    };
    const worker = await newWorker(connection, namespace, taskQueue, environment);
    return new Migration(blue, green, client, plan, taskQueue, connection, environment, worker);
  }

  /** Starts the run as an engineer would: by type, task queue and input. */
  async start(workflowId = `verdigris/${this.plan.name}`): Promise<WorkflowHandle> {
    return this.client.workflow.start('blueGreenMigration', {
      workflowId,
      taskQueue: this.taskQueue,
      args: [this.plan],
    });
  }

  /** Ends the worker as a deployment does, and begins another one. @param environment its variables. Default: as before */
  async replaceWorker(environment = this.environment): Promise<void> {
    this.worker.shutdown();
    await this.#running;
    this.worker = await newWorker(this.connection, testTemporal().namespace, this.taskQueue, environment);
    this.#running = this.worker.run();
  }

  async close(): Promise<void> {
    this.worker.shutdown();
    await this.#running;
    await this.connection.close();
    await this.client.connection.close();
    await this.green.drop();
    await this.blue.drop();
  }
}

async function newWorker(
  connection: NativeConnection,
  namespace: string,
  taskQueue: string,
  environment: Record<string, string>,
): Promise<Worker> {
  const workflowBundle = await (bundle ??= testBundle());
  return createWorker({
    connection,
    namespace,
    taskQueue,
    environment,
    redact: redactor([]),
    workflowBundle,
  });
}

/** The status of a run as its query answers. */
export function statusOf(handle: WorkflowHandle): Promise<MigrationStatus> {
  return handle.query(statusQuery);
}

/** Waits until the status is as asked. Fails with what it is when it never becomes so, or when the run ends first. */
export async function until(
  handle: WorkflowHandle,
  what: string,
  wanted: (status: MigrationStatus) => boolean,
  forMs = 60_000,
): Promise<MigrationStatus> {
  const deadline = Date.now() + forMs;
  for (;;) {
    const status = await statusOf(handle);
    if (wanted(status)) return status;
    if (status.outcome !== 'running' || Date.now() > deadline) {
      throw new Error(`never ${what}: ${JSON.stringify(status, null, 1)}`);
    }
    await sleep(10);
  }
}

export function inPhase(phase: Phase): (status: MigrationStatus) => boolean {
  return (status) => status.phase === phase;
}

/** What a run may leave in a database, by name; empty when nothing is left. */
export async function leftovers(database: TestDatabase): Promise<string[]> {
  return withClient(database.config, async (client) => {
    const { rows } = await client.query<{ what: string }>(LEFTOVERS);
    return rows.map((row) => row.what);
  });
}

/** Every user object of a database but those of extensions, and all that replication needs. */
const LEFTOVERS = `
  SELECT 'schema ' || nspname AS what FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public')
  UNION ALL SELECT 'publication ' || pubname FROM pg_publication
  UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
  UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
             WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE '%verdigris%'
  UNION ALL SELECT 'relation ' || c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
  UNION ALL SELECT 'type ' || t.oid::regtype FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
             WHERE n.nspname = 'public' AND t.typtype IN ('e', 'd')
  UNION ALL SELECT 'function ' || p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
             WHERE n.nspname = 'public'
  ORDER BY what`;

/** Runs a query as the superuser and returns its rows. */
export async function rowsOf<R extends pg.QueryResultRow>(database: TestDatabase, sql: string): Promise<R[]> {
  return withClient(database.config, async (client) => (await client.query<R>(sql)).rows);
}
