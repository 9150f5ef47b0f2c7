import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { pause, Sides } from './sides.js';
import { TcpProxy } from './tcp-proxy.js';

/*
 * A process that starts while a side takes connections and never answers, as behind a firewall that drops packets, with
 * a pool that waits long for a connection.
 */

const PATIENT = { connectionTimeoutMillis: 10_000 };

let sides: Sides;
let proxy: TcpProxy;

beforeAll(async () => {
  sides = await (await Sides.create('start')).claim();
});

beforeEach(() => sides.reset());

afterEach(() => proxy.down());

afterAll(() => sides.drop());

async function silent(port: number): Promise<number> {
  proxy = new TcpProxy(port);
  await proxy.listen();
  proxy.freeze();
  return proxy.port;
}

test('green: it serves from blue after a second, and ends as soon', async () => {
  const green = { ...sides.green.config, ...PATIENT, port: await silent(sides.green.port) };
  const started = performance.now();
  const router = await sides.router({ green });
  expect((await router.read(undefined, 'SELECT 1')).side).toBe('blue');
  const read = performance.now();
  // Far less than the pool is patient.
  expect(read - started).toBeLessThan(8_000);
  await router.close();
  expect(performance.now() - read).toBeLessThan(8_000);
});

test('blue, after a promotion: it goes to green', async () => {
  await sides.decide('green');
  await sides.open('green');
  const blue = { ...sides.blue.config, ...PATIENT, port: await silent(sides.blue.port) };
  const started = performance.now();
  const router = await sides.router({ blue });
  expect((await router.write('u', 'INSERT INTO item VALUES (1)')).side).toBe('green');
  expect((await router.read(undefined, 'SELECT 1')).side).toBe('green');
  expect(performance.now() - started).toBeLessThan(8_000);
});

test('blue, at a Unix socket that is not there while its server starts: a write waits for it', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'socket-'));
  try {
    proxy = new TcpProxy(sides.blue.port, join(folder, '.s.PGSQL.5432'));
    const router = await sides.router({ blue: { ...sides.blue.config, host: folder, port: 5432 } });
    const writing = router.write('u', 'INSERT INTO item VALUES (1)').catch((error: unknown) => error);
    await pause(300);
    await proxy.listen();
    expect(await writing).toMatchObject({ side: 'blue', rowCount: 1 });
    await router.close();
  } finally {
    await rm(folder, { recursive: true });
  }
});
