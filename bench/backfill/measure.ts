import type pg from 'pg';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { withClient, type Servers } from '../data/servers.js';
import { orderOfRound } from '../data/statistics.js';
import { UP, type Prepared } from './change.js';
import { AS_A_RUN, CONTENDERS, IN_PLACE, isOwn, type BackfillContender } from './contenders.js';
import { refuseDifference, whileGreenFollows } from './following.js';
import { preparePgroll } from './pgroll.js';
import { databaseOf, makeSeed, onCopy } from './seed.js';
import { prepareInPlace, prepareVerdigris } from './verdigris.js';
import { besideWriter, type BesideWriter } from './writer.js';

/*
 * Filling a new column of a live table: Verdigris, a plain batched UPDATE (50,000 ids each, autocommit) and pgroll, in
 * turn, each on a fresh copy of the same rows, while an application writes 500 transactions a second. The column is
 * `metadata jsonb NOT NULL`, computed from three others. Times are of the whole step: the new column, what keeps it
 * filled, the rows, and NOT NULL, which the plain UPDATE can't set while the application leaves it NULL in its rows. Then
 * the rate without a writer at growing sizes.
 *
 * Of Verdigris it is what its activities do, without Temporal and a worker, in two places. As a run does it: green, on a
 * server of its own, has blue's rows and follows blue, on which the application writes; green is filled. And on the one
 * table on which the application writes, as pgroll and the plain UPDATE do it, each by its design.
 */

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

export interface BackfillRun extends BesideWriter {
  readonly contender: BackfillContender;
  readonly rows: number;
  readonly rowsPerSecond: number;
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
  /** Runs of Verdigris that have failed: who, and why. */
  readonly failed: readonly string[];
}

/**
 * Runs the whole benchmark on servers of its own; nothing is left behind. A contender that fails is left out of the later
 * rounds, and takes no figure of the others with it.
 */
export function benchBackfill(options: BackfillBenchOptions): Promise<BackfillBenchmark> {
  return onServer('blue', (blue) =>
    onServer('green', async (green) => {
      const live = await measureLive({ blue, green }, options);
      return { ...live, growth: await measureGrowth(blue, options) };
    }),
  );
}

/** Blue and green are alike; blue is the only one that contenders other than a run need. */
async function onServer<T>(name: string, work: (server: EmbeddedPostgres) => Promise<T>): Promise<T> {
  const server = await startPostgres({
    version: 18,
    name: `bench-backfill-${name}`,
    settings: { shared_buffers: '1GB', max_wal_size: '8GB' },
  });
  try {
    return await work(server);
  } finally {
    await server.stop();
  }
}

async function measureLive(
  servers: Servers,
  options: BackfillBenchOptions,
): Promise<Omit<BackfillBenchmark, 'growth'>> {
  const leftOut = new Map<BackfillContender, string>();
  const leaveOut = (contender: BackfillContender, why: string): void => {
    leftOut.set(contender, why);
    options.log(`${contender} is left out: ${why}`);
  };
  if ((options.pgroll ?? '') === '') leaveOut('pgroll', 'set PGROLL_BIN to its binary');
  const live: BackfillRun[] = [];
  const rounds = options.live === false ? 0 : options.rounds;
  if (rounds > 0) for (const server of [servers.blue, servers.green]) await makeSeed(server, options.rows);
  for (let round = 0; round < rounds; round++) {
    // Another order in each round: whoever comes first meets another server.
    for (const contender of orderOfRound(CONTENDERS, round)) {
      if (leftOut.has(contender)) continue;
      try {
        const run = await liveRun(servers, contender, options);
        live.push(run);
        options.log(describeLive(run));
      } catch (error) {
        if (options.signal?.aborted === true) throw error;
        leaveOut(contender, error instanceof Error ? error.message : String(error));
      }
    }
  }
  const missing = [...leftOut];
  return {
    live,
    leftOut: missing.map(([contender, why]) => `${contender} is left out: ${why}`),
    failed: missing.filter(([contender]) => isOwn(contender)).map(([contender, why]) => `${contender}: ${why}`),
  };
}

