import { writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { feedName } from '../../src/postgres/feed.js';
import { ident, literal } from '../../src/postgres/identifier.js';
import { openSession, type Database } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import type { Router } from '../../src/router/index.js';
import type { Side } from '../../src/side.js';
import { compiledRouter } from '../compiled-router.js';
import { exitCodeOf } from '../data/options.js';
import { median } from '../data/statistics.js';
import { overBothOrders } from './both-orders.js';
import { routerOptions, type RouterBenchOptions } from './options.js';
import { verdictOf, WORKLOADS, type Overhead, type Workload } from './targets.js';

/*
 * What the router costs beside a plain pg.Pool: the same statements on the same server in the same process, with the
 * same number of callers and connections, in short rounds by turns (pool, router, router, pool, ...), so that a slower
 * moment of the machine is one of both. What is compared is the median over two pairs each, one in each order. CPU is that of this
 * process alone: what is left when the machine has other things to do.
 *
 * Blue and green are two PostgreSQL 18, and green follows blue: reads on green are beside a pool to green.
 */

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

/** Calls `request` from several callers at once for a while. */
async function measure(request: Request, { seconds, callers }: RouterBenchOptions): Promise<Measured> {
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

interface Contenders {
  readonly pools: Readonly<Record<Side, pg.Pool>>;
  /** Of users who read blue. */
  readonly onBlue: Router;
  readonly onGreen: Readonly<Record<'session' | 'strict', Router>>;
}

function workloads({ pools, onBlue, onGreen }: Contenders): Record<Workload, Record<Contender, Request>> {
  const read = (pool: pg.Pool, router: Router): Record<Contender, Request> => ({
    pool: (n) => pool.query({ ...READ, values: [n + 1] }),
    router: (n) => router.read(`user-${n}`, { ...READ, values: [n + 1] }, undefined, IN_READ),
  });
  return {
    'select 1': {
      pool: () => pools.blue.query(ONE),
      router: (n) => onBlue.read(`user-${n}`, ONE),
    },
    read: read(pools.blue, onBlue),
    write: {
      pool: (n) => pools.blue.query({ ...WRITE, values: [n + 1] }),
      router: (n) => onBlue.write(`user-${n}`, { ...WRITE, values: [n + 1] }, undefined, IN_WRITE),
    },
    transaction: {
      pool: (n) => inPool(pools.blue, n + 1),
      router: (n) => onBlue.transaction(`user-${n}`, IN_WRITE, (tx) => tx.query({ ...WRITE, values: [n + 1] })),
    },
    'session on green': read(pools.green, onGreen.session),
    'strict on green': read(pools.green, onGreen.strict),
  };
}

/** The run of users who all read green. */
const GREEN_RUN = 'bench-green';

async function prepare(servers: Readonly<Record<Side, EmbeddedPostgres>>): Promise<Record<Side, pg.ClientConfig>> {
  const configOf = ({ port, password }: EmbeddedPostgres): pg.ClientConfig => ({
    ...{ host: '127.0.0.1', port, user: 'postgres', password, database: 'postgres' },
  });
  const configs = { blue: configOf(servers.blue), green: configOf(servers.green) };
  const feed = feedName(GREEN_RUN, 'to_green');
  for (const side of ['blue', 'green'] as const) {
    const database: Database = { side, connection: side, config: configs[side], peerConninfo: '' };
    const session = await openSession(database, { purpose: 'bench' });
    await installState(session, side);
    await session.query('CREATE TABLE public.item (id int PRIMARY KEY, value int NOT NULL)');
    if (side === 'blue') {
      await session.query('INSERT INTO public.item SELECT g, 0 FROM generate_series(1, 1000) g');
      await session.query(`CREATE PUBLICATION ${ident(feed)} FOR TABLE public.item`);
    } else {
      const { port, password } = servers.blue;
      const from = `host=127.0.0.1 port=${port} user=postgres password=${password} dbname=postgres`;
      await session.query(`CREATE SUBSCRIPTION ${ident(feed)} CONNECTION ${literal(from)} PUBLICATION ${ident(feed)}`);
    }
    const run = [GREEN_RUN, GREEN_RUN, side];
    await session.query(`INSERT INTO verdigris.owner (run_id, migration, side) VALUES ($1, $2, $3)`, run);
    await session.query(`INSERT INTO verdigris.route (migration) VALUES ('bench')`);
    await session.query(`INSERT INTO verdigris.route (migration, green_read_percent) VALUES ($1, 100)`, [GREEN_RUN]);
    await session.end();
  }
  return configs;
}

/** Waits until green has blue's rows and a user's read is answered there. */
async function followed(router: Router): Promise<void> {
  for (const deadline = Date.now() + 30_000; Date.now() < deadline; await sleep(50)) {
    const { side, rowCount } = await router.read('user-0', { ...READ, values: [1] });
    if (side === 'green' && rowCount === 1) return;
  }
  throw new Error('green never followed blue');
}

interface Compared extends Overhead {
  readonly pool: Measured;
  readonly router: Measured;
  readonly moreCpuMicroseconds: number;
}

/** Rounds by turns, the first of which warms up. */
async function compare(
  workload: Workload,
  requests: Record<Contender, Request>,
  options: RouterBenchOptions,
): Promise<Compared> {
  const results: Record<Contender, Measured[]> = { pool: [], router: [] };
  for (let round = 0; round <= options.rounds; round++) {
    const order = round % 2 === 0 ? (['pool', 'router'] as const) : (['router', 'pool'] as const);
    for (const contender of order) {
      const measured = await measure(requests[contender], options);
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
    throughput:
      overBothOrders(
        pairs,
        (one) => one.perSecond,
        (router, pool) => router / pool,
      ) ?? 0,
    moreCpuMicroseconds: overBothOrders(pairs, (one) => one.cpuMicroseconds, difference) ?? 0,
    moreMicroseconds: overBothOrders(pairs, (one) => one.p50, difference) ?? 0,
  };
}

function middle(all: readonly Measured[]): Measured {
  const of = (value: (one: Measured) => number): number => median(all.map(value)) ?? 0;
  return {
    perSecond: of((one) => one.perSecond),
    cpuMicroseconds: of((one) => one.cpuMicroseconds),
    p50: of((one) => one.p50),
    p99: of((one) => one.p99),
  };
}

function difference(router: number, pool: number): number {
  return router - pool;
}

function show(compared: Compared): void {
  const { workload, pool, router, throughput, moreCpuMicroseconds, moreMicroseconds } = compared;
  for (const [name, one] of [
    ['pool', pool],
    ['router', router],
  ] as const) {
    const { perSecond, cpuMicroseconds, p50, p99 } = one;
    console.log(
      `${workload.padEnd(16)} ${name.padEnd(7)} ${perSecond.toFixed(0).padStart(7)}/s  cpu ${cpuMicroseconds.toFixed(1)} us  p50 ${p50.toFixed(0)} us  p99 ${p99.toFixed(0)} us`,
    );
  }
  console.log(
    `${workload.padEnd(16)} ${(throughput * 100).toFixed(1)} % of the throughput, ${signed(moreCpuMicroseconds)} us of CPU, ${signed(moreMicroseconds)} us a query: ${verdictOf(compared)}\n`,
  );
}

function signed(n: number): string {
  return `${n < 0 ? '-' : '+'}${Math.abs(n).toFixed(1)}`;
}

/** `npm run bench -- router`: the exit code is 0 when it could measure. A request that fails ends it; a missed target is printed. */
export async function routerBenchmark(args: readonly string[]): Promise<number> {
  let options: RouterBenchOptions;
  try {
    options = routerOptions(args);
  } catch (error) {
    const code = exitCodeOf(error);
    if (code === undefined) throw error;
    return code;
  }
  const blue = await startPostgres({ version: 18, name: 'bench-router-blue' });
  const green = await startPostgres({ version: 18, name: 'bench-router-green' });
  try {
    const compared = await compareAll(await prepare({ blue, green }), options);
    if (options.json !== undefined) {
      await writeFile(options.json, `${JSON.stringify({ ...options, all: compared }, null, 2)}\n`);
    }
    return 0;
  } finally {
    await Promise.all([green.stop(), blue.stop()]);
  }
}

async function compareAll(configs: Record<Side, pg.ClientConfig>, options: RouterBenchOptions): Promise<Compared[]> {
  const { callers, connections: max, rounds, seconds, only } = options;
  const sides = { blue: { ...configs.blue, max }, green: { ...configs.green, max } };
  // No read is blue's after all, however slow a moment is.
  const catchUpBudgetMs = 1_000;
  const { createRouter } = await compiledRouter();
  const contenders = {
    pools: { blue: new pg.Pool(sides.blue), green: new pg.Pool(sides.green) },
    onBlue: createRouter({ migration: 'bench', ...sides }),
    onGreen: {
      session: createRouter({ migration: GREEN_RUN, consistency: 'session', catchUpBudgetMs, ...sides }),
      strict: createRouter({ migration: GREEN_RUN, catchUpBudgetMs, ...sides }),
    },
  };
  const routers = [contenders.onBlue, ...Object.values(contenders.onGreen)];
  try {
    await Promise.all(routers.map((router) => router.ready()));
    await Promise.all(Object.values(contenders.onGreen).map(followed));
    console.log(`${callers} callers, ${max} connections, ${rounds} pairs of ${seconds} s\n`);
    const requests = workloads(contenders);
    const all: Compared[] = [];
    for (const name of WORKLOADS) {
      if (only !== undefined && only !== name) continue;
      const compared = await compare(name, requests[name], options);
      show(compared);
      all.push(compared);
    }
    return all;
  } finally {
    await Promise.all(routers.map((router) => router.close()));
    await Promise.all(Object.values(contenders.pools).map((pool) => pool.end()));
  }
}
