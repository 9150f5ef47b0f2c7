import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command, InvalidArgumentError } from 'commander';
import pg from 'pg';
import { startPostgres, type EmbeddedPostgres } from '../src/embedded/postgres-server.js';
import { measureLag } from '../src/postgres/marker.js';
import { claimDatabases } from '../src/postgres/ownership.js';
import { ensureSlot } from '../src/postgres/replication-slot.js';
import { closeSession, openSession, type Database, type Databases, type Session } from '../src/postgres/session.js';
import { ensurePublications, streamNames } from '../src/postgres/streams.js';
import { disableSubscription, enableSubscription, ensureSubscription } from '../src/postgres/subscription.js';
import type { Side } from '../src/side.js';

/*
 * The write rate that green can follow with 1, 2 and 4 streams, and in binary form: tables without foreign keys between
 * them, one writer each, half inserts and half updates, at rising rates; the highest at which the lag stays below a
 * second. And how fast a backlog is caught up while nobody writes. Blue, green and the writers share this machine.
 *
 *   npx tsx bench/streams.ts [--streams 1,2,4] [--tables 4] [--batch 50] [--seconds 4] [--rounds 2] [--json FILE]
 */

interface Options {
  readonly streams: readonly number[];
  readonly tables: number;
  /** Rows of a transaction. */
  readonly batch: number;
  /** How long each rate is held. */
  readonly seconds: number;
  readonly rounds: number;
  /** Rows of the backlog. */
  readonly backlog: number;
  readonly json?: string;
}

interface Contestant {
  readonly streams: number;
  readonly binary: boolean;
}

interface Measured extends Contestant {
  /** Rows a second; null when even the first rate was too much. */
  readonly followed: number | null;
  /** Whether the writers could not write faster, so that green was not the limit. */
  readonly limitedByWriters: boolean;
  readonly backlog: Backlog;
}

/** How a backlog was caught up. CPU time says what streams are worth where each process has a core of its own. */
interface Backlog {
  readonly rowsPerSecond: number;
  /** CPU seconds for a million rows: of the busiest apply worker, and of all walsenders together. */
  readonly busiestApply: number | null;
  readonly allSenders: number | null;
}

const MAX_LAG_MS = 1_000;
const FIRST_RATE = 8_000;
const STEP = 1.4;
const ROWS_BEFORE = 20_000;

const whole = (text: string): number => {
  if (!/^[1-9][0-9]*$/.test(text)) throw new InvalidArgumentError('a whole number above 0');
  return Number(text);
};

const options = new Command('bench/streams.ts')
  .option('--streams <list>', 'numbers of streams', (text) => text.split(',').map(whole), [1, 2, 4])
  .option('--tables <n>', 'tables, with a writer each', whole, 4)
  .option('--batch <n>', 'rows of a transaction', whole, 50)
  .option('--seconds <n>', 'how long each rate is held', whole, 4)
  .option('--rounds <n>', 'how often each is measured', whole, 2)
  .option('--backlog <n>', 'rows of the backlog', whole, 400_000)
  .option('--json <file>', 'write what was measured to this file')
  .parse()
  .opts<Options>();

/** Blue and green with one feed between them. */
class Feed {
  private constructor(
    readonly databases: Databases,
    readonly blue: Session,
    readonly green: Session,
    readonly names: readonly string[],
  ) {}

  static async start(
    servers: Readonly<Record<Side, EmbeddedPostgres>>,
    contestant: Contestant,
    n: number,
  ): Promise<Feed> {
    const databases = {
      blue: await makeDatabase(servers.blue, 'blue', `b${n}`),
      green: await makeDatabase(servers.green, 'green', `g${n}`),
    };
    const migration = `bench-${n}`;
    const { streams, binary } = contestant;
    await claimDatabases(databases, { runId: migration, migration }, 'flag', { streams });
    const blue = await openSession(databases.blue, { purpose: 'bench' });
    const green = await openSession(databases.green, { purpose: 'bench' });
    const tables = tableNames().map((name) => ({ table: { schema: 'public', name } }));
    await ensurePublications(blue, { migration, direction: 'to_green', tables, streams });
    const names = streamNames(migration, 'to_green', streams);
    for (const name of names) {
      await ensureSlot(blue, name);
      await ensureSubscription(green, {
        name,
        conninfo: databases.blue.peerConninfo,
        copyData: false,
        enabled: true,
        publisherVersion: servers.blue.version,
        binary,
      });
    }
    const feed = new Feed(databases, blue, green, names);
    await feed.lag(60_000);
    return feed;
  }

  lag(timeoutMs: number): Promise<number> {
    return measureLag(this.blue, this.green, 'to_green', timeoutMs);
  }

