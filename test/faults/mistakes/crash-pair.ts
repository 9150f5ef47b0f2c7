import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { startPostgres, type EmbeddedPostgres } from '../../../src/embedded/postgres-server.js';
import type { Database, Databases } from '../../../src/postgres/session.js';
import type { Side } from '../../../src/side.js';
import { joinDatabases } from '../../support/join-databases.js';
import type { Move } from '../../support/promotion-steps.js';
import { withClient } from '../../support/postgres.js';

const TABLE = { schema: 'public', name: 'kept' };

/** No checkpoint comes by itself, and what no commit writes out stays in memory for long. Only processes crash here. */
const LAZY = {
  checkpoint_timeout: '1h',
  max_wal_size: '4GB',
  wal_writer_delay: '10s',
  autovacuum: 'off',
  fsync: 'off',
};

/** Blue and green on servers of their own, which can crash, joined by replication; one table, `public.kept (id)`. */
export class CrashPair {
  private constructor(
    readonly servers: Readonly<Record<Side, EmbeddedPostgres>>,
    readonly databases: Databases,
    readonly migration: string,
  ) {}

  /** @param setting for blue's database, before anything else is done there. */
  static async start(migration: string, setting = ''): Promise<CrashPair> {
    const servers = {
      blue: await startPostgres({ version: 15, name: `${migration}-blue`, settings: LAZY }),
      green: await startPostgres({ version: 18, name: `${migration}-green`, settings: LAZY }),
    };
    const databases = { blue: databaseOf(servers.blue, 'blue'), green: databaseOf(servers.green, 'green') };
    for (const { config } of Object.values(databases)) {
      await withClient(config, (client) => client.query('CREATE TABLE public.kept (id int PRIMARY KEY)'));
    }
    if (setting !== '') await withClient(databases.blue.config, (client) => client.query(setting));
    await joinDatabases(databases, migration, [TABLE]);
    return new CrashPair(servers, databases, migration);
  }

  /** The promotion from blue to green. */
  get move(): Move {
    return { databases: this.databases, migration: this.migration, from: 'blue', tables: [TABLE], maxHoldMs: 2_000 };
  }

  on<T>(side: Side, work: (client: pg.Client) => Promise<T>): Promise<T> {
    return withClient(this.databases[side].config, work);
  }

  /** The server's processes end at one moment: none has a chance to write anything more. */
  async crash(side: Side): Promise<void> {
    // Frozen first, so that none notices that another one has gone.
    this.servers[side].kill('SIGSTOP', 'all');
    this.servers[side].kill('SIGKILL', 'all');
    await sleep(300);
    await this.servers[side].restart();
  }

  async stop(): Promise<void> {
    await Promise.all([this.servers.blue.stop(), this.servers.green.stop()]);
  }
}

function databaseOf({ port, password }: EmbeddedPostgres, side: Side): Database {
  const config = { host: '127.0.0.1', port, user: 'postgres', password, database: 'postgres' };
  const peerConninfo = `host=127.0.0.1 port=${port} user=postgres password=${password} dbname=postgres`;
  return { side, connection: side, config, peerConninfo };
}
