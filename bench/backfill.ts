import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import pg from 'pg';
import { startPostgres, type EmbeddedPostgres } from '../src/embedded/postgres-server.js';
import { planSchema } from '../src/plan/schema.js';
import { backfillTables } from '../src/postgres/migrate/backfill.js';
import { expandTable } from '../src/postgres/migrate/expand-table.js';
import { planWork } from '../src/postgres/migrate/plan-work.js';
import type { StepContext } from '../src/postgres/migrate/step-context.js';
import { closeSession, openSession, type Database } from '../src/postgres/session.js';
import { installState } from '../src/postgres/state.js';
import type { WriterSample } from './backfill-writer.js';
import { countOption, parseCount } from './data/options.js';
import { runProgram } from './data/program.js';

/*
 * Filling a new column of a live table: Verdigris, a plain batched UPDATE (50,000 ids each, autocommit) and pgroll (the
 * binary that PGROLL_BIN names), in turn on the same server, each on a fresh copy of the same rows, while an application
 * writes 500 transactions a second. The column is `metadata jsonb NOT NULL`, computed from three others. Times are of
 * the whole step: the new column, what keeps it filled, and the rows. Then the rate without a writer at growing sizes.
 *
 *   npx tsx bench/backfill.ts --rows 1M --rounds 3 --sizes none
 *   npx tsx bench/backfill.ts --no-writer --rounds 1 --sizes 1M,5M,20M
 */

const UP = `jsonb_build_object('status', status, 'currency', currency, 'channel', payload::jsonb ->> 'channel')`;

const CONTENDERS = ['verdigris', 'plain UPDATE', 'pgroll'] as const;
export type BackfillContender = (typeof CONTENDERS)[number];

export interface BackfillBenchOptions {
  /** Rows of the table with the writer. */
  readonly rows: number;
  readonly rounds: number;
  /** Whether to measure beside the writer. Default true. */
  readonly live?: boolean;
  /** `backfill.parallel`. */
  readonly lanes: number;
  /** Sizes at which the rate is measured without a writer. */
  readonly sizes: readonly number[];
  readonly writesPerSecond: number;
  /** Path of pgroll's binary, a relative one as from here; left out without it, or when it is empty. */
  readonly pgroll?: string | undefined;
  /** Ends another tool that is running. Default: nothing does. */
  readonly signal?: AbortSignal;
  readonly log: (line: string) => void;
}

export interface WriterLatency {
  readonly transactions: number;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  readonly failed: number;
}

export interface BackfillRun {
  readonly contender: BackfillContender;
  readonly rows: number;
  readonly seconds: number;
  readonly rowsPerSecond: number;
  readonly before: WriterLatency;
  readonly during: WriterLatency;
  /** Rows that it left without a value. */
  readonly missing: number;
  readonly bytes: number;
}

export interface GrowthRun {
  readonly rows: number;
  readonly rowsPerSecond: number;
}

export interface BackfillBenchmark {
  readonly live: readonly BackfillRun[];
  readonly growth: readonly GrowthRun[];
  /** Why a contender is missing. */
  readonly leftOut: readonly string[];
}

/**
 * Runs the whole benchmark on a server of its own; nothing is left behind. A contender beside Verdigris that fails is left
 * out of the later rounds, and takes no figure of the others with it.
 */