async function measureGrowth(server: EmbeddedPostgres, options: BackfillBenchOptions): Promise<readonly GrowthRun[]> {
  const { sizes, rounds, lanes, log } = options;
  const growth: GrowthRun[] = [];
  for (const rows of sizes) await makeSeed(server, rows);
  for (let round = 0; round < rounds && sizes.length > 0; round++) {
    for (const rows of round % 2 === 0 ? sizes : [...sizes].reverse()) {
      const run = await growthRun(server, rows, lanes);
      growth.push(run);
      log(`${rows} rows without a writer: ${run.rowsPerSecond} rows/s`);
    }
  }
  return growth;
}

function liveRun(
  { blue, green }: Servers,
  contender: BackfillContender,
  options: BackfillBenchOptions,
): Promise<BackfillRun> {
  return onCopy(blue, options.rows, async (name) => {
    const here = blue.uri(name);
    if (contender !== AS_A_RUN) {
      const prepared = await prepare(contender, blue, name, options);
      return measure(contender, { application: here, filled: here }, prepared, options);
    }
    return onCopy(green, options.rows, (there) => {
      const databases = { blue: databaseOf(blue, 'blue', name), green: databaseOf(green, 'green', there) };
      return whileGreenFollows(databases, async () => {
        const prepared = await prepareVerdigris(databases, options.lanes);
        const run = await measure(contender, { application: here, filled: green.uri(there) }, prepared, options);
        await refuseDifference(databases);
        return run;
      });
    });
  });
}

/** Does what comes before the application is started, and returns what is measured. */
async function prepare(
  contender: BackfillContender,
  server: EmbeddedPostgres,
  name: string,
  options: BackfillBenchOptions,
): Promise<Prepared> {
  if (contender === IN_PLACE) return prepareInPlace(databaseOf(server, 'green', name), options.lanes);
  if (contender === 'pgroll') return preparePgroll(options.pgroll ?? '', server.uri(name), options.signal);
  const update = async (client: pg.Client): Promise<void> => {
    await client.query('ALTER TABLE public.transactions ADD COLUMN metadata jsonb');
    for (let id = 0; id < options.rows; id += 50_000) {
      await client.query(
        `UPDATE public.transactions SET metadata = ${UP} WHERE id > ${id} AND id <= ${id + 50_000} AND metadata IS NULL`,
      );
    }
  };
  return { beside: () => withClient(server.uri(name), update) };
}

/** @param uri of the database on which the application writes, and of the one that is filled. */
async function measure(
  contender: BackfillContender,
  uri: { readonly application: string; readonly filled: string },
  { beside, after }: Prepared,
  options: BackfillBenchOptions,
): Promise<BackfillRun> {
  const measured = await besideWriter(uri.application, options, beside);
  const since = performance.now();
  await after?.();
  const seconds = measured.seconds + (after === undefined ? 0 : (performance.now() - since) / 1_000);
  const table = await withClient(uri.filled, (client) => lookAt(client, options.rows));
  if (!table.notNull && contender !== 'plain UPDATE') throw new Error('the column is not NOT NULL at the end');
  return {
    contender,
    rows: options.rows,
    ...measured,
    seconds,
    rowsPerSecond: Math.round(options.rows / seconds),
    ...table,
  };
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

async function growthRun(server: EmbeddedPostgres, rows: number, lanes: number): Promise<GrowthRun> {
  return onCopy(server, rows, async (name) => {
    const { beside: run } = await prepareInPlace(databaseOf(server, 'green', name), lanes);
    const start = performance.now();
    await run();
    return { rows, rowsPerSecond: Math.round((rows * 1_000) / (performance.now() - start)) };
  });
}

function describeLive(run: BackfillRun): string {
  const ms = ({ p50, p99, max }: BesideWriter['before']): string => `${p50} / ${p99} / ${max}`;
  return `${run.contender}: ${run.rowsPerSecond} rows/s, writer p50/p99/max ms before ${ms(run.before)}, during ${ms(run.during)} (${run.during.transactions} transactions, ${run.during.failed} failed), ${run.missing} rows left NULL, ${run.notNull ? 'NOT NULL' : 'nullable'}, ${Math.round(run.bytes / 1024 / 1024)} MiB`;
}
