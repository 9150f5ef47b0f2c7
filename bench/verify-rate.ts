import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { startPostgres, type EmbeddedPostgres } from '../src/embedded/postgres-server.js';
import { closeSession, openSession, type Database } from '../src/postgres/session.js';
import { installState } from '../src/postgres/state.js';
import { verifyTables, type Verification, type VerifyOptions } from '../src/postgres/verify/verify-tables.js';
import type { Side } from '../src/side.js';

/*
 * How many rows a second are verified, on the seed's table shape, PostgreSQL 15 against 18 on one machine. Both sides
 * work at once, so one lane is two sessions on two cores. In turn, in one run:
 *
 *   row as text   what a script would do: hashtextextended of the row's text, ranges found by OFFSET
 *   all           one lane
 *   lanes 2       two lanes: more than two cores are needed to gain by it
 *   changed 0 %   the pass over changed rows, none of which has
 *   changed 1 %   one row in a hundred written on both sides since the last pass
 *
 *   npx tsx bench/verify-rate.ts [--rows 2000000] [--rounds 3] [--json FILE]
 */

const TABLE = `
  CREATE TABLE public.transactions (
    id bigint PRIMARY KEY, user_id bigint NOT NULL, amount numeric(12,2) NOT NULL, currency varchar(3) NOT NULL,
    status varchar(20) NOT NULL, payload varchar(500), created_at timestamptz NOT NULL)`;

const fill = (rows: number): string => `
  INSERT INTO public.transactions
  SELECT n, 1 + n % 10007, (n % 100003) / 7.0, (ARRAY['EUR', 'USD', 'GBP'])[1 + n % 3], (ARRAY['booked', 'paid'])[1 + n % 2],
         '{"source":"import","order":' || n || ',"channel":"' || (ARRAY['web', 'app', 'desk'])[1 + n % 3] ||
         '","note":"abcdefghijklmnopqrstuvwxyz0123456789"}', timestamptz '2024-01-01' + n * interval '1.234567 s'
    FROM generate_series(1, ${rows}) n`;

/** A method's runs. */
export interface VerifyRate {
  readonly method: string;
  /** Medians. */
  readonly rowsPerSecond: number;
  /** Time on a processor of the sessions that compare, of both servers, per million rows; null where /proc is not at hand. */
  readonly cpuSecondsPerMillion: number | null;
  readonly ratio: number;
}

interface Run {
  readonly seconds: number;
  readonly cpuSeconds: number | null;
}

/** What sessions have used of a processor, as far as this machine tells. */
class Processors {
  private readonly used = new Map<number, number>();

  constructor(private readonly watchers: readonly pg.Client[]) {}

  async look(): Promise<void> {
    for (const watcher of this.watchers) {
      const { rows } = await watcher.query<{ pid: number }>(
        `SELECT pid FROM pg_stat_activity WHERE application_name = 'verdigris verify'`,
      );
      for (const { pid } of rows) this.used.set(pid, cpuSeconds(pid) ?? this.used.get(pid) ?? Number.NaN);
    }
  }

  get seconds(): number | null {
    const sum = [...this.used.values()].reduce((total, seconds) => total + seconds, 0);
    return Number.isNaN(sum) || this.used.size === 0 ? null : sum;
  }
}

function cpuSeconds(pid: number): number | undefined {
  try {
    return Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1e9;
  } catch {
    return undefined;
  }
}

/** Measures all methods in turn; the first round only warms up. */
export async function measureVerification(rows: number, rounds: number): Promise<VerifyRate[]> {
  const servers: EmbeddedPostgres[] = [];
  try {
    for (const version of [15, 18] as const) {
      const settings = { shared_buffers: '512MB', max_wal_size: '4GB', fsync: 'off' };
      servers.push(await startPostgres({ version, name: `bench-verify${version}`, settings }));
    }
    const [blue, green] = (['blue', 'green'] as const).map((side, i) => databaseOf(servers[i], side));
    if (blue === undefined || green === undefined) return [];
    await Promise.all([prepare(blue, rows), prepare(green, rows)]);
    return await measureBoth(blue, green, rows, rounds);
  } finally {
    await Promise.all(servers.map((server) => server.stop()));
  }
}

function databaseOf(server: EmbeddedPostgres | undefined, side: Side): Database {
  const config = { host: '127.0.0.1', port: server?.port ?? 0, user: 'postgres', password: server?.password ?? '' };
  return { side, connection: side, config: { ...config, database: 'postgres' }, peerConninfo: '' };
}

async function prepare(database: Database, rows: number): Promise<void> {
  const session = await openSession(database, { purpose: 'bench' });
  await installState(session, database.side);
  await session.query(TABLE);
  await session.query(fill(rows));
  await session.query('VACUUM (FREEZE, ANALYZE) public.transactions');
  await closeSession(session);
}

