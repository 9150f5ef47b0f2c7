import pg from 'pg';

/*
 * The application of the benchmark of the backfill, in a process of its own: so many transactions a second, each an insert and an
 * update of a random row in one message, begun by the clock whatever became of those before. A latency counts from the
 * moment when the transaction was due. Ends when its standard input does, and prints what it has seen as JSON.
 *
 *   node --import tsx bench/backfill/writer-main.ts '{"uri": "...", "perSecond": 500, "rows": 2000000}'
 */

/** One transaction: when it was due (milliseconds since 1970), how long it took, and its SQLSTATE when it failed. */
export type WriterSample = readonly [due: number, ms: number, failed?: string];

interface WriterOptions {
  readonly uri: string;
  readonly perSecond: number;
  readonly rows: number;
}

const CONNECTIONS = 8;

async function main({ uri, perSecond, rows }: WriterOptions): Promise<void> {
  const clients: pg.Client[] = [];
  for (let i = 0; i < CONNECTIONS; i++) {
    const client = new pg.Client({ connectionString: uri, application_name: 'shop' });
    await client.connect();
    clients.push(client);
  }
  const samples: WriterSample[] = [];
  const due: number[] = [];
  const free = [...clients];
  const running = new Set<Promise<void>>();
  const work = async (client: pg.Client): Promise<void> => {
    for (let at = due.shift(); at !== undefined; at = due.shift()) {
      const failed = await write(client, rows);
      const ms = now() - at;
      samples.push(failed === undefined ? [at, ms] : [at, ms, failed]);
    }
    free.push(client);
  };
  let next = now();
  let stopped = false;
  process.stdin.on('end', () => {
    stopped = true;
  });
  process.stdin.resume();
  while (!stopped) {
    for (; next <= now(); next += 1_000 / perSecond) due.push(next);
    while (due.length > 0 && free.length > 0) {
      const client = free.pop();
      if (client === undefined) break;
      const one = work(client).finally(() => running.delete(one));
      running.add(one);
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await Promise.all(running);
  await Promise.all(clients.map((client) => client.end()));
  process.stdout.write(JSON.stringify(samples));
}

async function write(client: pg.Client, rows: number): Promise<string | undefined> {
  const id = 1 + Math.floor(Math.random() * rows);
  try {
    await client.query(
      `INSERT INTO public.transactions (user_id, amount, currency, status, payload)
       VALUES (${id % 200_000}, 9.99, 'EUR', 'pending', '{"channel": "web", "cart": ${id}}');
       UPDATE public.transactions SET status = 'paid', amount = amount + 1 WHERE id = ${id}`,
    );
    return undefined;
  } catch (error) {
    return error instanceof pg.DatabaseError ? (error.code ?? 'unknown') : 'connection';
  }
}

function now(): number {
  return performance.timeOrigin + performance.now();
}

const options: unknown = JSON.parse(process.argv[2] ?? '{}');
if (isOptions(options)) await main(options);
else process.exitCode = 2;

function isOptions(value: unknown): value is WriterOptions {
  return typeof value === 'object' && value !== null && 'uri' in value && 'perSecond' in value && 'rows' in value;
}