export async function benchBackfill(options: BackfillBenchOptions): Promise<BackfillBenchmark> {
  const server = await startPostgres({
    version: 18,
    name: 'bench-backfill',
    settings: { shared_buffers: '1GB', max_wal_size: '8GB' },
  });
  try {
    const leftOut = new Map<BackfillContender, string>();
    const leaveOut = (contender: BackfillContender, why: string): void => {
      leftOut.set(contender, `${contender} is left out: ${why}`);
      options.log(`${contender} is left out: ${why}`);
    };
    if ((options.pgroll ?? '') === '') leaveOut('pgroll', 'set PGROLL_BIN to its binary');
    const live: BackfillRun[] = [];
    const liveRounds = options.live === false ? 0 : options.rounds;
    if (liveRounds > 0) await makeSeed(server, options.rows);
    for (let round = 0; round < liveRounds; round++) {
      // Another order in each round: whoever comes first meets another server.
      for (const contender of round % 2 === 0 ? CONTENDERS : [...CONTENDERS].reverse()) {
        if (leftOut.has(contender)) continue;
        try {
          const run = await liveRun(server, contender, options);
          live.push(run);
          options.log(describeLive(run));
        } catch (error) {
          if (contender === 'verdigris' || options.signal?.aborted === true) throw error;
          leaveOut(contender, error instanceof Error ? error.message : String(error));
        }
      }
    }
    const growth: GrowthRun[] = [];
    for (const rows of options.sizes) await makeSeed(server, rows);
    for (let round = 0; round < options.rounds && options.sizes.length > 0; round++) {
      for (const rows of round % 2 === 0 ? options.sizes : [...options.sizes].reverse()) {
        const run = await growthRun(server, rows, options.lanes);
        growth.push(run);
        options.log(`${rows} rows without a writer: ${run.rowsPerSecond} rows/s`);
      }
    }
    return { live, growth, leftOut: [...leftOut.values()] };
  } finally {
    await server.stop();
  }
}