  async stop(): Promise<void> {
    for (const name of this.names) {
      await disableSubscription(this.green, name);
      await this.green.query(`ALTER SUBSCRIPTION "${name}" SET (slot_name = NONE)`);
      await this.green.query(`DROP SUBSCRIPTION "${name}"`);
      await this.blue.query('SELECT pg_drop_replication_slot($1)', [name]);
    }
    await Promise.all([closeSession(this.blue), closeSession(this.green)]);
  }
}

function tableNames(): string[] {
  return Array.from({ length: options.tables }, (_, i) => `payments_${i + 1}`);
}

async function makeDatabase(server: EmbeddedPostgres, side: Side, name: string): Promise<Database> {
  const config = { host: '127.0.0.1', port: server.port, user: 'postgres', password: server.password };
  const admin = new pg.Client({ ...config, database: 'postgres' });
  await admin.connect();
  await admin.query(`CREATE DATABASE ${name}`);
  await admin.end();
  const client = new pg.Client({ ...config, database: name });
  await client.connect();
  for (const table of tableNames()) {
    await client.query(`
      CREATE TABLE ${table} (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, account int NOT NULL,
        amount numeric(12, 2) NOT NULL, note text, at timestamptz NOT NULL DEFAULT now());
      INSERT INTO ${table} (account, amount, note) SELECT g % 1000, g, repeat('x', 60) FROM generate_series(1, ${ROWS_BEFORE}) g`);
  }
  await client.end();
  return {
    side,
    connection: name,
    config: { ...config, database: name },
    peerConninfo: `host=127.0.0.1 port=${server.port} user=postgres password=${server.password} dbname=${name}`,
  };
}

/** Writes to one table: every other transaction inserts rows, the others update as many. */
async function writeOnce(client: pg.Client, table: string, n: number): Promise<void> {
  if (n % 2 === 0) {
    await client.query(
      `INSERT INTO ${table} (account, amount, note) SELECT g, g * 1.5, repeat('x', 60) FROM generate_series(1, $1::int) g`,
      [options.batch],
    );
  } else {
    const first = 1 + ((n * 7_919) % (ROWS_BEFORE - options.batch));
    await client.query(`UPDATE ${table} SET amount = amount + 1 WHERE id BETWEEN $1::bigint AND $2::bigint`, [
      first,
      first + options.batch - 1,
    ]);
  }
}

/** Runs `work` with a connection to blue for each table. */
async function withWriters<T>(feed: Feed, work: (writers: readonly [string, pg.Client][]) => Promise<T>): Promise<T> {
  const writers = tableNames().map((table): [string, pg.Client] => [table, new pg.Client(feed.databases.blue.config)]);
  await Promise.all(writers.map(([, client]) => client.connect()));
  try {
    return await work(writers);
  } finally {
    await Promise.all(writers.map(([, client]) => client.end()));
  }
}

type Outcome = 'followed' | 'behind' | 'writers too slow';

/** Whether green follows so many rows a second. Writers keep to the clock: one that is late makes up for it. */
async function follows(feed: Feed, rate: number): Promise<Outcome> {
  const everyMs = (1_000 * options.batch * options.tables) / rate;
  const began = performance.now();
  const until = began + options.seconds * 1_000;
  let over = false;
  let late = 0;
  const outcome = await withWriters(feed, async (writers) => {
    const writing = writers.map(async ([table, client]) => {
      for (let n = 0; !over && performance.now() < until; n++) {
        const due = began + n * everyMs;
        const wait = due - performance.now();
        if (wait > 0) await sleep(wait);
        else late = Math.max(late, -wait);
        await writeOnce(client, table, n);
      }
    });
    let worst = 0;
    while (performance.now() < until && worst < MAX_LAG_MS) {
      worst = Math.max(worst, await feed.lag(MAX_LAG_MS));
      await sleep(50);
    }
    over = true;
    await Promise.all(writing);
    return worst < MAX_LAG_MS;
  });
  await feed.lag(120_000);
  if (!outcome) return 'behind';
  return late > options.seconds * 250 ? 'writers too slow' : 'followed';
}

/** The highest rate that green follows: rising steps, then twice the middle between the last good one and the first bad. */
async function highestRate(feed: Feed): Promise<Pick<Measured, 'followed' | 'limitedByWriters'>> {
  let good: number | null = null;
  let bad = FIRST_RATE;
  let outcome: Outcome;
  while ((outcome = await follows(feed, bad)) === 'followed') {
    good = bad;
    bad = Math.round(bad * STEP);
  }
  if (good === null) return { followed: null, limitedByWriters: outcome === 'writers too slow' };
  for (let i = 0; i < 2; i++) {
    const middle: number = Math.round(Math.sqrt(good * bad));
    outcome = await follows(feed, middle);
    if (outcome === 'followed') good = middle;
    else bad = middle;
  }
  return { followed: good, limitedByWriters: outcome === 'writers too slow' };
}

