import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection, WorkflowFailedError, type WorkflowHandle } from '@temporalio/client';
import type { PlanInput } from '../../src/plan/schema.js';
import { directionTo } from '../../src/postgres/feed.js';
import { measureLag } from '../../src/postgres/marker.js';
import { withSession, type Database, type Databases, type Session } from '../../src/postgres/session.js';
import { otherSide, type Side } from '../../src/side.js';
import { testBundleFile } from './bundle.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import type { MigrationStatus, Phase } from '../../workflows/lib/status.js';
import { approveSignal, rollbackSignal, statusQuery } from '../../workflows/messages.js';
import {
  ALL_AUDIT_TABLES,
  auditedContents,
  AUDIT_ROWS,
  AUDIT_SCHEMA,
  AuditedWriters,
  FENCED_AUDIT_TABLES,
  PARTITIONED_SCHEMA,
} from './audited-writers.js';
import type { AuditJournal } from './audit-journal.js';
import { BothOpenWatcher } from './both-open-watcher.js';
import { LinkProxy } from './link-proxy.js';
import {
  asDatabase,
  testDatabase,
  withClient,
  type ServerAddress,
  type TestDatabase,
  type TestServer,
} from './postgres.js';
import { StatementProxy, type Held, type Point, type When } from './statement-proxy.js';
import { testTemporal, uniqueTaskQueue } from './temporal.js';
import { WorkerProcess } from './worker-process.js';

export const LINKS = ['worker-blue', 'worker-green', 'blue-green', 'router-blue', 'router-green'] as const;

export type Link = (typeof LINKS)[number];

export interface FaultRunOptions {
  readonly purpose: string;
  readonly blue?: TestServer | ServerAddress;
  readonly green?: TestServer | ServerAddress;
  readonly plan?: Partial<PlanInput>;
  /** SQL that makes more on blue than the tables of the workload. */
  readonly schema?: string;
  /** `127.0.0.1:<port>` of a Temporal server of the test's own. */
  readonly temporalAddress?: string;
  /** Of the worker. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Default: 4; with 0, somebody else writes. */
  readonly writers?: number;
  readonly journal?: AuditJournal;
}

/** How long a run may take to its next part: none of the rules is about how quick the machine is. */
const PATIENCE_MS = 400_000;

/** Each look at the status is a query that the worker answers: more of them would slow down what they wait for. */
const LOOK_EVERY_MS = 150;

const WHO = { by: 'the test', reason: 'the test says so' };

/** How a run ended: its outcome, or the type and message of its failure. */
export type Ending = { readonly outcome: string; readonly report: MigrationReport | undefined };

/** Whoever writes, and knows what must be there. */
export interface Audited {
  pause(): Promise<void>;
  audit(session: Session): Promise<string[]>;
  resume(): void;
}

/** A whole run with a worker process, audited writers, and a proxy in every link between them and the servers. */
export class FaultRun {
  /** What happened to the run on its way: approvals that had to be given again. */
  readonly notes: string[] = [];
  #handle: WorkflowHandle | undefined;
  #watcher: BothOpenWatcher | undefined;
  #isClosed = false;
  #spare: WorkerProcess | undefined;

  private constructor(
    readonly plan: PlanInput,
    readonly databases: Databases,
    readonly own: Readonly<Record<Side, TestDatabase>>,
    readonly links: Readonly<Record<Link, readonly LinkProxy[]>>,
    private readonly statements: Readonly<Record<Side, StatementProxy>>,
    private readonly client: Client,
    private readonly newWorker: () => Promise<WorkerProcess>,
    public worker: WorkerProcess,
    readonly writers: AuditedWriters | undefined,
    readonly taskQueue: string,
    /** The databases as routers reach them. */
    readonly routed: Databases,
    /** Every statement of the workers', on its way to each side. */
    readonly seen: Readonly<Record<Side, readonly Point[]>>,
  ) {}