/** The seed's table in a database of its own, from which each run has its copy. */
async function makeSeed(server: EmbeddedPostgres, rows: number): Promise<void> {
  const name = `seed_${rows}`;
  await onServer(server, 'postgres', async (client) => {
    const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [name]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${name}`);
  });
  await onServer(server, name, async (client) => {
    await client.query(
      `CREATE TABLE IF NOT EXISTS public.transactions (
         id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, user_id bigint NOT NULL, amount numeric(12,2) NOT NULL,
         currency varchar(3) NOT NULL, status varchar(20) NOT NULL, payload varchar,
         created_at timestamp NOT NULL DEFAULT now())`,
    );
    if ((await client.query('SELECT FROM public.transactions LIMIT 1')).rowCount === 1) return;
    await client.query(
      `INSERT INTO public.transactions (user_id, amount, currency, status, payload)
       SELECT n % 200000, (n % 100000) / 100.0, (ARRAY['EUR', 'USD', 'GBP'])[1 + n % 3],
              (ARRAY['pending', 'paid', 'failed', 'refunded'])[1 + n % 4],
              '{"channel": "' || (ARRAY['web', 'app', 'shop'])[1 + n % 3] || '", "cart": ' || n || '}'
         FROM generate_series(1, ${rows}) n`,
    );
    await client.query('VACUUM ANALYZE public.transactions');
  });
}

async function onCopy<T>(server: EmbeddedPostgres, rows: number, work: (database: string) => Promise<T>): Promise<T> {
  const database = 'bench_backfill';
  const drop = `DROP DATABASE IF EXISTS ${database} WITH (FORCE)`;
  await onServer(server, 'postgres', async (client) => {
    await client.query(drop);
    await client.query(`CREATE DATABASE ${database} TEMPLATE seed_${rows} STRATEGY file_copy`);
    await client.query('CHECKPOINT');
  });
  try {
    return await work(database);
  } finally {
    await onServer(server, 'postgres', (client) => client.query(drop));
  }
}

async function liveRun(
  server: EmbeddedPostgres,
  contender: BackfillContender,
  options: BackfillBenchOptions,
): Promise<BackfillRun> {
  return onCopy(server, options.rows, async (database) => {
    const prepared = await prepare(contender, server, database, options);
    const { seconds, before, during } = await besideWriter(server.uri(database), options, prepared);
    const after = await onServer(server, database, async (client) => {
      const { rows } = await client.query<{ missing: string; bytes: string }>(
        `SELECT count(*) FILTER (WHERE id <= ${options.rows}) AS missing, pg_total_relation_size('public.transactions') AS bytes
           FROM public.transactions WHERE ${contender === 'pgroll' ? '_pgroll_new_metadata' : 'metadata'} IS NULL`,
      );
      return rows[0];
    });
    return {
      contender,
      rows: options.rows,
      seconds,
      rowsPerSecond: Math.round(options.rows / seconds),
      before,
      during,
      missing: Number(after?.missing ?? 0),
      bytes: Number(after?.bytes ?? 0),
    };
  });
}

/** Does the work while the application writes, and ends the application whatever becomes of it: its database is dropped next. */
async function besideWriter(
  uri: string,
  options: BackfillBenchOptions,
  work: () => Promise<void>,
): Promise<Pick<BackfillRun, 'seconds' | 'before' | 'during'>> {
  const writer = startWriter(uri, options);
  try {
    await sleep(6_000);
    const from = wallClock();
    await work();
    const to = wallClock();
    const samples = await writer.stop();
    return {
      seconds: (to - from) / 1_000,
      // The first seconds warm the writer's connections.
      before: latencyOf(samples.filter(([due]) => due >= from - 4_000 && due < from)),
      during: latencyOf(samples.filter(([due]) => due >= from && due < to)),
    };
  } catch (error) {
    await writer.stop().catch(() => undefined);
    throw error;
  }
}

async function growthRun(server: EmbeddedPostgres, rows: number, lanes: number): Promise<GrowthRun> {
  return onCopy(server, rows, async (database) => {
    const run = await prepareVerdigris(server, database, lanes);
    const start = performance.now();
    await run();
    return { rows, rowsPerSecond: Math.round((rows * 1_000) / (performance.now() - start)) };
  });
}

/** Does what comes before the application is started, and returns what is measured. */
async function prepare(
  contender: BackfillContender,
  server: EmbeddedPostgres,
  database: string,
  options: BackfillBenchOptions,
): Promise<() => Promise<void>> {
  if (contender === 'verdigris') return prepareVerdigris(server, database, options.lanes);
  if (contender === 'pgroll') return preparePgroll(server, database, options);
  return () =>
    onServer(server, database, async (client) => {
      await client.query('ALTER TABLE public.transactions ADD COLUMN metadata jsonb');
      for (let id = 0; id < options.rows; id += 50_000) {
        await client.query(
          `UPDATE public.transactions SET metadata = ${UP} WHERE id > ${id} AND id <= ${id + 50_000} AND metadata IS NULL`,
        );
      }
    });
}

async function prepareVerdigris(server: EmbeddedPostgres, name: string, lanes: number): Promise<() => Promise<void>> {
  const database: Database = {
    side: 'green',
    connection: 'bench',
    config: { connectionString: server.uri(name) },
    peerConninfo: '',
  };
  const plan = planSchema.parse({
    name: 'bench',
    blue: { connection: 'bench' },
    green: { connection: 'bench' },
    migrations: [{ addColumn: { table: 'transactions', column: 'metadata', type: 'jsonb', up: UP, notNull: true } }],
  });
  const { tables } = await planWork(plan);
  const session = await openSession(database, { purpose: 'bench' });
  await installState(session, 'green');
  const context: StepContext = {
    runId: 'bench',
    session,
    connect: (purpose) => openSession(database, { purpose }),
    signal: new AbortController().signal,
    onProgress: () => undefined,
  };
  return async () => {
    try {
      for (const table of tables) await expandTable(context, table);
      const limits = { batchMs: 250, parallel: lanes, maxLagSeconds: 5, lagSeconds: () => Promise.resolve(0) };
      await backfillTables(context, tables, limits);
    } finally {
      await closeSession(session);
    }
  };
}

async function preparePgroll(
  server: EmbeddedPostgres,
  database: string,
  options: BackfillBenchOptions,
): Promise<() => Promise<void>> {
  const { pgroll: binary = '', signal = new AbortController().signal } = options;
  const uri = `${server.uri(database)}?sslmode=disable`;
  const pgroll = (...args: string[]): Promise<unknown> =>
    runProgram(binary, [...args, '--postgres-url', uri], { signal, watched: false });
  const column = { name: 'metadata', type: 'jsonb', nullable: false };
  const folder = mkdtempSync(join(tmpdir(), 'bench-pgroll-'));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  const file = join(folder, '01_add_metadata.json');
  try {
    await pgroll('init');
    await pgroll('baseline', '00_base', folder, '--yes');
    writeFileSync(file, JSON.stringify({ operations: [{ add_column: { table: 'transactions', up: UP, column } }] }));
  } catch (error) {
    remove();
    throw error;
  }
  return () =>
    pgroll('start', file)
      .then(() => undefined)
      .finally(remove);
}

function startWriter(uri: string, options: BackfillBenchOptions): { stop: () => Promise<WriterSample[]> } {
  const job = JSON.stringify({ uri, perSecond: options.writesPerSecond, rows: options.rows });
  const script = fileURLToPath(new URL('backfill-writer.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', script, job], { stdio: ['pipe', 'pipe', 'inherit'] });
  const printed = text(child.stdout);
  return {
    stop: async () => {
      child.stdin.end();
      const samples: unknown = JSON.parse(await printed);
      return isSamples(samples) ? samples : [];
    },
  };
}

function isSamples(value: unknown): value is WriterSample[] {
  return Array.isArray(value) && value.every((sample) => Array.isArray(sample) && typeof sample[0] === 'number');
}

function latencyOf(samples: readonly WriterSample[]): WriterLatency {
  const done = samples.filter(([, , failed]) => failed === undefined);
  const sorted = done.map(([, ms]) => ms).sort((a, b) => a - b);
  const quantile = (q: number): number => Number((sorted[Math.floor(q * sorted.length)] ?? 0).toFixed(2));
  return {
    transactions: samples.length,
    p50: quantile(0.5),
    p99: quantile(0.99),
    max: Number((sorted.at(-1) ?? 0).toFixed(2)),
    failed: samples.length - done.length,
  };
}

async function onServer<T>(
  server: EmbeddedPostgres,
  database: string,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({ connectionString: server.uri(database) });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

function wallClock(): number {
  return performance.timeOrigin + performance.now();
}

function describeLive(run: BackfillRun): string {
  const ms = ({ p50, p99, max }: WriterLatency): string => `${p50} / ${p99} / ${max}`;
  return `${run.contender.padEnd(12)} ${String(run.rowsPerSecond).padStart(7)} rows/s, writer p50/p99/max ms before ${ms(run.before)}, during ${ms(run.during)} (${run.during.transactions} transactions, ${run.during.failed} failed), ${run.missing} rows left NULL, ${Math.round(run.bytes / 1024 / 1024)} MiB`;
}

/** Sizes such as `1M,5M`; `none` is the empty choice. */
function sizesOption(): Option {
  return new Option('--sizes <list>', 'rows of the tables that are filled without a writer, or "none"')
    .default([1_000_000, 5_000_000], '1M,5M')
    .argParser((text: string) => (text === 'none' ? [] : text.split(',').map(parseCount)));
}

async function main(): Promise<void> {
  const { writer, json, rounds, ...options } = new Command('npx tsx bench/backfill.ts')
    .description('Measures the filling of a new column of a live table, and without a writer at growing sizes')
    .addOption(countOption('--rows <n>', 'rows of the table with the writer', 2_000_000))
    .addOption(countOption('--rounds <n>', 'how often each is measured', 2))
    .addOption(countOption('--lanes <n>', "the plan's backfill.parallel", 2))
    .addOption(sizesOption())
    .option('--no-writer', 'measure the growing sizes only')
    .option('--json <file>', 'write everything that was measured to this file as JSON')
    .parse()
    .opts<{ rows: number; rounds: number; lanes: number; sizes: number[]; writer: boolean; json?: string }>();
  const result = await benchBackfill({
    ...options,
    rounds,
    live: writer,
    writesPerSecond: 500,
    pgroll: process.env['PGROLL_BIN'],
    log: (line) => {
      console.log(line);
    },
  });
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(result, undefined, 2)}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
