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
import { LoadMeter } from '../src/postgres/load.js';
import { measureLag } from '../src/postgres/marker.js';
import { backfillTables, type BackfillOptions } from '../src/postgres/migrate/backfill.js';
import { expandTable } from '../src/postgres/migrate/expand-table.js';
import { planWork } from '../src/postgres/migrate/plan-work.js';
import { runStep } from '../src/postgres/migrate/run-step.js';
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
 * the whole step: the new column, what keeps it filled, the rows, and NOT NULL, which the plain UPDATE can't set while
 * the application leaves it NULL in its rows. Then the rate without a writer at growing sizes.
 *
 * Of Verdigris it is what its activities do, with the markers by which they measure the lag; but both sides are one
 * database, so nothing is ever behind, and there is neither Temporal nor a worker.
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
  /** Rows of the start that it left without a value. */
  readonly missing: number;
  /** Whether the column is NOT NULL at the end, as it was asked for. */
  readonly notNull: boolean;
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
    const { beside, after } = await prepare(contender, server, database, options);
    const measured = await besideWriter(server.uri(database), options, beside);
    const since = performance.now();
    await after?.();
    const seconds = measured.seconds + (after === undefined ? 0 : (performance.now() - since) / 1_000);
    const table = await onServer(server, database, (client) => lookAt(client, options.rows));
    if (!table.notNull && contender !== 'plain UPDATE') throw new Error('the column is not NOT NULL at the end');
    return {
      contender,
      rows: options.rows,
      ...measured,
      seconds,
      rowsPerSecond: Math.round(options.rows / seconds),
      ...table,
    };
  });
}

async function lookAt(client: pg.Client, rows: number): Promise<Pick<BackfillRun, 'missing' | 'notNull' | 'bytes'>> {
  const { rows: found } = await client.query<{ missing: string; notNull: boolean; bytes: string }>(
    `SELECT (SELECT count(*) FROM public.transactions WHERE metadata IS NULL AND id <= $1) AS missing,
            attnotnull AS "notNull", pg_total_relation_size(attrelid) AS bytes
       FROM pg_attribute WHERE attrelid = 'public.transactions'::regclass AND attname = 'metadata'`,
    [rows],
  );
  const [table] = found;
  if (table === undefined) throw new Error('the table has no column metadata at the end');
  return { missing: Number(table.missing), notNull: table.notNull, bytes: Number(table.bytes) };
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
    const { beside: run } = await prepareVerdigris(server, database, lanes);
    const start = performance.now();
    await run();
    return { rows, rowsPerSecond: Math.round((rows * 1_000) / (performance.now() - start)) };
  });
}

/** What is measured of a contender. */
interface Prepared {
  /** Beside the application. */
  readonly beside: () => Promise<void>;
  /** What an application that writes as before has to be gone for: its time counts, too. */
  readonly after?: () => Promise<void>;
}

/** Does what comes before the application is started, and returns what is measured. */
async function prepare(
  contender: BackfillContender,
  server: EmbeddedPostgres,
  database: string,
  options: BackfillBenchOptions,
): Promise<Prepared> {
  if (contender === 'verdigris') return prepareVerdigris(server, database, options.lanes);
  if (contender === 'pgroll') return preparePgroll(server, database, options);
  const update = async (client: pg.Client): Promise<void> => {
    await client.query('ALTER TABLE public.transactions ADD COLUMN metadata jsonb');
    for (let id = 0; id < options.rows; id += 50_000) {
      await client.query(
        `UPDATE public.transactions SET metadata = ${UP} WHERE id > ${id} AND id <= ${id + 50_000} AND metadata IS NULL`,
      );
    }
  };
  return { beside: () => onServer(server, database, update) };
}

async function prepareVerdigris(server: EmbeddedPostgres, name: string, lanes: number): Promise<Prepared> {
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
  const { tables, steps } = await planWork(plan);
  const session = await openSession(database, { purpose: 'bench' });
  await installState(session, 'green');
  const context: StepContext = {
    runId: 'bench',
    session,
    connect: (purpose) => openSession(database, { purpose }),
    signal: new AbortController().signal,
    onProgress: () => undefined,
  };
  // Both sides are this database: the markers and the look at the load cost what they cost.
  const blue = await openSession(database, { purpose: 'bench lag' });
  const green = await openSession(database, { purpose: 'bench lag' });
  let own = 0;
  const load = new LoadMeter({ blue, green }, () => own);
  const options: BackfillOptions = {
    ...{ batchMs: 250, parallel: lanes, maxLagSeconds: 5 },
    lagSeconds: async () => (await measureLag(blue, green, 'to_green', 60_000)) / 1_000,
    pauseAbove: { load: () => load.measure() },
    onTransaction: () => {
      own += 1;
    },
  };
  const beside = async (): Promise<void> => {
    try {
      for (const table of tables) await expandTable(context, table);
      await backfillTables(context, tables, options);
      for (const step of steps) await runStep(context, step);
    } finally {
      for (const each of [session, blue, green]) await closeSession(each);
    }
  };
  return { beside };
}

async function preparePgroll(
  server: EmbeddedPostgres,
  database: string,
  options: BackfillBenchOptions,
): Promise<Prepared> {
  const { pgroll: binary = '', signal = new AbortController().signal } = options;
  const uri = `${server.uri(database)}?sslmode=disable`;
  const pgroll = async (...args: string[]): Promise<void> => {
    await runProgram(binary, [...args, '--postgres-url', uri], { signal, watched: false });
  };
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
  return {
    beside: () => pgroll('start', file).finally(remove),
    // It ends the old shape of the table by design, and with it the writes of whoever does not know the column.
    after: () => pgroll('complete'),
  };
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
  return `${run.contender.padEnd(12)} ${String(run.rowsPerSecond).padStart(7)} rows/s, writer p50/p99/max ms before ${ms(run.before)}, during ${ms(run.during)} (${run.during.transactions} transactions, ${run.during.failed} failed), ${run.missing} rows left NULL, ${run.notNull ? 'NOT NULL' : 'nullable'}, ${Math.round(run.bytes / 1024 / 1024)} MiB`;
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
