import { randomUUID } from 'node:crypto';
import pg from 'pg';
import type { ActivityDependencies } from '../../activities/context.js';
import { planSchema } from '../../src/plan/schema.js';
import { parseTableName } from '../../src/plan/table-name.js';
import { tablesync } from '../../src/postgres/bootstrap/tablesync.js';
import { isBinarySafe } from '../../src/postgres/binary-feed.js';
import { readTables, type TableInfo } from '../../src/postgres/catalog.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import type { PublishedTable } from '../../src/postgres/publication.js';
import { ensureSlot } from '../../src/postgres/replication-slot.js';
import { closeSession, openSession, type Databases, type Session } from '../../src/postgres/session.js';
import { ensurePublications, readStreams, streamNames } from '../../src/postgres/streams.js';
import { disableSubscriptions, ensureSubscription } from '../../src/postgres/subscription.js';
import type { Side } from '../../src/side.js';
import type { RunRef } from '../../workflows/lib/run-ref.js';
import {
  asDatabase,
  testDatabase,
  type ServerAddress,
  type TestDatabase,
  type TestServer,
} from '../support/postgres.js';

/** Slots are of the whole server, which several test files share. */
export const MIGRATION = `two-streams-${randomUUID().slice(0, 8)}`;

const STREAMS = 2;

interface Replicating {
  /** Where green's server reaches blue. Default: itself */
  readonly blueOnPort?: number;
  readonly signal?: AbortSignal;
}

/** Blue and green with the same tables, claimed by a run of two streams, with a session of ours on each. */
export class StreamPair {
  private constructor(
    private readonly own: Readonly<Record<Side, TestDatabase>>,
    readonly databases: Databases,
    readonly blue: Session,
    readonly green: Session,
  ) {}

  static async start(servers: Readonly<Record<Side, TestServer | ServerAddress>>, ddl: string): Promise<StreamPair> {
    const own = {
      blue: await testDatabase(servers.blue, 'streams b'),
      green: await testDatabase(servers.green, 'streams g'),
    };
    for (const { config } of Object.values(own)) {
      const client = new pg.Client(config);
      await client.connect();
      await client.query(ddl);
      await client.end();
    }
    const databases = { blue: asDatabase(own.blue, 'blue'), green: asDatabase(own.green, 'green') };
    await claimDatabases(databases, { runId: 'run-1', migration: MIGRATION }, 'flag', { streams: STREAMS });
    return new StreamPair(
      own,
      databases,
      await openSession(databases.blue, { purpose: 'test' }),
      await openSession(databases.green, { purpose: 'test' }),
    );
  }

  async publish(tables: readonly string[]): Promise<void> {
    await ensurePublications(this.blue, {
      migration: MIGRATION,
      direction: 'to_green',
      tables: published(tables),
      streams: STREAMS,
    });
  }

  async makeSlots(): Promise<void> {
    for (const name of streamNames(MIGRATION, 'to_green', STREAMS)) await ensureSlot(this.blue, name);
  }

  /** Fills green by tablesync, as a run does. @returns what was told meanwhile. */
  async replicate({ blueOnPort, signal }: Replicating = {}): Promise<readonly object[]> {
    const { blue, green } = this.databases;
    const port = (conninfo: string): string => conninfo.replace(/port=\d+/, `port=${blueOnPort ?? this.own.blue.port}`);
    const told: object[] = [];
    await this.makeSlots();
    await tablesync.run({
      databases: { blue: { ...blue, peerConninfo: port(blue.peerConninfo) }, green },
      migration: MIGRATION,
      direction: 'to_green',
      streams: STREAMS,
      maxRetainedWal: 1e12,
      signal: signal ?? new AbortController().signal,
      report: (progress) => told.push(progress),
    });
    return told;
  }

  /** Green takes nothing any more, and blue's slots keep everything. */
  async disable(): Promise<void> {
    await disableSubscriptions(this.green, streamNames(MIGRATION, 'to_green', STREAMS));
  }

  /** The feed from green to blue, as a promotion leaves it; but in binary form, where that may be. */
  async replicateBack(tables: readonly string[]): Promise<void> {
    await ensurePublications(this.green, {
      migration: MIGRATION,
      direction: 'to_blue',
      tables: published(tables),
      streams: STREAMS,
      like: await readStreams(this.blue, MIGRATION, 'to_green', STREAMS),
    });
    for (const name of streamNames(MIGRATION, 'to_blue', STREAMS)) {
      await ensureSlot(this.green, name);
      await ensureSubscription(this.blue, {
        name,
        conninfo: this.databases.green.peerConninfo,
        copyData: false,
        enabled: true,
        publisherVersion: 15,
        binary: isBinarySafe(await this.tables('green'), await this.tables('blue')),
      });
    }
  }

  tables(side: Side): Promise<TableInfo[]> {
    return readTables(this[side], { include: ['public.*'], exclude: [] });
  }

  /** What activities of a worker are made with. */
  get dependencies(): ActivityDependencies {
    return {
      environment: { VERDIGRIS_CONNECTION_B: this.own.blue.uri, VERDIGRIS_CONNECTION_G: this.own.green.uri },
      redact: (text) => text,
    };
  }

  /** The same where nobody answers at the address of a side. */
  dependenciesWithout(side: Side): ActivityDependencies {
    const nobody = {
      [side === 'blue' ? 'VERDIGRIS_CONNECTION_B' : 'VERDIGRIS_CONNECTION_G']: 'postgres://n@127.0.0.1:1/n',
    };
    return { ...this.dependencies, environment: { ...this.dependencies.environment, ...nobody } };
  }

  portOf(side: Side): number {
    return this.own[side].port;
  }

  get ref(): RunRef {
    const plan = planSchema.parse({
      name: MIGRATION,
      blue: { connection: 'b' },
      green: { connection: 'g' },
      replicate: { streams: STREAMS },
    });
    return { plan, runId: 'run-1' };
  }

  /** Publications, slots and subscriptions of a side. */
  async replicationObjects(side: Side): Promise<string[]> {
    const { rows } = await this[side].query<{ name: string }>(
      `SELECT 'publication ' || pubname AS name FROM pg_publication
        UNION ALL
       SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
        UNION ALL
       SELECT 'subscription ' || subname FROM pg_subscription
        WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        ORDER BY 1`,
    );
    return rows.map((row) => row.name);
  }

  async stop(): Promise<void> {
    await Promise.all([closeSession(this.blue), closeSession(this.green)]);
    // The subscriber first: its worker would take the slot again.
    await this.own.green.drop();
    await this.own.blue.drop();
  }
}

function published(tables: readonly string[]): PublishedTable[] {
  return tables.map((name) => ({ table: parseTableName(name) }));
}
