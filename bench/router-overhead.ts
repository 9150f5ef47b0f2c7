import { writeFile } from 'node:fs/promises';
import pg from 'pg';
import { startPostgres, type EmbeddedPostgres } from '../src/embedded/postgres-server.js';
import { openSession, type Database } from '../src/postgres/session.js';
import { installState } from '../src/postgres/state.js';
import type { Router } from '../src/router/index.js';
import { compiledRouter } from './compiled-router.js';

/*
 * What the router costs beside a plain pg.Pool: the same statements on the same server in the same process, with the
 * same number of callers and connections, in short rounds by turns (pool, router, router, pool, ...), so that a slower
 * moment of the machine is one of both. What is compared is the median of the rounds' pairs. CPU is that of this
 * process alone: what is left when the machine has other things to do.
 *
 * Blue and green are two databases of one PostgreSQL 18 without replication: reads on green would have nothing to wait
 * for, so they are not measured here.
 *
 *   npx tsx bench/router-overhead.ts [--seconds 1] [--rounds 10] [--callers 8] [--connections 8] [--only read] [--json FILE]
 */

/** At most so much may be lost, of throughput and of time a query. */
const TARGET = { throughput: 0.97, microseconds: 50 };

type Contender = 'pool' | 'router';

interface Measured {
  readonly perSecond: number;
  readonly cpuMicroseconds: number;
  readonly p50: number;
  readonly p99: number;
}

/** One request of a caller. */
type Request = (caller: number) => Promise<unknown>;

const ONE = 'SELECT 1';
const READ = { name: 'read', text: 'SELECT value FROM item WHERE id = $1' };
const WRITE = { name: 'write', text: 'UPDATE item SET value = value + 1 WHERE id = $1' };
const IN_READ = { endpoint: 'GET /item' };
const IN_WRITE = { endpoint: 'PUT /item' };

const seconds = Number(option('--seconds') ?? 1);
const rounds = Number(option('--rounds') ?? 10);
const callers = Number(option('--callers') ?? 8);
const connections = Number(option('--connections') ?? callers);
const only = option('--only');

function option(name: string): string | undefined {
  const at = process.argv.indexOf(name);
  return at === -1 ? undefined : process.argv[at + 1];
}