  static async create(options: FaultRunOptions): Promise<FaultRun> {
    const blue = await testDatabase(options.blue ?? 'pg15', `${options.purpose} blue`);
    const green = await testDatabase(options.green ?? 'pg18', `${options.purpose} green`);
    await withClient(blue.config, (client) =>
      client.query(`${AUDIT_SCHEMA}; ${PARTITIONED_SCHEMA}; ${AUDIT_ROWS}; ${options.schema ?? ''}`),
    );
    const databases = { blue: asDatabase(blue, 'blue'), green: asDatabase(green, 'green') };
    const seen: Record<Side, Point[]> = { blue: [], green: [] };
    const statements = {
      blue: await StatementProxy.start(blue.port, (point) => void seen.blue.push(point)),
      green: await StatementProxy.start(green.port, (point) => void seen.green.push(point)),
    };
    const links: Record<Link, readonly [LinkProxy, ...LinkProxy[]]> = {
      'worker-blue': [await LinkProxy.start(statements.blue.port)],
      'worker-green': [await LinkProxy.start(statements.green.port)],
      // How green reaches blue, and blue green.
      'blue-green': [await LinkProxy.start(blue.port), await LinkProxy.start(green.port)],
      'router-blue': [await LinkProxy.start(blue.port)],
      'router-green': [await LinkProxy.start(green.port)],
    };
    const through = (database: TestDatabase, link: LinkProxy | undefined): string =>
      database.uri.replace(`:${database.port}/`, `:${link?.port ?? 0}/`);
    const connections = {
      app_blue: through(blue, links['worker-blue'][0]),
      app_green: through(green, links['worker-green'][0]),
      app_blue_peer: through(blue, links['blue-green'][0]),
      app_green_peer: through(green, links['blue-green'][1]),
    };
    const taskQueue = uniqueTaskQueue(options.purpose.replaceAll(' ', '-'));
    const address = options.temporalAddress ?? testTemporal().address;
    const { environment = {} } = options;
    const bundle = await testBundleFile();
    const prepareWorker = (): Promise<WorkerProcess> =>
      WorkerProcess.prepare({ taskQueue, connections, address, environment, bundle });
    const first = await prepareWorker();
    await first.begin();
    const routed = {
      blue: viaLink(databases.blue, links['router-blue'][0]),
      green: viaLink(databases.green, links['router-green'][0]),
    };
    const plan: PlanInput = {
      name: `f-${randomUUID().slice(0, 12)}`,
      blue: { connection: 'app_blue' },
      green: { connection: 'app_green' },
      replicate: { holdFor: '300ms', maxLag: '5s' },
      traffic: {
        stages: [{ percent: 100, for: '1s' }],
        gates: [{ metric: 'lag', max: '10s' }],
        approval: { before: [] },
      },
      standby: { for: '30m' },
      ...options.plan,
    };
    const { writers = 4, journal } = options;
    return new FaultRun(
      plan,
      databases,
      { blue, green },
      links,
      statements,
      new Client({ connection: await Connection.connect({ address }) }),
      prepareWorker,
      first,
      writers === 0
        ? undefined
        : await AuditedWriters.start(routed, plan.name, {
            ...{ writers, isPartitioned: true },
            ...(journal === undefined ? {} : { journal }),
          }),
      taskQueue,
      routed,
      seen,
    );
  }

