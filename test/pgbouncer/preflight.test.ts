import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { checkPgBouncers } from '../../src/pgbouncer/preflight.js';
import { parsePlan } from '../../src/plan/parse.js';
import { PooledPair } from '../support/pooled-pair.js';
import { withClient } from '../support/postgres.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED the preflight of PgBouncer: pgbouncer is not installed\n');

describe.skipIf(!isThere)('the preflight of PgBouncer', () => {
  let pair: PooledPair;

  beforeAll(async () => {
    // A login that has failed keeps the next ones away for 15 s by default.
    pair = await PooledPair.create('pooled preflight', { poolers: 1, settings: { server_login_retry: '1' } });
  });

  afterAll(async () => pair.close());

  async function findings(more: { file?: string; connection?: string; pauseTimeout?: string } = {}): Promise<string[]> {
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
    return found.map(({ severity, check }) => `${severity} ${check}`).sort();
  }

  async function admin(...commands: string[]): Promise<void> {
    await withClient({ ...pair.clientOf(0), database: 'pgbouncer' }, async (console) => {
      for (const command of commands) await console.query(command);
    });
  }

  it('finds nothing where all is well, and leaves the file as it is', async () => {
    const before = readFileSync(pair.poolers[0]?.file ?? '', 'utf8');
    expect(await findings()).toEqual([]);
    expect(readFileSync(pair.poolers[0]?.file ?? '', 'utf8')).toBe(before);
  });

  it('refuses session pooling, and clients that are cut off while they wait', async () => {
    await admin("SET pool_mode = 'session'", "SET query_wait_timeout = '3'");
    expect(await findings()).toEqual(['error pgbouncer-pool-mode', 'error pgbouncer-wait']);
    await admin('RELOAD');
  });

  it('warns of an entry whose own limits a pause can not change for its time', async () => {
    const file = pair.poolers[0]?.file ?? '';
    const right = readFileSync(file, 'utf8');
    writeFileSync(file, right.replace(/^(orders = .*)$/m, '$1 min_pool_size=2'));
    await admin('RELOAD');
    expect(await findings()).toEqual(['warning pgbouncer-limits']);
    writeFileSync(file, right);
    await admin('RELOAD');
  });

  it('refuses a console that it does not know, or that is not there, and a file that is not there', async () => {
    expect(await findings({ connection: 'other' })).toEqual(['error pgbouncer-console']);
    expect(await findings({ file: '/nowhere/orders.ini' })).toEqual(['error pgbouncer-file']);
    await pair.poolers[0]?.stopProcess();
    expect(await findings()).toEqual(['error pgbouncer-console']);
    await pair.poolers[0]?.restart();
  });

  it('refuses a way to green that leads nowhere, or to blue, and a pause', async () => {
    const file = pair.poolers[0]?.file ?? '';
    const right = readFileSync(file, 'utf8');
    const blue = /^orders_blue = (.*)$/m.exec(right)?.[1] ?? '';
    for (const [entry, found] of [
      ['host=127.0.0.1 port=1 dbname=nowhere', ['error pgbouncer-reach']],
      [blue, ['error pgbouncer-entries', 'error pgbouncer-reach']],
    ] as const) {
      writeFileSync(file, right.replace(/^orders_green = .*$/m, `orders_green = ${entry}`));
      // A server that is not there takes its time to be found out: asked once.
      if (entry === blue) expect(await findings()).toContain('error pgbouncer-file');
      await admin('RELOAD');
      expect(await findings()).toEqual(found);
    }
    writeFileSync(file, right);
    await admin('RELOAD', 'PAUSE orders');
    // A server connection of the wrong entry may be there for a moment yet.
    await expect.poll(() => findings(), { timeout: 10_000 }).toEqual(['error pgbouncer-entries']);
    await admin('RESUME orders');
    expect(await findings()).toEqual([]);
  });
});
