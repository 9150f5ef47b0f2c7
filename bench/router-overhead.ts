import pg from 'pg';
import { startPostgres, type EmbeddedPostgres } from '../src/embedded/postgres-server.js';
import { openSession, type Database } from '../src/postgres/session.js';
import { installState } from '../src/postgres/state.js';
import { createRouter, type Router } from '../src/router/index.js';

/*
 * What the router costs beside a plain pg.Pool: the same statements, in turn on the same server in the same run, with
 * the same number of callers and connections. Blue and green are two databases of one PostgreSQL 18 without
 * replication: reads on green would have nothing to wait for, so they are not measured here.
 *
 *   npx tsx bench/router-overhead.ts [--seconds 3] [--rounds 5] [--callers 8]
 */

interface Measured {
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
}

const READ = { name: 'read', text: 'SELECT value FROM item WHERE id = $1' };
const WRITE = { name: 'write', text: 'UPDATE item SET value = value + 1 WHERE id = $1' };

const seconds = option('--seconds', 3);
const rounds = option('--rounds', 5);
const callers = option('--callers', 8);

function option(name: string, otherwise: number): number {
  const at = process.argv.indexOf(name);
  return at === -1 ? otherwise : Number(process.argv[at + 1]);
}

/** Calls `request` from several callers at once for a while. */
async function measure(request: (caller: number) => Promise<unknown>): Promise<Measured> {
  const latencies: number[] = [];
  const started = performance.now();
  const end = started + seconds * 1_000;
  const caller = async (n: number): Promise<void> => {
    while (performance.now() < end) {
      const sent = performance.now();
      await request(n);
      latencies.push(performance.now() - sent);
    }
  };
  await Promise.all(Array.from({ length: callers }, (_, n) => caller(n)));
  const elapsed = (performance.now() - started) / 1_000;
  latencies.sort((a, b) => a - b);
  const quantile = (q: number): number => latencies[Math.floor(q * latencies.length)] ?? 0;
  return { perSecond: latencies.length / elapsed, p50: quantile(0.5), p99: quantile(0.99) };
}

async function inPool(pool: pg.Pool, id: number): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    await client.query({ ...WRITE, values: [id] });
    await client.query('COMMIT');
  } finally {
    client.release();
  }
}

function workloads(
  pool: pg.Pool,
  router: Router,
): Record<string, Record<'pool' | 'router', (caller: number) => Promise<unknown>>> {
  return {
    read: {
      pool: (n) => pool.query({ ...READ, values: [n + 1] }),
      router: (n) => router.read(`user-${n}`, { ...READ, values: [n + 1] }, undefined, { endpoint: 'item' }),
    },
    write: {
      pool: (n) => pool.query({ ...WRITE, values: [n + 1] }),
      router: (n) => router.write(`user-${n}`, { ...WRITE, values: [n + 1] }, undefined, { endpoint: 'item' }),
    },
    transaction: {
      pool: (n) => inPool(pool, n + 1),
      router: (n) =>
        router.transaction(`user-${n}`, { endpoint: 'item' }, (tx) => tx.query({ ...WRITE, values: [n + 1] })),
    },
  };
}

async function prepare(server: EmbeddedPostgres): Promise<Record<'blue' | 'green', pg.ClientConfig>> {
  const config = { host: '127.0.0.1', port: server.port, user: 'postgres', password: server.password };
  const admin = new pg.Client({ ...config, database: 'postgres' });
  await admin.connect();
  await admin.query('CREATE DATABASE blue');
  await admin.query('CREATE DATABASE green');
  await admin.end();
  const configs = { blue: { ...config, database: 'blue' }, green: { ...config, database: 'green' } };
  for (const side of ['blue', 'green'] as const) {
    const database: Database = { side, connection: side, config: configs[side], peerConninfo: '' };
    const session = await openSession(database, { purpose: 'bench' });
    await installState(session, side);
    await session.query('CREATE TABLE public.item (id int PRIMARY KEY, value int NOT NULL)');
    await session.query('INSERT INTO public.item SELECT g, 0 FROM generate_series(1, 1000) g');
    await session.query("INSERT INTO verdigris.route (migration) VALUES ('bench')");
    await session.end();
  }
  return configs;
}

function median(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0;
}

function show(name: string, side: string, results: readonly Measured[]): number {
  const perSecond = median(results.map((r) => r.perSecond));
  const [p50, p99] = [median(results.map((r) => r.p50)), median(results.map((r) => r.p99))];
  console.log(
    `${name.padEnd(12)} ${side.padEnd(7)} ${perSecond.toFixed(0).padStart(7)}/s  p50 ${p50.toFixed(3)} ms  p99 ${p99.toFixed(3)} ms`,
  );
  return perSecond;
}

const server = await startPostgres({ version: 18, name: 'bench-router' });
try {
  const configs = await prepare(server);
  const pool = new pg.Pool({ ...configs.blue, max: callers });
  const router = createRouter({
    migration: 'bench',
    blue: { ...configs.blue, max: callers },
    green: { ...configs.green, max: callers },
  });
  await router.ready();
  for (const [name, requests] of Object.entries(workloads(pool, router))) {
    const results: Record<'pool' | 'router', Measured[]> = { pool: [], router: [] };
    // In turn, so that a slower minute of the machine is a slower minute of both; the first round warms up.
    for (let round = 0; round <= rounds; round++) {
      for (const side of ['pool', 'router'] as const) {
        const measured = await measure(requests[side]);
        if (round > 0) results[side].push(measured);
      }
    }
    const ratio = show(name, 'router', results.router) / show(name, 'pool', results.pool);
    console.log(`${name.padEnd(12)} router at ${(ratio * 100).toFixed(1)} % of the pool's throughput\n`);
  }
  await router.close();
  await pool.end();
} finally {
  await server.stop();
}