  get handle(): WorkflowHandle {
    if (this.#handle === undefined) throw new Error('the run has not been started');
    return this.#handle;
  }

  async start(): Promise<void> {
    this.#handle = await this.client.workflow.start('blueGreenMigration', {
      workflowId: `verdigris/${this.plan.name}`,
      taskQueue: this.taskQueue,
      args: [this.plan],
    });
  }

  /** The next session of the worker's that comes to such a point on its way to that side. */
  stopWhere(side: Side, isHere: (point: Point) => boolean, when: When): Promise<Held> {
    return this.statements[side].stopWhere(isHere, when);
  }

  /**
   * Waits until the status is as asked, and approves whatever is asked for again meanwhile. No worker may be there to
   * answer for a while.
   */
  async until(
    what: string,
    wanted: (status: MigrationStatus) => boolean,
    forMs = PATIENCE_MS,
  ): Promise<MigrationStatus> {
    let last: unknown;
    for (const deadline = Date.now() + forMs; Date.now() < deadline; await sleep(LOOK_EVERY_MS)) {
      try {
        const status = await this.handle.query(statusQuery);
        last = status;
        this.#lookOnceMoved(status);
        if (wanted(status)) return status;
        if (status.outcome !== 'running') break;
        await this.#goOn(status);
      } catch (error) {
        last = error;
      }
    }
    throw new Error(`never ${what}: ${last instanceof Error ? last.message : JSON.stringify(last)}`);
  }

  /** Waits until the status is as asked, without an answer to what is asked meanwhile. */
  async watch(what: string, wanted: (status: MigrationStatus) => boolean): Promise<void> {
    for (const deadline = Date.now() + PATIENCE_MS; Date.now() < deadline; await sleep(LOOK_EVERY_MS)) {
      const status = await this.look();
      if (status !== undefined) this.#lookOnceMoved(status);
      if (status !== undefined && wanted(status)) return;
    }
    throw new Error(`never ${what}`);
  }

  /** The status now; undefined while nobody answers. */
  look(): Promise<MigrationStatus | undefined> {
    return this.handle.query(statusQuery).catch(() => undefined);
  }

  async approve(gate: string, request?: string): Promise<void> {
    await this.handle.signal(approveSignal, { ...WHO, gate, ...(request === undefined ? {} : { request }) });
  }

  inPhase(phase: Phase): Promise<MigrationStatus> {
    return this.until(`in phase ${phase}`, (status) => status.phase === phase);
  }

  /** Reads go to green. From here on it is watched that never both sides are open; until now only the bootstrap writes green. */
  async inTraffic(): Promise<MigrationStatus> {
    const status = await this.until('reading from green', (now) => now.greenReadPercent > 0);
    this.#lookFromNow();
    return status;
  }

  /** At the latest when writes have moved: a run that is rolled back before leaves no fence on either side. */
  #lookOnceMoved({ writesOn }: MigrationStatus): void {
    if (writesOn === 'green') this.#lookFromNow();
  }

  #lookFromNow(): void {
    this.#watcher ??= BothOpenWatcher.startPatient(this.databases, FENCED_AUDIT_TABLES.length);
  }

  /** How often both sides have been looked at. */
  get looks(): number {
    return this.#watcher?.looks ?? 0;
  }

  /** The standby window, with the way back proven. */
  inStandby(): Promise<MigrationStatus> {
    return this.until(
      'in the standby window',
      (s) => s.phase === 'standby' && s.rollback.safe && s.lagSeconds !== null,
    );
  }

  async #goOn(status: MigrationStatus): Promise<void> {
    const gate = status.waiting?.for === 'approval' ? status.waiting.gate : undefined;
    if (gate === undefined) return;
    this.notes.push(`held: ${status.waiting?.why.split('\n')[0] ?? ''}`);
    await this.approve(gate, status.waiting?.request);
    await sleep(300);
  }

  async rollBack(): Promise<void> {
    await this.handle.signal(rollbackSignal, WHO);
  }

  /** Waits for the run's end. It must come: a run that hangs is a failure. */
  async ended(forMs = PATIENCE_MS): Promise<Ending> {
    const approving = new AbortController();
    const late = sleep(forMs, undefined, { ref: false }).then(async () => {
      const status: unknown = await this.handle.query(statusQuery).catch(String);
      throw new Error(`the run did not end within ${forMs} ms: ${JSON.stringify(status)}`);
    });
    const held = (async () => {
      while (!approving.signal.aborted) {
        await this.handle
          .query(statusQuery)
          .then((status) => this.#goOn(status))
          .catch(() => undefined);
        await sleep(500);
      }
    })();
    try {
      return await Promise.race([this.#result(), late]);
    } finally {
      approving.abort();
      await held;
    }
  }

  async #result(): Promise<Ending> {
    while (!this.#isClosed) {
      try {
        const report = (await this.handle.result()) as MigrationReport;
        return { outcome: report.outcome, report };
      } catch (error) {
        if (error instanceof WorkflowFailedError) {
          return { outcome: `failed: ${error.cause?.message ?? error.message}`, report: undefined };
        }
        // The Temporal server is away for a while.
        await sleep(500);
      }
    }
    throw new Error('the run has been given up');
  }

  /** Has another worker loaded, so that it can take over at once. */
  async prepareWorker(): Promise<void> {
    this.#spare ??= await this.newWorker();
  }

  /** Another worker serves the task queue from now on. */
  async replaceWorker(): Promise<void> {
    await this.prepareWorker();
    const spare = this.#spare;
    this.#spare = undefined;
    await spare?.begin();
    this.worker = spare ?? this.worker;
  }

  /**
   * What is wrong: an acknowledged write that is lost, one that was refused and is there, sums that don't agree, both
   * sides open, or sides that differ while one is to follow the other. Empty when all is well.
   */
  async audit(
    primary: Side,
    follower: 'follows' | 'is not followed',
    writers: Audited | undefined = this.writers,
  ): Promise<string[]> {
    if (writers === undefined) throw new Error('the run has no writers of its own');
    const paused = await Promise.race([writers.pause().then(() => true), sleep(40_000, false)]);
    try {
      const wrong = paused ? [] : ['a write neither succeeded nor failed'];
      wrong.push(...new Set(this.#watcher?.seen));
      if (primary === 'green' && this.looks === 0) wrong.push('nobody has looked whether both sides are open');
      await withSession(this.databases[primary], { purpose: 'audit' }, async (session) => {
        wrong.push(...(await writers.audit(session)));
        if (follower === 'follows') wrong.push(...(await this.#differences(primary)));
      });
      return wrong;
    } finally {
      writers.resume();
    }
  }

  async #differences(primary: Side): Promise<string[]> {
    const other = otherSide(primary);
    return withSession(this.databases[primary], { purpose: 'audit' }, (from) =>
      withSession(this.databases[other], { purpose: 'audit' }, async (to) => {
        const lag = await measureLag(from, to, directionTo(other), 30_000);
        if (!(lag < 30_000)) return [`${other} does not follow`];
        const [one, two] = [
          JSON.stringify(await auditedContents(from, ALL_AUDIT_TABLES)),
          JSON.stringify(await auditedContents(to, ALL_AUDIT_TABLES)),
        ];
        return one === two ? [] : [`the sides differ: ${one} and ${two}`];
      }),
    );
  }

  /** Whether a write to a side, by whoever connects, is refused. */
  async refusesWrites(side: Side): Promise<boolean> {
    return withClient(this.own[side].config, (client) =>
      client.query('UPDATE public.accounts SET balance = balance WHERE id = 1').then(
        () => false,
        (error: unknown) => (error as { code?: string }).code === '25006',
      ),
    );
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const link of Object.values(this.links).flat()) link.restore();
    await this.#handle?.terminate('the test is over').catch(() => undefined);
    await this.worker.kill();
    await this.#spare?.kill();
    await this.#watcher?.stop();
    await this.writers?.stop();
    await this.client.connection.close();
    await Promise.all(
      Object.values(this.links)
        .flat()
        .map((link) => link.close()),
    );
    await Promise.all(Object.values(this.statements).map((proxy) => proxy.close()));
    await this.own.green.drop();
    await this.own.blue.drop();
  }
}

function viaLink(database: Database, link: LinkProxy): Database {
  return { ...database, config: { ...database.config, port: link.port } };
}
