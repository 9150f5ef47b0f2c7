import type pg from 'pg';
import { parseArgs } from 'node:util';
import type { Side } from '../../side.js';
import { audit, type AuditResult } from './audit.js';
import { LiveLoad } from './live-load.js';
import { Measurements } from './measurements.js';
import { routedDatabase } from './routed-database.js';
import { serveShop } from './shop-http.js';
import type { ShopQuestion, ShopReply, ShopRequest } from './shop-messages.js';
import { WriteLedger } from './write-ledger.js';

/*
 * The sample shop: an application under live load that reaches its database through the router, and that measures what
 * its users see. It knows two addresses and the name of the migration, nothing else.
 *
 *   SHOP_BLUE_URL, SHOP_GREEN_URL   the databases, as the application's role
 *   --migration NAME                the plan's name
 *   --rate N                        requests a second, 30 % of them write
 *   --ledger FILE                   where intended and acknowledged writes are written down, line by line
 *   --host, --port                  where /metrics and /status are; port 0 is a free one
 */

const { values: options } = parseArgs({
  options: {
    migration: { type: 'string', default: 'shop-2026-11' },
    rate: { type: 'string', default: '100' },
    ledger: { type: 'string' },
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
  },
});

const pools: Record<Side, pg.PoolConfig> = { blue: poolOf('SHOP_BLUE_URL'), green: poolOf('SHOP_GREEN_URL') };
const ledger = new WriteLedger(options.ledger);
const measurements = new Measurements();
const database = await routedDatabase({ migration: options.migration, ...pools });
const load = new LiveLoad(database, ledger, measurements);
const { server, port } = await serveShop(
  { metrics: () => database.metrics(), status: () => measurements.statistics() },
  options.host,
  Number(options.port),
);

let audited: Promise<AuditResult> | undefined;
let stopping: Promise<void> | undefined;

process.on('message', (question: ShopQuestion) => {
  answer(question).then(
    (reply) => tell({ id: question.id, answer: reply }),
    (error: unknown) => tell({ id: question.id, error: error instanceof Error ? error.message : String(error) }),
  );
});
// The parent is gone, or wants us to go.
process.on('disconnect', () => void stop());
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => void stop());

load.start(Number(options.rate));
tell({ ready: { port } });
if (process.send === undefined) console.log(`The shop is open: http://${options.host}:${port}/status`);

async function answer(request: ShopRequest): Promise<unknown> {
  switch (request.ask) {
    case 'statistics':
      return measurements.statistics();
    case 'rate':
      load.setRate(request.rate);
      measurements.forget();
      return null;
    case 'window':
      measurements.enter(request.window);
      return null;
    case 'longestWrite':
      return measurements.longestWriteBetween(request.from, request.to);
    case 'audit':
      audited ??= auditNow();
      return audited;
  }
}

/** The side that took the last acknowledged write is the one that serves. */
async function auditNow(): Promise<AuditResult> {
  await load.stop();
  const side = ledger.acknowledged.at(-1)?.side ?? 'blue';
  return audit(ledger, side, pools[side]);
}

function stop(): Promise<void> {
  stopping ??= (async () => {
    await load.stop();
    server.close();
    server.closeAllConnections();
    await database.close();
    await ledger.close();
    process.exit(0);
  })();
  return stopping;
}

function poolOf(variable: string): pg.PoolConfig {
  const connectionString = process.env[variable];
  if (connectionString === undefined) throw new Error(`set ${variable} to the address of the database`);
  // A hold of 50 ms at 300 writes a second parks 15 connections; reads need theirs beside them.
  // A request that waits for a free connection keeps its place in the queue for as long as the router holds it at all.
  return { connectionString, max: 40, connectionTimeoutMillis: 10_000, application_name: 'shop' };
}

function tell(reply: ShopReply): void {
  if (process.connected) process.send?.(reply);
}
