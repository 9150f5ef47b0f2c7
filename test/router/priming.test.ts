import net from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { RecentStatements } from '../../src/router/recent-statements.js';
import type { Router } from '../../src/router/index.js';
import { StatementProxy } from '../support/statement-proxy.js';
import { Sides, until } from './sides.js';

const INSERT = 'INSERT INTO item (id) VALUES ($1) RETURNING id';
const CONNECTIONS = 3;

let sides: Sides;
let proxy: StatementProxy;
let seen: string[];

beforeAll(async () => {
  sides = await (await Sides.create('priming')).claim();
  proxy = await StatementProxy.start(sides.green.config.port ?? 5432, ({ session, text }) => {
    // The router's own link asks about its route and beats.
    if (session === 'shop' && !/verdigris\.(route|router_heartbeat)\b/.test(text)) seen.push(text);
  });
});

beforeEach(async () => {
  seen = [];
  await sides.reset();
});

afterAll(async () => {
  await proxy.close();
  await sides.drop();
});

/** Its connections to green pass the proxy. */
async function routerWithConnections(): Promise<Router> {
  const { config } = sides.green;
  const router = await sides.router({
    blue: { ...sides.blue.config, max: CONNECTIONS },
    green: { ...config, host: '127.0.0.1', port: proxy.port, max: CONNECTIONS, application_name: 'shop' },
  });
  await Promise.all(Array.from({ length: CONNECTIONS }, () => router.read('u', 'SELECT pg_sleep(0.05)')));
  return router;
}

async function announce(): Promise<void> {
  await sides.sql(
    'blue',
    "UPDATE verdigris.route SET opening = 'green', generation = generation + 1; NOTIFY verdigris_route",
  );
}

const timesSeen = (text: string): number => seen.filter((one) => one === text).length;

/** Primed connections may write again. */
const arePrimed = (): boolean => timesSeen('RESET default_transaction_read_only') >= CONNECTIONS;

