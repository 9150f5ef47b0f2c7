import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { pgBouncerPools } from '../../src/pgbouncer/pgbouncer-pools.js';
import { findPgbench } from '../support/pgbench.js';
import { PooledPair } from '../support/pooled-pair.js';

const missing = findPgBouncer() === undefined ? 'pgbouncer' : findPgbench() === undefined ? 'pgbench' : undefined;
if (missing !== undefined) process.stdout.write(`SKIPPED logins behind PgBouncer: ${missing} is not installed\n`);

const CLIENTS = 30;
/** PgBouncer sees to min_pool_size three times a second. */
const LOOKS_AT_POOLS_MS = 800;

describe.skipIf(missing !== undefined)('a pause, while PgBouncer opens connections', () => {
  let pair: PooledPair;
  let clients: pg.Client[] = [];

  beforeAll(async () => {
    pair = await PooledPair.create('pooled logins', { poolers: 1, settings: { min_pool_size: '4' } });
  });

  afterAll(async () => pair.close());

  beforeEach(async () => {
    clients = await Promise.all(
      Array.from({ length: CLIENTS }, async () => {
        const client = new pg.Client(pair.clientOf(0));
        client.on('error', () => undefined);
        await client.connect();
        await client.query('SELECT 1');
        return client;
      }),
    );
  });

  afterEach(async () => {
    await Promise.all(clients.map((client) => client.end().catch(() => undefined)));
  });

  /** While the pause is taken back, one client after the other asks for something that it has not asked for before. */
  async function askWhile(work: Promise<unknown>): Promise<string[]> {
    const answers: Promise<string>[] = [];
    for (const client of clients) {
      answers.push(client.query('SELECT 1').then(() => '', String));
      await sleep(1);
    }
    await work;
    return (await Promise.all(answers)).filter((answer) => answer !== '');
  }

  /** It has min_pool_size connections again: until RECONNECT it opens none by itself. */
  async function untilFilled(admin: pg.Client): Promise<void> {
    for (;;) {
      const { rows } = await admin.query<Record<string, string>>('SHOW POOLS');
      const pool = rows.find(({ database }) => database === 'orders');
      const count = (...states: string[]): number => states.reduce((sum, name) => sum + Number(pool?.[name]), 0);
      if (count('sv_login') === 0 && count('sv_active', 'sv_idle', 'sv_used', 'sv_tested') >= 4) return;
      await sleep(5);
    }
  }

  it('refuses nobody when it opens some by itself during the pause', async () => {
    const { epoch } = await pair.whereWritesAre();
    const pools = pgBouncerPools(pair.setup, { whereWritesAre: () => pair.whereWritesAre() });
    await pools.pause('blue', epoch);
    await sleep(LOOKS_AT_POOLS_MS);
    expect(await askWhile(pools.release())).toEqual([]);
    await pools.close();
    await pair.expectSettled('blue');
  });

  it('refuses nobody whose connection was about to be opened', async () => {
    const admin = new pg.Client({ ...pair.clientOf(0), database: 'pgbouncer' });
    await admin.connect();
    for (let round = 1; round <= 20; round++) {
      const { epoch } = await pair.whereWritesAre();
      const pools = pgBouncerPools(pair.setup, { whereWritesAre: () => pair.whereWritesAre() });
      // One that is logging in when RECONNECT comes is closed as well, which is no pause's fault.
      await untilFilled(admin);
      await admin.query('RECONNECT orders');
      const busy = clients.slice(0, 8).map((client) => client.query('SELECT pg_sleep(0.02)').then(() => '', String));
      await sleep(round % 5);
      await pools.pause('blue', epoch);
      const refused = await askWhile(pools.release());
      expect([...(await Promise.all(busy)).filter((answer) => answer !== ''), ...refused]).toEqual([]);
      await pools.close();
    }
    await admin.end();
    await pair.expectSettled('blue');
  });

  it('leaves the settings as they were', async () => {
    const admin = new pg.Client({ ...pair.clientOf(0), database: 'pgbouncer' });
    await admin.connect();
    const { rows } = await admin.query<{ key: string; value: string }>('SHOW CONFIG');
    await admin.end();
    const settings = Object.fromEntries(rows.map(({ key, value }) => [key, value]));
    expect(settings).toMatchObject({ min_pool_size: '4', max_db_connections: '0', server_login_retry: '15' });
  });
});