/** Calls `request` from several callers at once for a while. */
async function measure(request: Request): Promise<Measured> {
  const latencies: number[] = [];
  const cpu = process.cpuUsage();
  const started = performance.now();
  const end = started + seconds * 1_000;
  const caller = async (n: number): Promise<void> => {
    for (let sent = performance.now(); sent < end;) {
      await request(n);
      const answered = performance.now();
      latencies.push(answered - sent);
      sent = answered;
    }
  };
  await Promise.all(Array.from({ length: callers }, (_, n) => caller(n)));
  const elapsed = (performance.now() - started) / 1_000;
  const { user, system } = process.cpuUsage(cpu);
  latencies.sort((a, b) => a - b);
  const quantile = (q: number): number => (latencies[Math.floor(q * latencies.length)] ?? 0) * 1_000;
  return {
    perSecond: latencies.length / elapsed,
    cpuMicroseconds: (user + system) / latencies.length,
    p50: quantile(0.5),
    p99: quantile(0.99),
  };
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

function workloads(pool: pg.Pool, router: Router): Record<string, Record<Contender, Request>> {
  return {
    'select 1': {
      pool: () => pool.query(ONE),
      router: (n) => router.read(`user-${n}`, ONE),
    },
    read: {
      pool: (n) => pool.query({ ...READ, values: [n + 1] }),
      router: (n) => router.read(`user-${n}`, { ...READ, values: [n + 1] }, undefined, IN_READ),
    },
    write: {
      pool: (n) => pool.query({ ...WRITE, values: [n + 1] }),
      router: (n) => router.write(`user-${n}`, { ...WRITE, values: [n + 1] }, undefined, IN_WRITE),
    },
    transaction: {
      pool: (n) => inPool(pool, n + 1),
      router: (n) => router.transaction(`user-${n}`, IN_WRITE, (tx) => tx.query({ ...WRITE, values: [n + 1] })),
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

interface Compared {
  readonly workload: string;
  readonly pool: Measured;
  readonly router: Measured;
  /** Of the router's throughput to the pool's, and of its time to the pool's, the median of the pairs. */
  readonly throughput: number;
  readonly moreCpuMicroseconds: number;
  readonly moreMicroseconds: number;
}

/** Rounds by turns, the first of which warms up. */
async function compare(workload: string, requests: Record<Contender, Request>): Promise<Compared> {
  const results: Record<Contender, Measured[]> = { pool: [], router: [] };
  for (let round = 0; round <= rounds; round++) {
    const order = round % 2 === 0 ? (['pool', 'router'] as const) : (['router', 'pool'] as const);
    for (const contender of order) {
      const measured = await measure(requests[contender]);
      if (round > 0) results[contender].push(measured);
    }
  }
  const pairs = results.pool.flatMap((pool, n) => {
    const router = results.router[n];
    return router === undefined ? [] : [{ pool, router }];
  });
  return {
    workload,
    pool: middle(results.pool),
    router: middle(results.router),
    throughput: median(pairs.map(({ pool, router }) => router.perSecond / pool.perSecond)),
    moreCpuMicroseconds: median(pairs.map(({ pool, router }) => router.cpuMicroseconds - pool.cpuMicroseconds)),
    moreMicroseconds: median(pairs.map(({ pool, router }) => router.p50 - pool.p50)),
  };
}

function middle(all: readonly Measured[]): Measured {
  const of = (value: (one: Measured) => number): number => median(all.map(value));
  return {
    perSecond: of((one) => one.perSecond),
    cpuMicroseconds: of((one) => one.cpuMicroseconds),
    p50: of((one) => one.p50),
    p99: of((one) => one.p99),
  };
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0;
}

function show({ workload, pool, router, throughput, moreCpuMicroseconds, moreMicroseconds }: Compared): void {
  for (const [name, one] of [
    ['pool', pool],
    ['router', router],
  ] as const) {
    const { perSecond, cpuMicroseconds, p50, p99 } = one;
    console.log(
      `${workload.padEnd(12)} ${name.padEnd(7)} ${perSecond.toFixed(0).padStart(7)}/s  cpu ${cpuMicroseconds.toFixed(1)} us  p50 ${p50.toFixed(0)} us  p99 ${p99.toFixed(0)} us`,
    );
  }
  const met = throughput >= TARGET.throughput && moreMicroseconds <= TARGET.microseconds;
  console.log(
    `${workload.padEnd(12)} ${(throughput * 100).toFixed(1)} % of the throughput, ${signed(moreCpuMicroseconds)} us of CPU, ${signed(moreMicroseconds)} us a query: ${met ? 'within' : 'MISSES'} the target\n`,
  );
}

function signed(n: number): string {
  return `${n < 0 ? '-' : '+'}${Math.abs(n).toFixed(1)}`;
}

const server = await startPostgres({ version: 18, name: 'bench-router' });
try {
  const configs = await prepare(server);
  const pool = new pg.Pool({ ...configs.blue, max: connections });
  const { createRouter } = await compiledRouter();
  const router = createRouter({
    migration: 'bench',
    blue: { ...configs.blue, max: connections },
    green: { ...configs.green, max: connections },
  });
  await router.ready();
  console.log(`${callers} callers, ${connections} connections, ${rounds} pairs of ${seconds} s\n`);
  const all: Compared[] = [];
  for (const [name, requests] of Object.entries(workloads(pool, router))) {
    if (only !== undefined && only !== name) continue;
    const compared = await compare(name, requests);
    show(compared);
    all.push(compared);
  }
  await router.close();
  await pool.end();
  const file = option('--json');
  if (file !== undefined) await writeFile(file, `${JSON.stringify({ callers, connections, rounds, all }, null, 2)}\n`);
} finally {
  await server.stop();
}
