import { appendFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { freePort } from '../../src/embedded/free-port.js';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { Instance } from '../../src/pgbouncer/instance.js';
import { LinkProxy } from '../support/link-proxy.js';
import { PooledPair } from '../support/pooled-pair.js';
import { withClient } from '../support/postgres.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED a RELOAD beside logins: pgbouncer is not installed\n');

describe.skipIf(!isThere)('a RELOAD of a PgBouncer that asks the databases for TLS', () => {
  let pair: PooledPair;
  let link: LinkProxy;

  beforeAll(async () => {
    pair = await PooledPair.create('reload beside logins', { poolers: 1, settings: { server_tls_sslmode: 'prefer' } });
    link = await LinkProxy.start(pair.databases.blue.config.port ?? 0);
  });

  afterAll(async () => {
    await pair.close();
    await link.close();
  });

  it('waits for a login that it would end, of any entry: its client is served, and not after server_login_retry', async () => {
    const [pooler] = pair.setup.instances;
    if (pooler === undefined) throw new Error('there is one');
    const slow = { ...pair.clientOf(0), database: 'slow' };
    const { database } = pair.databases.blue.config;
    await appendFile(pooler.file, `slow = host=127.0.0.1 port=${link.port} dbname=${database}\n`);
    await withClient({ ...slow, database: 'pgbouncer' }, (admin) => admin.query('RELOAD'));
    link.delay(60);
    const instance = new Instance(pooler, pair.setup);
    try {
      const control = await instance.control();
      const asked = performance.now();
      const answer = withClient(slow, (client) => client.query<{ one: number }>('SELECT 1 AS one'));
      answer.catch(() => undefined);
      const isLoggingIn = async (): Promise<boolean> => (await control.pools()).some((pool) => pool.serversInLogin > 0);
      while (!(await isLoggingIn())) await sleep(5);
      const { epoch } = await pair.whereWritesAre();
      await instance.load({ side: 'blue', epoch, state: 'settled' });
      expect((await answer).rows).toEqual([{ one: 1 }]);
      // server_login_retry is 15 s.
      expect(performance.now() - asked).toBeLessThan(8_000);
    } finally {
      await instance.close();
    }
  });

  it('does not wait for clients of somebody else whose server is down', async () => {
    const [pooler] = pair.setup.instances;
    if (pooler === undefined) throw new Error('there is one');
    const down = { ...pair.clientOf(0), database: 'down' };
    await appendFile(pooler.file, `down = host=127.0.0.1 port=${await freePort()} dbname=theirs\n`);
    await withClient({ ...down, database: 'pgbouncer' }, (admin) => admin.query('RELOAD'));
    const client = new pg.Client(down);
    client.on('error', () => undefined);
    const instance = new Instance(pooler, pair.setup);
    try {
      const served = client.connect().then(() => client.query('SELECT 1'));
      served.catch(() => undefined);
      const control = await instance.control();
      const waits = async (): Promise<boolean> => {
        const pool = (await control.pools()).find(({ database }) => database === 'down');
        return pool !== undefined && pool.clientsWaiting > 0 && pool.servers === 0 && pool.serversInLogin === 0;
      };
      await expect.poll(waits).toBe(true);
      const { epoch } = await pair.whereWritesAre();
      const begun = performance.now();
      await instance.load({ side: 'blue', epoch, state: 'settled' });
      expect(performance.now() - begun).toBeLessThan(1_000);
      expect(await waits()).toBe(true);
    } finally {
      await instance.close();
      // It would wait for the answer.
      await pair.poolers[0]?.restart();
      await client.end().catch(() => undefined);
    }
  });
});