async function catchUp(feed: Feed): Promise<Backlog> {
  for (const name of feed.names) await disableSubscription(feed.green, name);
  const transactions = Math.ceil(options.backlog / options.batch / options.tables);
  await withWriters(feed, async (writers) => {
    await Promise.all(
      writers.map(async ([table, client]) => {
        for (let n = 0; n < transactions; n++) await writeOnce(client, table, n);
      }),
    );
  });
  const began = performance.now();
  for (const name of feed.names) await enableSubscription(feed.green, name);
  const lag = await feed.lag(300_000);
  if (!Number.isFinite(lag)) throw new Error('green has not caught up within 5 minutes');
  const rows = transactions * options.tables * options.batch;
  const rowsPerSecond = Math.round((rows * 1_000) / (performance.now() - began));
  // The processes began with the backlog, so all their time was for it.
  const forMillion = (seconds: number): number | null =>
    Number.isFinite(seconds) ? Math.round((seconds / rows) * 1e8) / 100 : null;
  const apply = await cpuOf(
    feed.green,
    'SELECT pid FROM pg_stat_subscription WHERE relid IS NULL AND subname = ANY ($1)',
    feed.names,
  );
  const senders = await cpuOf(
    feed.blue,
    'SELECT active_pid AS pid FROM pg_replication_slots WHERE slot_name = ANY ($1)',
    feed.names,
  );
  return {
    rowsPerSecond,
    busiestApply: forMillion(Math.max(...apply)),
    allSenders: forMillion(senders.reduce((sum, seconds) => sum + seconds, 0)),
  };
}

async function cpuOf(session: Session, pids: string, names: readonly string[]): Promise<number[]> {
  const { rows } = await session.query<{ pid: number }>(pids, [names]);
  return rows.map(({ pid }) => cpuSeconds(pid));
}

/** CPU time that a process has used so far; NaN where the system does not say. Linux counts in hundredths of a second. */
function cpuSeconds(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
    return (Number(fields[11]) + Number(fields[12])) / 100;
  } catch {
    return Number.NaN;
  }
}

function median(numbers: readonly number[]): number | null {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? null;
}

function show(measured: readonly Measured[], contestants: readonly Contestant[]): object[] {
  return contestants.map(({ streams, binary }) => {
    const own = measured.filter((one) => one.streams === streams && one.binary === binary);
    const followed = median(own.flatMap((one) => one.followed ?? []));
    const writers = own.some((one) => one.limitedByWriters);
    return {
      streams,
      format: binary ? 'binary' : 'text',
      'rows/s followed':
        followed === null ? 'below the first rate' : `${followed}${writers ? ' (writers at their limit)' : ''}`,
      'rows/s caught up': median(own.map(({ backlog }) => backlog.rowsPerSecond)),
      'CPU s/M rows: busiest apply': median(own.flatMap(({ backlog }) => backlog.busiestApply ?? [])),
      'all walsenders': median(own.flatMap(({ backlog }) => backlog.allSenders ?? [])),
    };
  });
}

const servers = {
  blue: await startPostgres({ version: 18, name: 'bench-streams-blue' }),
  green: await startPostgres({ version: 18, name: 'bench-streams-green' }),
};
try {
  const contestants = [false, true].flatMap((binary) => options.streams.map((streams) => ({ streams, binary })));
  const measured: Measured[] = [];
  for (let round = 0; round < options.rounds; round++) {
    for (const contestant of round % 2 === 0 ? contestants : [...contestants].reverse()) {
      const feed = await Feed.start(servers, contestant, measured.length);
      const backlog = await catchUp(feed);
      const result = { ...contestant, backlog, ...(await highestRate(feed)) };
      await feed.stop();
      measured.push(result);
      console.error(JSON.stringify(result));
    }
  }
  const machine = { cpus: cpus().length, model: cpus()[0]?.model ?? '', node: process.version };
  console.log(
    `PostgreSQL 18 -> 18, ${options.tables} tables, ${options.batch} rows a transaction, ${machine.cpus} CPUs for everything`,
  );
  console.table(show(measured, contestants));
  if (options.json !== undefined)
    writeFileSync(options.json, `${JSON.stringify({ machine, options, measured }, null, 2)}\n`);
} finally {
  await servers.green.stop();
  await servers.blue.stop();
}
