import { expect } from 'vitest';
import { parsePlan } from '../../src/plan/parse.js';
import { checkPgBouncers } from '../../src/pgbouncer/preflight.js';
import type { PreflightFinding } from '../../src/postgres/preflight/finding.js';
import type { PooledPair } from './pooled-pair.js';
import { withClient } from './postgres.js';

interface Asked {
  readonly file?: string;
  readonly connection?: string;
  readonly pauseTimeout?: string;
}

/** What the preflight finds of the pair's first PgBouncer: severities and checks, sorted. */
export async function poolerFindings(pair: PooledPair, more: Asked = {}): Promise<string[]> {
  return (await whatPreflightSays(pair, more)).map(({ severity, check }) => `${severity} ${check}`).sort();
}

export async function whatPreflightSays(pair: PooledPair, more: Asked = {}): Promise<PreflightFinding[]> {
  const { port, user, password } = pair.clientOf(0);
  const file = more.file ?? pair.poolers[0]?.file ?? '';
  const { connection = 'pool', pauseTimeout = '1s' } = more;
  const parsed = parsePlan({
    ...{ name: pair.migration, blue: { connection: 'a' }, green: { connection: 'b' } },
    traffic: { stages: [], pgbouncer: { databases: ['orders'], instances: [{ connection, file }], pauseTimeout } },
  });
  if (!('plan' in parsed)) throw new Error('the plan is not one');
  const environment = { VERDIGRIS_CONNECTION_POOL: `postgres://${user}:${password}@127.0.0.1:${port}/pgbouncer` };
  const found = await checkPgBouncers(parsed.plan, pair.databases, environment);
  expect(found.map(({ message, remedy }) => `${message} ${remedy}`).join()).not.toContain('secret');
  return found;
}

/** Commands to the console of the pair's first PgBouncer. */
export async function poolerAdmin(pair: PooledPair, ...commands: string[]): Promise<void> {
  await withClient({ ...pair.clientOf(0), database: 'pgbouncer' }, async (console) => {
    for (const command of commands) await console.query(command);
  });
}
