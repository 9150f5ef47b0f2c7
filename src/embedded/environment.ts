import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PlanInput } from '../plan/schema.js';
import type { LifeCycle } from './life-cycle.js';
import { startPostgres, type EmbeddedPostgres } from './postgres-server.js';
import { makeScratchFolder, removeScratchFolder } from './scratch-folder.js';
import { createShop, createShopDatabase, SHOP_DATABASE } from './shop/create-shop.js';
import { SHOP_ROLE } from './shop/shop-schema.js';
import { startShop, type ShopProcess } from './shop/shop-process.js';
import { findTemporalCli } from './temporal-cli.js';
import { startTemporal, type EmbeddedTemporal } from './temporal-server.js';
import { stopwatch } from './stopwatch.js';
import { startWorker, type WorkerProcess } from './worker-process.js';

export interface EnvironmentOptions {
  readonly plan: PlanInput;
  /** Orders, and as many transactions, in blue from the start. */
  readonly rows: number;
  /** Requests a second of the sample application. */
  readonly rate: number;
}

/** Everything that a migration needs, running on this machine. */
export interface Environment {
  readonly cliPath: string;
  readonly temporal: EmbeddedTemporal;
  readonly blue: EmbeddedPostgres;
  readonly green: EmbeddedPostgres;
  readonly shop: ShopProcess;
  readonly worker: WorkerProcess;
  /** The plan, written down for `--input-file`. */
  readonly planFile: string;
  readonly logs: { readonly worker: string; readonly shop: string };
}

/** Durable as in production, but a checkpoint must not fall into a demo of two minutes. */
const SETTINGS = { shared_buffers: '256MB', max_wal_size: '4GB', checkpoint_timeout: '15min' };

/** Starts Temporal, blue with the shop, green without anything, a worker, and the sample application. */
export async function startEnvironment(
  lifeCycle: LifeCycle,
  options: EnvironmentOptions,
  progress: (line: string) => void,
): Promise<Environment> {
  const cliPath = await findTemporalCli(progress);
  const folder = makeScratchFolder('logs');
  lifeCycle.keep('Folder for logs', { stop: () => Promise.resolve(removeScratchFolder(folder)) });
  const planFile = join(folder, 'plan.json');
  writeFileSync(planFile, `${JSON.stringify(options.plan, null, 2)}\n`);
  const logs = { worker: join(folder, 'worker.log'), shop: join(folder, 'shop.log') };

  const [blue, green, temporal] = await allStarted([
    lifeCycle.start('Blue, PostgreSQL 15', () => startPostgres({ version: 15, name: 'blue', settings: SETTINGS })),
    lifeCycle.start('Green, PostgreSQL 18', () => startPostgres({ version: 18, name: 'green', settings: SETTINGS })),
    lifeCycle.start('Temporal server with Web UI', () => startTemporal({ cliPath, ui: true })),
  ]);
  const shopPassword = randomBytes(18).toString('base64url');
  await Promise.all([blue, green].map((server) => createShopDatabase({ uri: server.uri(), shopPassword })));
  const shopIsFilled = stopwatch();
  await createShop(blue.uri(SHOP_DATABASE), { rows: options.rows });
  progress(`${options.rows.toLocaleString('en')} orders and as many transactions on blue: ${shopIsFilled()}`);

  const shop = await lifeCycle.start(`Sample application, ${options.rate} requests a second`, () =>
    startShop({
      migration: options.plan.name,
      blueUri: shopUri(blue, shopPassword),
      greenUri: shopUri(green, shopPassword),
      rate: options.rate,
      logFile: logs.shop,
      ledgerFile: join(folder, 'writes.jsonl'),
    }),
  );
  const worker = await lifeCycle.start('Worker', () =>
    startWorker({
      temporalAddress: temporal.address,
      connections: {
        [options.plan.blue.connection]: blue.uri(SHOP_DATABASE),
        [options.plan.green.connection]: green.uri(SHOP_DATABASE),
      },
      logFile: logs.worker,
    }),
  );
  return { cliPath, temporal, blue, green, shop, worker, planFile, logs };
}

/** Waits for all, so that none is still starting when the failure of another is reported. */
async function allStarted<A, B, C>(starts: readonly [Promise<A>, Promise<B>, Promise<C>]): Promise<[A, B, C]> {
  await Promise.allSettled(starts);
  return Promise.all(starts);
}

/** The address of the shop's database as the application has it. */
function shopUri(server: EmbeddedPostgres, password: string): string {
  return `postgres://${SHOP_ROLE}:${password}@127.0.0.1:${server.port}/${SHOP_DATABASE}`;
}
