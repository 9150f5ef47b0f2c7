import pg from 'pg';
import { setTimeout as sleep } from 'node:timers/promises';
import { planSchema, type Plan, type PlanInput } from '../../src/plan/schema.js';
import { formatTableName } from '../../src/plan/table-name.js';
import { readTables, replicatedRoots } from '../../src/postgres/catalog.js';
import type { CopyContext } from '../../src/postgres/bootstrap/copy/copy-context.js';
import { copyParcel, type ParcelResult } from '../../src/postgres/bootstrap/copy/copy-parcel.js';
import { readCopyState } from '../../src/postgres/bootstrap/copy/copy-state.js';
import { finishCopy, type FinishResult } from '../../src/postgres/bootstrap/copy/finish-copy.js';
import { followCopy } from '../../src/postgres/bootstrap/copy/follow-copy.js';
import { planCopy } from '../../src/postgres/bootstrap/copy/plan-copy.js';
import type { Parcel } from '../../src/postgres/bootstrap/copy/plan-parcels.js';
import type { HolderAttempt } from '../../src/postgres/bootstrap/copy/held-snapshots.js';
import { holdSnapshots } from '../../src/postgres/bootstrap/copy/snapshot-holder.js';
import { qualified } from '../../src/postgres/identifier.js';
import { waitForMarker, writeMarker } from '../../src/postgres/marker.js';
import { claimDatabases, type Run } from '../../src/postgres/ownership.js';
import type { StepContext } from '../../src/postgres/migrate/step-context.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { ensurePublications } from '../../src/postgres/streams.js';
import type { Side } from '../../src/side.js';
import {
  asDatabase,
  testDatabase,
  type ServerAddress,
  type TestDatabase,
  type TestServer,
} from '../support/postgres.js';
import { contextOn } from './replicated-pair.js';

/** Blue with rows and green with empty tables, for copies. */
export class CopyPair {
  readonly plan: Plan;
  private readonly aborts: AbortController[] = [];
  private holderError: unknown;
  private readonly holders: Promise<unknown>[] = [];

  private constructor(
    private readonly databases: readonly TestDatabase[],
    readonly blueDatabase: Database,
    readonly greenDatabase: Database,
    readonly blue: pg.Client,
    public green: pg.Client,
    readonly ourBlue: Session,
    public ourGreen: Session,
    readonly run: Run,
    migrations: PlanInput['migrations'],
    more: Partial<PlanInput>,
  ) {
    this.plan = planSchema.parse({
      name: run.migration,
      blue: { connection: 'b' },
      green: { connection: 'g' },
      migrations,
      ...more,
    });
  }

  static async start(
    servers: readonly [TestServer | ServerAddress, TestServer | ServerAddress],
    purpose: string,
    ddl: string,
    rows: string,
    migrations: PlanInput['migrations'] = [],
    more: Partial<PlanInput> = {},
    options: string | Readonly<Record<Side, string>> = '',
  ): Promise<CopyPair> {
    const optionsOf = (side: Side): string => (typeof options === 'string' ? options : options[side]);
    const [blueDb, greenDb] = [
      await testDatabase(servers[0], `${purpose}_b`, optionsOf('blue')),
      await testDatabase(servers[1], `${purpose}_g`, optionsOf('green')),
    ];
    const [blueDatabase, greenDatabase] = [asDatabase(blueDb, 'blue'), asDatabase(greenDb, 'green')];
    const clients = [new pg.Client(blueDb.config), new pg.Client(greenDb.config)] as const;
    for (const client of clients) {
      client.on('error', () => undefined);
      await client.connect();
      await client.query(ddl);
    }
    await clients[0].query(rows);
    const ours = [
      await openSession(blueDatabase, { purpose: 'test' }),
      await openSession(greenDatabase, { purpose: 'test' }),
    ] as const;
    // Slots are of the whole server.
    const run = { runId: blueDb.database, migration: blueDb.database.slice(-30) };
    const pair = new CopyPair(
      [blueDb, greenDb],
      blueDatabase,
      greenDatabase,
      ...clients,
      ...ours,
      run,
      migrations,
      more,
    );
    await claimDatabases({ blue: blueDatabase, green: greenDatabase }, run, 'flag', {
      streams: pair.plan.replicate.streams,
    });
    return pair;
  }

  context(signal: AbortSignal = new AbortController().signal, seen: object[] = []): CopyContext {
    const databases = { blue: this.blueDatabase, green: this.greenDatabase };
    return { databases, run: this.run, plan: this.plan, signal, report: (progress) => seen.push(progress) };
  }

