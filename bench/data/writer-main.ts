import pg from 'pg';
import { LatencyHistogram } from '../../src/embedded/shop/latency-histogram.js';
import type { WriterReply, WriterRequest, WriterWindow } from './writer-messages.js';

/*
 * The application on blue, a process of its own: so many transactions a second, each an insert and an update of a
 * random row. Open loop: a transaction is due whether or not the one before it is done, and its time counts from then,
 * so a pause of the database is seen by all that fell into it.
 */

const CONNECTIONS = 16;
const url = process.env['BENCH_WRITER_URL'];
const [perSecond = 500, rows = 1, users = 1] = process.argv.slice(2).map(Number);

const INSERT = {
  name: 'insert',
  text: `INSERT INTO public.transactions (user_id, amount, currency, status, payload)
         VALUES ($1, $2, 'EUR', 'booked', '{"source":"application"}')`,
};
const UPDATE = { name: 'update', text: 'UPDATE public.transactions SET status = $2 WHERE id = $1' };

class Window {
  readonly #since = performance.now();
  readonly #latencies = new LatencyHistogram();
  #transactions = 0;
  #failed = 0;
  #maxMs = 0;

  record(ms: number, succeeded: boolean): void {
    this.#latencies.record(ms);
    this.#maxMs = Math.max(this.#maxMs, ms);
    this.#transactions += 1;
    if (!succeeded) this.#failed += 1;
  }

  close(): WriterWindow {
    const seconds = (performance.now() - this.#since) / 1_000;
    const { p50, p99 } = this.#latencies.quantiles();
    return {
      transactions: this.#transactions,
      failed: this.#failed,
      perSecond: this.#transactions / seconds,
      p50,
      p99,
      maxMs: this.#maxMs,
    };
  }
}

const pool = new pg.Pool({ connectionString: url, max: CONNECTIONS, min: CONNECTIONS });
pool.on('error', () => undefined);
let current = new Window();

async function transaction(due: number): Promise<void> {
  // A transaction belongs to the window in which it was due, however late it ends.
  const window = current;
  let succeeded = false;
  try {
    const client = await pool.connect();
    let broken: Error | undefined;
    try {
      await client.query('BEGIN');
      await client.query({
        ...INSERT,
        values: [1 + Math.floor(Math.random() * users), (Math.random() * 1_000).toFixed(2)],
      });
      await client.query({
        ...UPDATE,
        values: [1 + Math.floor(Math.random() * rows), due % 2 < 1 ? 'booked' : 'settled'],
      });
      await client.query('COMMIT');
      succeeded = true;
    } catch (error) {
      broken = error instanceof Error ? error : new Error(String(error));
    } finally {
      client.release(broken);
    }
  } catch {
    // No connection: a transaction that failed.
  }
  window.record(performance.now() - due, succeeded);
}

const intervalMs = 1_000 / perSecond;
const began = performance.now();
let sent = 0;

function sendWhatIsDue(): void {
  for (let due = began + sent * intervalMs; due <= performance.now(); due = began + sent * intervalMs) {
    sent += 1;
    void transaction(due);
  }
  setTimeout(sendWhatIsDue, Math.max(0, began + sent * intervalMs - performance.now()));
}

function reply(message: WriterReply): void {
  process.send?.(message);
}

process.on('message', ({ id }: WriterRequest) => {
  const window = current;
  current = new Window();
  reply({ id, window: window.close() });
});
// Whoever started us is gone: nobody wants this load any more.
process.on('disconnect', () => process.exit(0));
await Promise.all(Array.from({ length: CONNECTIONS }, () => pool.query('SELECT 1')));
reply({ ready: true });
sendWhatIsDue();