describe('connections to the side that will take writes', () => {
  test('plan what the application has run, each of them, and run nothing of it', async () => {
    const router = await routerWithConnections();
    await router.write('u', INSERT, [1]);
    // Nothing but the router's own care keeps a write from being done.
    await sides.sql('green', 'ALTER TABLE item DISABLE TRIGGER _verdigris_fence');
    await announce();
    await until(arePrimed);
    expect(timesSeen('EXPLAIN INSERT INTO item (id) VALUES ($#) RETURNING id')).toBe(CONNECTIONS);
    expect(timesSeen('SELECT verdigris.get_ready()')).toBe(CONNECTIONS);
    expect(await sides.sql('green', 'SELECT FROM item')).toHaveLength(0);
  });

  test('are ready to write at once, with nothing to be set before', async () => {
    const router = await routerWithConnections();
    await router.write('u', INSERT, [1]);
    await announce();
    await until(arePrimed);
    await sides.decide('green');
    await sides.open('green');
    await until(() => router.route().writesOn === 'green');
    seen = [];
    await Promise.all([2, 3, 4].map((id) => router.write('u', INSERT, [id])));
    expect(seen).toEqual(Array.from({ length: 3 }, () => 'INSERT INTO item (id) VALUES ($#) RETURNING id'));
  });

  test('are of use when a statement can not be planned there', async () => {
    const router = await routerWithConnections();
    await sides.sql('blue', 'CREATE TABLE only_on_blue (id int)');
    await router.write('u', INSERT, [1]);
    await router.write('u', 'INSERT INTO only_on_blue VALUES (1)');
    await announce();
    await until(arePrimed);
    expect(timesSeen('EXPLAIN INSERT INTO item (id) VALUES ($#) RETURNING id')).toBe(CONNECTIONS);
    // And the router's link. What was seen last may still run, and the link asks now and then.
    await until(async () => {
      const [row] = await sides.sql<{ n: number }>(
        'green',
        "SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'shop' AND state = 'idle'",
      );
      return row?.n === CONNECTIONS + 1;
    });
    await sides.sql('blue', 'DROP TABLE only_on_blue');
  });

  test('of which one is silent do not keep the others from writing, nor for long their pool from another one', async () => {
    const router = await routerWithConnections();
    await router.write('u', INSERT, [1]);
    let begun = 0;
    const last = proxy.stopWhere(({ session, text }) => {
      if (session === 'shop' && text === 'SET default_transaction_read_only = on') begun += 1;
      return begun === CONNECTIONS;
    }, 'before');
    await announce();
    await last;
    const began = performance.now();
    await sides.decide('green');
    await sides.open('green');
    const done = [2, 3, 4].map(async (id) => {
      await router.write('u', INSERT, [id]);
      return performance.now() - began;
    });
    const [, second, third] = (await Promise.all(done)).sort((a, b) => a - b);
    expect(second).toBeLessThan(900);
    expect(third).toBeLessThan(3_000);
  });

  test('are asked every half minute whether they live, since networks forget the silent ones', async () => {
    const asked = vi.spyOn(net.Socket.prototype, 'setKeepAlive');
    try {
      await routerWithConnections();
      const delays = asked.mock.calls.map(([isOn, delay]) => isOn === true && delay);
      // The two links, and the pool's.
      expect(delays.length).toBeGreaterThanOrEqual(2 + CONNECTIONS);
      expect(new Set(delays)).toEqual(new Set([30_000]));
    } finally {
      asked.mockRestore();
    }
  });

  test('do not keep a read on green waiting behind all of them', async () => {
    const router = await routerWithConnections();
    await router.write('u', INSERT, [1]);
    await sides.stage(100);
    await until(() => router.route().greenReadPercent === 100);
    // Each plan waits for this lock, and gives up after a second.
    await sides.sql('green', 'BEGIN; LOCK TABLE item IN ACCESS EXCLUSIVE MODE');
    try {
      await announce();
      await until(() => seen.some((text) => text.startsWith('EXPLAIN INSERT')));
      const began = performance.now();
      await Promise.all([1, 2].map(() => router.read(undefined, 'SELECT 1')));
      expect(performance.now() - began).toBeLessThan(900);
    } finally {
      await sides.sql('green', 'ROLLBACK');
    }
  });
});

describe('what is remembered of the statements', () => {
  const texts = (statements: RecentStatements): string[] => statements.list().map(({ text }) => text);

  test('is bounded, and what is used goes on being remembered', () => {
    const statements = new RecentStatements();
    for (let n = 0; n < 1_000; n++) {
      statements.add(`SELECT ${n}`, undefined);
      statements.add('SELECT $1', [n]);
    }
    expect(texts(statements)).toHaveLength(64);
    expect(texts(statements)).toContain('SELECT $1');
    expect(texts(statements)).not.toContain('SELECT 1');
    expect(texts(statements)[0]).toBe('SELECT $1');
  });

  test('is only what EXPLAIN plans without running it, one statement alone', () => {
    const statements = new RecentStatements();
    for (const text of [
      'ANALYZE item',
      '(ANALYZE) DELETE FROM item',
      'CALL f()',
      'SET x = 1',
      'TRUNCATE item',
      "SELECT 1; DELETE FROM item WHERE name = 'x'",
      `SELECT '${'x'.repeat(20_000)}'`,
    ]) {
      statements.add(text, undefined);
    }
    expect(texts(statements)).toEqual([]);
    statements.add('/* from: cart */ INSERT INTO item VALUES ($1);', [1]);
    expect(texts(statements)).toHaveLength(1);
  });

  test('holds no large values, and none that the caller may change', () => {
    const statements = new RecentStatements();
    const values: unknown[] = [1, 'x'.repeat(5_000), Buffer.alloc(10), null, 'short'];
    statements.add('INSERT INTO item VALUES ($1, $2, $3, $4, $5)', values);
    values[0] = 2;
    expect(statements.list()[0]?.values).toEqual([1, null, null, null, 'short']);
  });
});