  async planCopy(): Promise<readonly Parcel[]> {
    const tables = await readTables(this.ourBlue, this.plan.tables);
    await ensurePublications(this.ourBlue, {
      migration: this.run.migration,
      direction: 'to_green',
      tables: replicatedRoots(tables).map(({ name }) => ({ table: name })),
      streams: this.plan.replicate.streams,
    });
    return planCopy(this.context(), this.ourBlue, this.onGreen(), tables);
  }

  /** The test's own sessions on green, after its server has restarted. */
  async reachGreenAgain(): Promise<void> {
    await Promise.allSettled([this.green.end(), closeSession(this.ourGreen)]);
    this.green = new pg.Client(this.greenDatabase.config);
    this.green.on('error', () => undefined);
    await this.green.connect();
    this.ourGreen = await openSession(this.greenDatabase, { purpose: 'test' });
  }

  private onGreen(): StepContext {
    return contextOn(this.greenDatabase, this.ourGreen, [], new AbortController().signal, this.run.runId);
  }

  /** Begins to hold the snapshots; the result is what the holder ends with. */
  hold(
    seen: object[] = [],
    attempt?: HolderAttempt,
  ): { stop: () => void; ended: Promise<'released' | 'lost' | 'cancelled'> } {
    const abort = new AbortController();
    const ended = holdSnapshots(this.context(abort.signal, seen), attempt).catch((error: unknown) => {
      if (abort.signal.aborted) return 'cancelled' as const;
      throw error;
    });
    ended.catch((error: unknown) => (this.holderError = error));
    this.aborts.push(abort);
    this.holders.push(ended);
    return { stop: () => abort.abort(), ended };
  }

  async phase(...wanted: string[]): Promise<void> {
    for (let i = 0; i < 1_500; i++) {
      const state = await readCopyState(this.ourGreen, this.run.runId);
      if (state !== undefined && wanted.includes(state.phase)) return;
      await sleep(20);
    }
    throw new Error(`the copy is never ${wanted.join(' or ')}`, { cause: this.holderError });
  }

  copyParcel(id: number, signal?: AbortSignal, seen: object[] = []): Promise<ParcelResult> {
    return copyParcel(this.context(signal, seen), id);
  }

  /** All of them, two at once. */
  async copyAll(parcels: readonly Parcel[]): Promise<ParcelResult[]> {
    const results: ParcelResult[] = [];
    const left = [...parcels];
    await Promise.all(
      [1, 2].map(async () => {
        for (let next = left.shift(); next !== undefined; next = left.shift()) {
          results.push(await this.copyParcel(next.id));
        }
      }),
    );
    return results;
  }

  finish(seen: object[] = []): Promise<FinishResult> {
    return finishCopy(this.context(undefined, seen), this.ourBlue, this.onGreen());
  }

  follow(signal?: AbortSignal): Promise<{ tables: number }> {
    return openSession(this.blueDatabase, { purpose: 'follow' }).then((blue) =>
      followCopy(this.context(signal), blue, this.ourGreen).finally(() => closeSession(blue)),
    );
  }

  /** Keys of every table, which the schema copy makes before green follows. */
  async addKeys(keys: string): Promise<void> {
    await this.green.query(keys);
  }

  async caughtUp(): Promise<void> {
    const token = await writeMarker(this.ourBlue, 'to_green');
    if (!(await waitForMarker(this.ourGreen, 'to_green', token, 20_000))) throw new Error('green does not follow');
  }

  /** What differs between the sides: a checksum of all rows of each table, by the columns of blue. */
  async differences(): Promise<string[]> {
    const differing: string[] = [];
    for (const { name, columns, kind } of await readTables(this.ourBlue, this.plan.tables)) {
      const list = columns.map((column) => pg.escapeIdentifier(column.name)).join(', ');
      const from = `${kind === 'partitioned' ? '' : 'ONLY '}${qualified(name)}`;
      // The text of the row, since types of users have other OIDs on the other side.
      const sql = `SELECT count(*) || ' ' || coalesce(sum(hashtextextended(r::text, 0)), 0) AS sum FROM (SELECT ${list} FROM ${from}) r`;
      const [onBlue, onGreen] = await Promise.all(
        [this.blue, this.green].map(async (side) => (await side.query<{ sum: string }>(sql)).rows[0]?.sum),
      );
      if (onBlue !== onGreen)
        differing.push(`${formatTableName(name)}: ${onBlue ?? '?'} on blue, ${onGreen ?? '?'} on green`);
    }
    return differing;
  }

  async stop(): Promise<void> {
    for (const abort of this.aborts) abort.abort();
    await Promise.allSettled(this.holders);
    await Promise.all([this.blue.end(), this.green.end(), closeSession(this.ourBlue), closeSession(this.ourGreen)]);
    await this.databases[1]?.drop();
    await this.databases[0]?.drop();
  }
}
