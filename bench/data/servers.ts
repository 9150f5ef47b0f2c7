import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import type { LifeCycle } from '../../src/embedded/life-cycle.js';
import { literal, ident } from '../../src/postgres/identifier.js';
import { BENCH_DATABASE, createDataSet } from './data-set.js';

/**
 * What a server of this size has, the same for blue and green and for every contestant. Durable: fsync,
 * full_page_writes and synchronous_commit are PostgreSQL's defaults (on). No checkpoint falls into a run by chance.
 */
export const SERVER_SETTINGS = {
  wal_level: 'logical',
  shared_buffers: '1GB',
  maintenance_work_mem: '256MB',
  work_mem: '32MB',
  max_wal_size: '16GB',
  min_wal_size: '16GB',
  checkpoint_timeout: '30min',
  effective_cache_size: '4GB',
  random_page_cost: '1.1',
} as const;

export interface Servers {
  readonly blue: EmbeddedPostgres;
  readonly green: EmbeddedPostgres;
}

/** Starts both servers, and makes blue's data once for all runs. */
export async function startServers(
  lifeCycle: LifeCycle,
  options: { readonly rows: number; readonly green: 15 | 18; readonly greenFolder?: string | undefined },
  progress: (line: string) => void,
): Promise<Servers> {
  const blue = await lifeCycle.start('Blue, PostgreSQL 15', () =>
    startPostgres({ version: 15, name: 'bench-blue', settings: SERVER_SETTINGS }),
  );
  const green = await lifeCycle.start(`Green, PostgreSQL ${options.green}`, () =>
    startPostgres({
      version: options.green,
      name: 'bench-green',
      under: options.greenFolder,
      settings: SERVER_SETTINGS,
    }),
  );
  await withClient(blue.uri(), (client) => createDatabase(client));
  await withClient(blue.uri(BENCH_DATABASE), (client) => createDataSet(client, options.rows, progress));
  await withClient(green.uri(), (client) => writeLikeACopy(client, options.rows));
  return { blue, green };
}

/** Of the large table's heap and indexes, for each row. */
const WAL_BYTES_A_ROW = 220;

/**
 * A server that has been at work writes into WAL files that are there; a new one makes each of them first. Without this
 * the first contestant would do that for those who come after it.
 */
async function writeLikeACopy(client: pg.Client, rows: number): Promise<void> {
  const kilobytes = Math.ceil((rows * WAL_BYTES_A_ROW) / 1_024);
  await client.query(
    'CREATE TABLE like_a_copy AS SELECT n, repeat(md5(n::text), 31) FROM generate_series(1, $1::int) n',
    [kilobytes],
  );
  await client.query('DROP TABLE like_a_copy');
  await client.query('CHECKPOINT');
}

/** An empty database on green, and a blue without anything that a run has left: each run begins alike. */
export async function freshStart({ blue, green }: Servers): Promise<void> {
  await dropSubscriptions(green);
  await withClient(green.uri(), async (client) => {
    await client.query(`DROP DATABASE IF EXISTS ${ident(BENCH_DATABASE)} WITH (FORCE)`);
    await createDatabase(client);
    await client.query('CHECKPOINT');
  });
  await withClient(blue.uri(BENCH_DATABASE), async (client) => {
    await dropSlots(client);
    const publications = await client.query<{ name: string }>('SELECT pubname AS name FROM pg_publication');
    for (const { name } of publications.rows) await client.query(`DROP PUBLICATION ${ident(name)}`);
    await client.query('DROP SCHEMA IF EXISTS verdigris CASCADE');
    await client.query('CHECKPOINT');
  });
}

async function createDatabase(client: pg.Client): Promise<void> {
  await client.query(`CREATE DATABASE ${ident(BENCH_DATABASE)} TEMPLATE template0 ENCODING 'UTF8'`);
}

async function dropSubscriptions(green: EmbeddedPostgres): Promise<void> {
  const there = await withClient(green.uri(), (client) =>
    client.query(`SELECT FROM pg_database WHERE datname = ${literal(BENCH_DATABASE)}`),
  );
  if (there.rowCount === 0) return;
  await withClient(green.uri(BENCH_DATABASE), async (client) => {
    const { rows } = await client.query<{ name: string }>(
      `SELECT subname AS name FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
        WHERE d.datname = current_database()`,
    );
    for (const name of rows.map((row) => ident(row.name))) {
      // Without its slot, which dropSlots() takes: DROP SUBSCRIPTION would wait for blue.
      await client.query(`ALTER SUBSCRIPTION ${name} DISABLE`);
      await client.query(`ALTER SUBSCRIPTION ${name} SET (slot_name = NONE)`);
      await client.query(`DROP SUBSCRIPTION ${name}`);
    }
  });
}

async function dropSlots(client: pg.Client): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const { rows } = await client.query<{ name: string; pid: number | null }>(
      `SELECT slot_name AS name, active_pid AS pid FROM pg_replication_slots`,
    );
    if (rows.length === 0) return;
    for (const { name, pid } of rows) {
      if (pid === null) await client.query('SELECT pg_drop_replication_slot($1)', [name]);
      else await client.query('SELECT pg_terminate_backend($1)', [pid]);
    }
    if (attempt > 50) throw new Error(`the replication slot ${rows[0]?.name} of blue can't be dropped`);
    await sleep(100);
  }
}

/** A session for a piece of the benchmark's own work. */
export async function withClient<T>(uri: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: uri });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
