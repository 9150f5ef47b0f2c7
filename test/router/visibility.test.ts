import { afterAll, beforeAll, expect, test } from 'vitest';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { Sides, until } from './sides.js';

/*
 * A commit moves the replication origin before it becomes visible: in between it is flushed, when the subscription
 * commits synchronously. Here that moment lasts 20 ms.
 */
const SLOW_COMMITS = { fsync: 'on', commit_delay: '20000', commit_siblings: '0' };

let server: EmbeddedPostgres;
let sides: Sides;

beforeAll(async () => {
  server = await startPostgres({ version: 18, settings: SLOW_COMMITS, name: 'test-slow-commits' });
  const { port, password } = server;
  const config = { host: '127.0.0.1', port, user: 'postgres', password, database: 'postgres' };
  const green = {
    uri: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
    config,
    port,
    database: 'postgres',
    drop: () => server.stop(),
  };
  sides = await Sides.create('visibility', green);
  await sides.sql('blue', 'INSERT INTO item VALUES (1)');
  await sides.replicate(', synchronous_commit = on');
  await sides.claim();
  await sides.stage(100);
});

afterAll(() => sides.drop());

test('a write that green is committing but does not show yet is not read there', async () => {
  const router = await sides.router({ consistency: 'session', catchUpBudgetMs: 500 });
  await until(() => router.route().greenReadPercent === 100);
  let fromGreen = 0;
  for (let i = 0; i < 20; i++) {
    const { rows } = await router.write('u', 'UPDATE item SET value = value + 1 WHERE id = 1 RETURNING value');
    const read = await router.read('u', 'SELECT value FROM item WHERE id = 1');
    expect(read.rows).toEqual(rows);
    if (read.side === 'green') fromGreen += 1;
  }
  expect(fromGreen).toBeGreaterThan(10);
});
