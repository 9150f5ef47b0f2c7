import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { inject } from 'vitest';
import { ident } from '../../src/postgres/identifier.js';
import type { Database } from '../../src/postgres/session.js';
import type { Side } from '../../src/side.js';

/** The servers of the run: one PostgreSQL 15 and one 18, wal_level = logical. */
export type TestServer = 'pg15' | 'pg18';

/** A server of a test's own, on 127.0.0.1. */
export interface ServerAddress {
  readonly port: number;
  readonly password: string;
}

/** A database of one test's own. */
export interface TestDatabase {
  /** Connection URI of the superuser. */
  readonly uri: string;
  readonly config: pg.ClientConfig;
  readonly port: number;
  readonly database: string;
  /** Drops the database with its subscriptions, slots and prepared transactions. Safe to call again. */
  drop(): Promise<void>;
}

/** Makes an empty database; `purpose` becomes part of its name, `options` of CREATE DATABASE. The caller drops it. */
export async function testDatabase(
  server: TestServer | ServerAddress,
  purpose: string,
  options = '',
): Promise<TestDatabase> {
  const { port, password } = typeof server === 'string' ? inject(server) : server;
  const slug = purpose
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '_')
    .slice(0, 40);
  const database = `${slug}_${randomBytes(4).toString('hex')}`;
  const maintenance = { host: '127.0.0.1', port, user: 'postgres', password, database: 'postgres' };
  await withClient(maintenance, (client) =>
    client.query(`CREATE DATABASE ${ident(database)} TEMPLATE template0 STRATEGY file_copy ${options}`),
  );
  const config = { ...maintenance, database };
  return {
    uri: `postgres://postgres:${password}@127.0.0.1:${port}/${database}`,
    config,
    port,
    database,
    drop: () => dropDatabase(maintenance, config),
  };
}

/** The test's database as the code under test knows it. */
export function asDatabase(testDb: TestDatabase, side: Side): Database {
  const { password } = testDb.config;
  if (typeof password !== 'string') throw new Error('a test database has a password');
  return {
    side,
    connection: `test_${side}`,
    config: testDb.config,
    peerConninfo: `host=127.0.0.1 port=${testDb.port} user=postgres password=${password} dbname=${testDb.database}`,
  };
}

/** Runs `work` with a connection of its own to the database, as the application or a person would have it. */
export async function withClient<T>(config: pg.ClientConfig, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client(config);
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

async function dropDatabase(maintenance: pg.ClientConfig, config: pg.ClientConfig): Promise<void> {
  const database = config.database ?? '';
  const isThere = await withClient(maintenance, async (client) => {
    const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [database]);
    return rowCount === 1;
  });
  if (!isThere) return;
  await withClient(config, async (client) => {
    await rollbackPrepared(client);
    await dropSubscriptions(client);
  });
  await withClient(maintenance, async (client) => {
    await dropSlots(client, database);
    await client.query(`DROP DATABASE IF EXISTS ${ident(database)} WITH (FORCE)`);
  });
}

async function rollbackPrepared(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ gid: string }>(
    'SELECT gid FROM pg_prepared_xacts WHERE database = current_database()',
  );
  for (const { gid } of rows) await client.query(`ROLLBACK PREPARED ${client.escapeLiteral(gid)}`);
}

async function dropSubscriptions(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ subname: string }>(
    `SELECT subname FROM pg_subscription
      WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`,
  );
  for (const { subname } of rows) {
    // Without its slot: the publisher may be dropped already, or be the same server.
    await client.query(`ALTER SUBSCRIPTION ${ident(subname)} DISABLE`);
    await client.query(`ALTER SUBSCRIPTION ${ident(subname)} SET (slot_name = NONE)`);
    await client.query(`DROP SUBSCRIPTION ${ident(subname)}`);
  }
}

async function dropSlots(client: pg.Client, database: string): Promise<void> {
  // A subscriber elsewhere takes its slot again within half a second, so a drop may lose the race a few times.
  for (let attempt = 1; ; attempt++) {
    try {
      await client.query(
        `SELECT pg_terminate_backend(active_pid, 2000) FROM pg_replication_slots
          WHERE database = $1 AND active_pid IS NOT NULL`,
        [database],
      );
      await client.query('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1', [
        database,
      ]);
      return;
    } catch (error) {
      if (attempt >= SLOT_TRIES || !isInUse(error)) throw error;
      await sleep(50);
    }
  }
}

const SLOT_TRIES = 40;

function isInUse(error: unknown): boolean {
  // object_in_use, or undefined_object: somebody else dropped it between the look and the drop.
  return error instanceof pg.DatabaseError && (error.code === '55006' || error.code === '42704');
}
