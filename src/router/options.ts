import type pg from 'pg';
import type { Registry } from 'prom-client';
import { instanceName, type InstanceName } from './instance-name.js';
import { SILENT, type RouterLogger } from './logger.js';
import type { MirrorOptions } from './mirror.js';
import type { Consistency } from './read-routing.js';

export interface RouterOptions {
  /** Name of the plan: the `name` field of the migration that this application follows. */
  readonly migration: string;
  /** The current database, as pg.Pool takes it. */
  readonly blue: pg.PoolConfig;
  /** The new database. It may be down or empty: nothing goes there before a run says so. */
  readonly green: pg.PoolConfig;
  /** Name of this process; `verdigris.router` has it with a random part behind it. Default: host and process id. */
  readonly instance?: string;
  /** Version of the application, shown beside this process in `verdigris.router`. Default: none. */
  readonly version?: string;
  /** How often the route is looked at besides the notifications, in ms. Default 500. */
  readonly pollIntervalMs?: number;
  /** How often counters are written to the side that has writes, in ms. Default 1,000. */
  readonly heartbeatIntervalMs?: number;
  /** The longest time a request is held while no side takes it, in ms. Default 10,000. */
  readonly writeTimeoutMs?: number;
  /** How long a read waits for green to catch up before blue answers it, in ms. Default 50. */
  readonly catchUpBudgetMs?: number;
  /**
   * Whether a transaction that met the fence is run again by the router; a read-only one may be run twice in any case.
   * Default true.
   */
  readonly retryTransactions?: boolean;
  /** What a read on green must be able to see. Default `strict`. */
  readonly consistency?: Consistency;
  /** For how many users the last write is remembered. Default 100,000. */
  readonly maxTokens?: number;
  /** A share of blue's reads that is run on green too, to compare the answers. Default: none. */
  readonly mirror?: MirrorOptions;
  /** Where the metrics go until the router is closed; for one router at a time. Default: a registry of its own. */
  readonly registry?: Registry;
  /** Default: none. */
  readonly logger?: RouterLogger;
}

export type RouterSettings = Required<Omit<RouterOptions, 'registry' | 'mirror' | 'version' | 'instance'>> &
  Pick<RouterOptions, 'registry' | 'mirror' | 'version'> & { readonly instance: InstanceName };

/** Fills in the defaults. @throws RangeError for what is missing, and for a value that makes no sense. */
export function settingsOf(options: RouterOptions): RouterSettings {
  checkRequired(options);
  const settings = {
    pollIntervalMs: 500,
    heartbeatIntervalMs: 1_000,
    writeTimeoutMs: 10_000,
    catchUpBudgetMs: 50,
    retryTransactions: true,
    consistency: 'strict' as const,
    maxTokens: 100_000,
    logger: SILENT,
    ...definedOnly(options),
    instance: instanceName(options.instance),
  };
  for (const name of [
    'pollIntervalMs',
    'heartbeatIntervalMs',
    'writeTimeoutMs',
    'catchUpBudgetMs',
    'maxTokens',
  ] as const) {
    const value = settings[name];
    if (!Number.isFinite(value) || value < 0 || (value === 0 && name !== 'catchUpBudgetMs')) {
      throw new RangeError(`${name} is ${value}: give a positive number`);
    }
  }
  const { share, concurrency = 1 } = settings.mirror ?? { share: 0 };
  if (!(share >= 0 && share <= 1)) throw new RangeError(`mirror.share is ${share}: give a number from 0 to 1`);
  if (!Number.isInteger(concurrency) || concurrency < 1) {
    throw new RangeError(`mirror.concurrency is ${concurrency}: give a positive integer`);
  }
  return settings;
}

/** For callers whom no compiler has told what is required: plain JavaScript, and options read from elsewhere. */
function checkRequired(options: Partial<Record<keyof RouterOptions, unknown>> | undefined): void {
  const migration = options?.migration;
  if (typeof migration !== 'string' || migration === '') {
    throw new RangeError('the router needs the name of the migration: give "migration", the "name" of the plan');
  }
  for (const side of ['blue', 'green'] as const) {
    const config = options?.[side];
    if (typeof config === 'object' && config !== null) continue;
    const found = typeof config === 'string' ? 'a text' : 'missing';
    const such = `{ connectionString: process.env.${side.toUpperCase()}_URL }`;
    throw new RangeError(`${side} is ${found}: give "${side}" as pg.Pool takes it, such as ${such}`);
  }
}

function definedOnly(options: RouterOptions): RouterOptions {
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  ) as unknown as RouterOptions;
}