async function measureBoth(blue: Database, green: Database, rows: number, rounds: number): Promise<VerifyRate[]> {
  const watchers = [new pg.Client(blue.config), new pg.Client(green.config)];
  for (const watcher of watchers) await watcher.connect();
  const methods: Record<string, () => Promise<Run>> = {
    'row as text': () => timed(watchers, (look) => textOfRows(blue, green, look)),
    all: () => verification(blue, green, watchers, {}),
    'lanes 2': () => verification(blue, green, watchers, { parallel: 2 }),
    'changed 0 %': () => verification(blue, green, watchers, { scope: 'changed' }),
    'changed 1 %': async () => {
      await Promise.all(
        watchers.map((watcher) =>
          watcher.query(`UPDATE public.transactions SET status = 'seen' WHERE id % 100 = $1`, [round % 100]),
        ),
      );
      return verification(blue, green, watchers, { scope: 'changed' });
    },
  };
  const runs = new Map<string, Run[]>(Object.keys(methods).map((method) => [method, []]));
  for (let n = 0; n <= rounds; n++) {
    // The other way round every other time, so that nobody is always first.
    const order = Object.entries(methods);
    for (const [method, run] of n % 2 === 0 ? order : order.reverse()) {
      const result = await run();
      if (n > 0) runs.get(method)?.push(result);
    }
  }
  for (const watcher of watchers) await watcher.end();
  const rate = (method: string): number => rows / median((runs.get(method) ?? []).map(({ seconds }) => seconds));
  return [...runs].map(([method, all]) => ({
    method,
    rowsPerSecond: Math.round(rate(method)),
    cpuSecondsPerMillion: perMillion(all, rows),
    ratio: rate(method) / rate('row as text'),
  }));
}

let round = 0;

function perMillion(runs: readonly Run[], rows: number): number | null {
  const seconds = runs.flatMap(({ cpuSeconds: used }) => (used === null ? [] : [used]));
  return seconds.length === 0 ? null : (median(seconds) / rows) * 1e6;
}

async function verification(
  source: Database,
  target: Database,
  watchers: readonly pg.Client[],
  options: Partial<VerifyOptions>,
): Promise<Run> {
  return timed(watchers, async (look) => {
    const found: Verification = await verifyTables({
      ...{ source, target, direction: 'to_green', signal: new AbortController().signal },
      ...{ runId: 'bench', pass: `pass ${++round}`, tables: [{ schema: 'public', name: 'transactions' }] },
      ...{ work: { tables: [], steps: [] }, rest: 0, parallel: 1, onProgress: look, ...options },
    });
    if (found.differingRows > 0 || found.scope !== (options.scope ?? 'all')) throw new Error('the sides are equal');
  });
}

async function timed(watchers: readonly pg.Client[], work: (look: () => void) => Promise<void>): Promise<Run> {
  const processors = new Processors(watchers);
  let looking: Promise<void> = Promise.resolve();
  const look = (): void => {
    looking = looking.then(() => processors.look());
  };
  const timer = setInterval(look, 100);
  const started = performance.now();
  try {
    await work(look);
  } finally {
    clearInterval(timer);
  }
  const seconds = (performance.now() - started) / 1_000;
  await looking;
  return { seconds, cpuSeconds: processors.seconds };
}

/** Both sides by a hash of the text of each row, 50,000 at a time. */
async function textOfRows(blue: Database, green: Database, look: () => void): Promise<void> {
  const sessions = [await openSession(blue, { purpose: 'verify' }), await openSession(green, { purpose: 'verify' })];
  for (const session of sessions) {
    await session.query(`SET max_parallel_workers_per_gather = 0; SET jit = off; SET enable_seqscan = off`);
  }
  let after = '0';
  for (;;) {
    const end = await sessions[0]?.query<{ id: string }>(
      'SELECT id::text FROM ONLY public.transactions WHERE id > $1 ORDER BY id OFFSET 49999 LIMIT 1',
      [after],
    );
    const upTo = end?.rows[0]?.id;
    const [source, target] = await Promise.all(
      sessions.map((session) =>
        session.query<{ rows: string; hash: string }>(
          `SELECT count(*)::text AS rows, sum(hashtextextended(ROW(id, user_id, amount, currency, status, payload, created_at)::text COLLATE "C", 0))::text AS hash
             FROM ONLY public.transactions WHERE id > $1 AND ($2::bigint IS NULL OR id <= $2)`,
          [after, upTo ?? null],
        ),
      ),
    );
    if (source?.rows[0]?.hash !== target?.rows[0]?.hash) throw new Error('the sides are equal');
    look();
    if (upTo === undefined) break;
    after = upTo;
  }
  await Promise.all(sessions.map(closeSession));
}

function median(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;
}

function option(name: string): string | undefined {
  const at = process.argv.indexOf(name);
  return at === -1 ? undefined : process.argv[at + 1];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const rows = Number(option('--rows') ?? 2_000_000);
  const rates = await measureVerification(rows, Number(option('--rounds') ?? 3));
  for (const { method, rowsPerSecond, cpuSecondsPerMillion, ratio } of rates) {
    const cpu =
      cpuSecondsPerMillion === null ? '' : `${cpuSecondsPerMillion.toFixed(2)} s of CPU a million, both sides`;
    console.log(
      `${method.padEnd(12)} ${rowsPerSecond.toLocaleString('en').padStart(10)} rows/s  ${ratio.toFixed(2).padStart(5)} x  ${cpu}`,
    );
  }
  const file = option('--json');
  if (file !== undefined) writeFileSync(file, `${JSON.stringify({ rows, rates }, null, 2)}\n`);
}
