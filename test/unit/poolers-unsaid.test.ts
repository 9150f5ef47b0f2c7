import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { pgBouncerPools } from '../../src/pgbouncer/pgbouncer-pools.js';
import type { Pools } from '../../src/postgres/pools.js';

const ENTRIES = 'orders = host=blue\norders_blue = host=blue\norders_green = host=green\n';
const MOVING = 'verdigris_m = host=127.0.0.1 port=1 dbname=epoch_1_blue_moving_1a2b3c4d\n';

describe('poolers, while neither database says where writes are', () => {
  let folder = '';
  let port = 0;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'verdigris-unsaid-'));
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    port = (server.address() as AddressInfo).port;
    await new Promise((resolve) => server.close(resolve));
  });

  afterAll(async () => rm(folder, { recursive: true, force: true }));

  /** Of a PgBouncer that does not run, by its file, as a worker has them that begins. */
  async function pools(text: string, whereWritesAre: () => Promise<undefined>): Promise<Pools> {
    const file = join(folder, 'orders.ini');
    await writeFile(file, text);
    const instance = { connection: 'pool_1', config: { host: '127.0.0.1', port, user: 'v', password: 'v' }, file };
    const aliases = { blue: 'orders_blue', green: 'orders_green' };
    const setup = { migration: 'm', instances: [instance], databases: ['orders'], aliases, pauseTimeoutMs: 100 };
    return pgBouncerPools(setup, { whereWritesAre });
  }

  it.each([
    ['answers', () => Promise.reject(new Error('no answer'))],
    ['knows a route', () => Promise.resolve(undefined)],
  ])('are not released where a pause of ours may be open, and no database %s', async (_, asked) => {
    const paused = await pools(ENTRIES + MOVING, asked);
    expect(await paused.release()).toEqual([
      { pooler: 'pool_1', why: expect.stringContaining('neither database says where writes are') as string },
    ]);
    await paused.close();
  });

  it('are left alone where there is none', async () => {
    for (const mark of ['', MOVING.replace('moving_1a2b3c4d', 'settled')]) {
      const untouched = await pools(ENTRIES + mark, () => Promise.resolve(undefined));
      expect(await untouched.release()).toEqual([]);
      await untouched.close();
    }
  });
});
