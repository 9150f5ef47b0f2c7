import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { createRouter } from '../../src/router/index.js';
import { sqlState } from '../../src/postgres/sqlstate.js';
import type { Side } from '../../src/side.js';
import { now } from './clock.js';
import { OUTCOME, type LoadReply, type LoadRequest, type LoadResult, type LoadSettings } from './load-messages.js';
import { pay, type Send } from './shop.js';

/*
 * The application, a process of its own: so many payments a second. Open loop: a payment is due whether or not those
 * before it are done, and its time counts from then, so a pause of the database is seen by all that fell into it.
 */

/** How the application runs a transaction. */
interface Client {
  transaction(work: (send: Send) => Promise<void>): Promise<void>;
  use(side: Side): void;
  retried(): Promise<number>;
}

const settings = JSON.parse(process.env['BENCH_LOAD'] ?? '{}') as LoadSettings;
const due: number[] = [];
const took: number[] = [];
const outcome: number[] = [];
const errors: Record<string, number> = {};
let underWay = 0;
let isFinishing = false;

async function byRouter(): Promise<Client> {
  const pool = (side: Side): pg.PoolConfig => ({
    connectionString: settings.uris[side],
    max: settings.connections,
    application_name: 'shop',
  });
  const router = createRouter({ migration: settings.migration, blue: pool('blue'), green: pool('green') });
  await router.ready();
  return {
    transaction: (work) => router.transaction(undefined, {}, (tx) => work((query) => tx.query(query))),
    use: () => undefined,
    retried: async () => {
      const { values } = (await router.metrics.getSingleMetric('verdigris_router_retried_writes_total')?.get()) ?? {
        values: [],
      };
      return values.reduce((sum, { value }) => sum + value, 0);
    },
  };
}

/** What an application has without a router: errors are the user's. */
function byPool(): Client {
  const open = (side: Side): pg.Pool => {
    const pool = new pg.Pool({ connectionString: settings.uris[side], max: settings.connections });
    pool.on('error', () => undefined);
    pool.on('connect', (client) => client.on('error', () => undefined));
    return pool;
  };
  const pools = { blue: open('blue'), green: open('green') };
  let side: Side = 'blue';
  return {
    transaction: async (work) => {
      const client = await pools[side].connect();
      let broken: Error | undefined;
      try {
        await client.query('BEGIN');
        await work((query) => client.query(query));
        await client.query('COMMIT');
      } catch (error) {
        broken = error instanceof Error ? error : new Error(String(error));
        throw broken;
      } finally {
        client.release(broken);
      }
    },
    use: (to) => {
      side = to;
    },
    retried: () => Promise.resolve(0),
  };
}

const client = settings.by === 'router' ? await byRouter() : byPool();

async function payment(number: number): Promise<void> {
  underWay += 1;
  try {
    await client.transaction((send) => pay(send, number));
    outcome[number] = OUTCOME.acknowledged;
  } catch (error) {
    outcome[number] = OUTCOME.failed;
    const what = `${sqlState(error) ?? (error instanceof Error ? error.name : 'error')}: ${error instanceof Error ? error.message : String(error)}`;
    errors[what] = (errors[what] ?? 0) + 1;
  }
  took[number] = now() - (due[number] ?? 0);
  underWay -= 1;
}

const intervalMs = 1_000 / settings.perSecond;
let began = 0;

function sendWhatIsDue(): void {
  if (isFinishing) return;
  for (let at = began + due.length * intervalMs; at <= now(); at = began + due.length * intervalMs) {
    // Written down before anything is sent: what is not known to have failed may be there.
    const number = due.push(at) - 1;
    outcome.push(OUTCOME.underWay);
    took.push(0);
    void payment(number);
  }
  setTimeout(sendWhatIsDue, Math.max(0, began + due.length * intervalMs - now()));
}

async function finish(): Promise<LoadResult> {
  isFinishing = true;
  for (let look = 0; underWay > 0 && look < 3_000; look++) await sleep(10);
  return {
    number: Float64Array.from(due.keys()),
    due: Float64Array.from(due),
    took: Float64Array.from(took),
    outcome: Uint8Array.from(outcome),
    failedWithoutNumber: 0,
    errors,
    retried: await client.retried(),
  };
}

function reply(message: LoadReply): void {
  process.send?.(message);
}

process.on('message', (request: LoadRequest) => {
  if ('finish' in request) void finish().then((result) => reply({ id: request.id, result }));
  else {
    client.use(request.use);
    reply({ id: request.id });
  }
});
// Whoever started us is gone: nobody wants this load any more.
process.on('disconnect', () => process.exit(0));
await Promise.all(
  Array.from({ length: settings.connections }, () =>
    client.transaction(async (send) => void (await send({ text: 'SELECT 1' }))),
  ),
);
reply({ ready: true });
began = now();
sendWhatIsDue();
