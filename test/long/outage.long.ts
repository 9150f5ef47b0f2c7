import { refuseCutOff } from '../../activities/instances.js';
import { VerdigrisError } from '../../src/errors.js';
import { withSession } from '../../src/postgres/session.js';
import { asDatabase } from '../support/postgres.js';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Router, Transaction } from '../../src/router/index.js';
import { metric, MIGRATION, pause, Sides, until } from '../router/sides.js';
import { TcpProxy } from '../router/tcp-proxy.js';

let sides: Sides;
let blueProxy: TcpProxy;
let greenProxy: TcpProxy;

beforeAll(async () => {
  sides = await Sides.readByAll('outage');
});

afterAll(() => sides.drop());

beforeEach(async () => {
  blueProxy = new TcpProxy(sides.blue.port);
  greenProxy = new TcpProxy(sides.green.port);
  await Promise.all([blueProxy.listen(), greenProxy.listen()]);
});

afterEach(async () => {
  await Promise.all([blueProxy.down(), greenProxy.down()]);
});

const READ = 'SELECT value FROM item WHERE id = 1';

async function router(): Promise<Router> {
  return sides.router({
    blue: { ...sides.blue.config, port: blueProxy.port },
    green: { ...sides.green.config, port: greenProxy.port },
  });
}

async function readingGreen(): Promise<Router> {
  const made = await router();
  await until(async () => (await made.read('u', READ)).side === 'green');
  return made;
}

/**
 * Reads of 20 users at once for a while; returns the longest time that one took, and the sides that answered. What the
 * same read of blue takes at most meanwhile, without a router, is the machine's and not counted.
 */
async function readFor(made: Router, ms: number): Promise<{ slowest: number; sides: Set<string>; reads: number }> {
  const until_ = performance.now() + ms;
  let slowest = 0;
  let slowestWithout = 0;
  let reads = 0;
  const seen = new Set<string>();
  const user = async (u: number): Promise<void> => {
    while (performance.now() < until_) {
      const started = performance.now();
      const { side } = await made.read(`u${u}`, READ);
      slowest = Math.max(slowest, performance.now() - started);
      seen.add(side);
      reads += 1;
      await pause(5);
    }
  };
  const withoutRouter = async (): Promise<void> => {
    while (performance.now() < until_) {
      const started = performance.now();
      await pause(5);
      await sides.sql('blue', READ);
      slowestWithout = Math.max(slowestWithout, performance.now() - started - 5);
    }
  };
  await Promise.all([withoutRouter(), ...Array.from({ length: 20 }, (_, u) => user(u))]);
  return { slowest: slowest - slowestWithout, sides: seen, reads };
}

describe('green goes away before the promotion', () => {
  test('down: no read fails, blue answers within a second, and green is used again when it is back', async () => {
    const made = await readingGreen();
    const reading = readFor(made, 1_500);
    await pause(200);
    await greenProxy.down();
    const { slowest, reads } = await reading;
    expect(slowest).toBeLessThan(1_000);
    expect(reads).toBeGreaterThan(200);
    expect((await made.read('u', READ)).side).toBe('blue');
    expect(await metric(made, 'verdigris_router_fallbacks_total', { reason: 'error' })).toBeGreaterThan(10);
    await greenProxy.listen();
    await until(async () => (await made.read('u', READ)).side === 'green');
  });

  test('frozen: no read fails, blue answers within a second, and nobody else pays for it', async () => {
    const made = await readingGreen();
    const reading = readFor(made, 1_500);
    await pause(200);
    greenProxy.freeze();
    const during = await reading;
    expect(during.slowest).toBeLessThan(1_000);
    const afterwards = await readFor(made, 1_500);
    expect(afterwards.sides).toEqual(new Set(['blue']));
    expect(afterwards.slowest).toBeLessThan(300);
    // An error on green, or none when it froze while it was being asked how far it is: gates see either as a fallback.
    expect(await metric(made, 'verdigris_router_fallbacks_total')).toBeGreaterThan(0);
    greenProxy.thaw();
    await until(async () => (await made.read('u', READ)).side === 'green');
  });

  test('frozen in the middle of a read-only transaction: the whole function runs again on blue', async () => {
    const made = await readingGreen();
    const ran: string[] = [];
    const started = performance.now();
    const value = await made.transaction('u', { readOnly: true }, async (tx) => {
      ran.push(tx.side);
      await tx.query(READ);
      if (tx.side === 'green') greenProxy.freeze();
      return (await tx.query<{ n: number }>('SELECT 1 AS n')).rows[0]?.n;
    });
    expect([value, ran]).toEqual([1, ['green', 'blue']]);
    expect(performance.now() - started).toBeLessThan(1_000);
  });

  test('a read that is slow, on a green that lives, is not taken away from it', async () => {
    const made = await readingGreen();
    expect((await made.read('u', 'SELECT pg_sleep(0.8)')).side).toBe('green');
  });
});

/** What an application reads is a view, behind a function that may raise. */
const SHOWN = 'SELECT id FROM shown WHERE id = 1';

function passes(body = ''): string {
  return `
    CREATE OR REPLACE FUNCTION passes() RETURNS boolean LANGUAGE plpgsql VOLATILE
      AS $$ DECLARE n int; BEGIN ${body} RETURN true; END $$;
    CREATE OR REPLACE VIEW shown AS SELECT id FROM item WHERE passes()`;
}

/** How green's reads failed, and how many blue has answered instead. */
async function failedReads(made: Router): Promise<{ error: number; refused: number; instead: number }> {
  const requests = 'verdigris_router_requests_total';
  return {
    error: await metric(made, requests, { side: 'green', outcome: 'error' }),
    refused: await metric(made, requests, { side: 'green', outcome: 'refused' }),
    instead: await metric(made, 'verdigris_router_fallbacks_total', { reason: 'error' }),
  };
}

describe('an error on green', () => {
  test("of green's own, such as a missing table, is answered by blue and counted against green", async () => {
    await sides.sql('blue', 'CREATE TABLE IF NOT EXISTS only_blue AS SELECT 1 AS n');
    const made = await readingGreen();
    // A green that is behind for a moment is not asked at all.
    await until(async () => {
      expect(await made.read('u', 'SELECT n FROM only_blue')).toMatchObject({ side: 'blue', rows: [{ n: 1 }] });
      return (await metric(made, 'verdigris_router_requests_total', { side: 'green', outcome: 'error' })) === 1;
    });
  });

  test("of the statement's own reaches the caller once blue has said the same, and counts against nobody", async () => {
    const made = await readingGreen();
    await expect(made.read('u', 'SELECT 1 / (value - value) FROM item')).rejects.toMatchObject({ code: '22012' });
    await expect(made.read('u', 'SELEKT 1')).rejects.toMatchObject({ code: '42601' });
    expect(await failedReads(made)).toEqual({ error: 0, refused: 2, instead: 0 });
  });

  test.each([
    ['22P02', 'an answer that can not be cast', "PERFORM 'x'::int;"],
    ['22012', 'a division by zero', "PERFORM 1 / length('');"],
    ['23514', 'a domain that refuses', "RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation';"],
    ['P0001', 'a plain RAISE EXCEPTION', "RAISE EXCEPTION 'broken';"],
    ['P0002', 'a row that is not there', 'SELECT id INTO STRICT n FROM item WHERE id = 0;'],
  ])("of green's own of class %s (%s) is answered by blue and counted against green", async (code, _, body) => {
    await sides.sql('blue', passes());
    await sides.sql('green', passes(body));
    const made = await readingGreen();
    // A green that is behind for a moment is not asked at all.
    await until(async () => {
      expect(await made.read('u', SHOWN)).toMatchObject({ side: 'blue', rows: [{ id: 1 }] });
      return (await failedReads(made)).error === 1;
    });
    expect(await failedReads(made)).toEqual({ error: 1, refused: 0, instead: 1 });
    // A function that makes another error of it is run again all the same.
    const ran: string[] = [];
    const seen: unknown[] = [];
    await until(async () => {
      const id = await made.transaction('u', { readOnly: true }, async (tx) => {
        ran.push(tx.side);
        const { rows } = await tx.query<{ id: number }>(SHOWN).catch((error: unknown) => {
          seen.push(error);
          throw new Error('the item can not be shown', { cause: error });
        });
        return rows[0]?.id;
      });
      expect(id).toBe(1);
      return ran.includes('green');
    });
    expect(ran.slice(-2)).toEqual(['green', 'blue']);
    expect(seen).toMatchObject([{ code }]);
    expect(await failedReads(made)).toEqual({ error: 2, refused: 0, instead: 2 });
  });

  test("that a transaction's function raises by design on both sides is the function's own", async () => {
    for (const side of ['blue', 'green'] as const) await sides.sql(side, passes("RAISE EXCEPTION 'no';"));
    const made = await readingGreen();
    const failures: readonly ((tx: Transaction) => Promise<unknown>)[] = [
      (tx) => tx.query(SHOWN),
      (tx) => tx.query(SHOWN).catch(() => Promise.reject(new Error('there is no such item'))),
      // It goes on, and the server rolls back.
      (tx) => tx.query(SHOWN).catch(() => 'none'),
      // What ends it is not what it has met before.
      async (tx) => {
        await tx.query('SAVEPOINT before_it');
        await tx.query(SHOWN).catch(() => tx.query('ROLLBACK TO before_it'));
        throw new Error('nothing to show');
      },
      // The second statement is only told that the transaction has failed.
      (tx) => Promise.all([tx.query(SHOWN), tx.query(READ)]),
    ];
    for (const [i, failure] of failures.entries()) {
      const ran: string[] = [];
      await until(async () => {
        const done = made.transaction('u', { readOnly: true }, (tx) => {
          ran.push(tx.side);
          return failure(tx);
        });
        await expect(done).rejects.toThrow(['no', 'there is no such item', 'had failed', 'nothing to show', 'no'][i]);
        return ran.includes('green');
      });
      expect(ran.slice(-2)).toEqual(['green', 'blue']);
    }
    expect(await failedReads(made)).toEqual({ error: 0, refused: failures.length, instead: 0 });
  });

  test('that no blue can be asked about counts against nobody', async () => {
    const made = await sides.router({
      ...{ consistency: 'session', writeTimeoutMs: 300 },
      blue: { ...sides.blue.config, port: blueProxy.port },
    });
    await until(async () => (await made.read('u', READ)).side === 'green');
    await blueProxy.down();
    await expect(made.read('u', 'SELECT 1 / (value - value) FROM item')).rejects.toMatchObject({
      code: 'WriteTimeout',
    });
    expect(await failedReads(made)).toEqual({ error: 0, refused: 1, instead: 0 });
  });
});

describe('an instance that has lost its way to green', () => {
  test('is named, and keeps writes from moving there, until it has it back', async () => {
    await greenProxy.down();
    await router();
    const mayMove = (): Promise<unknown> =>
      withSession(asDatabase(sides.blue, 'blue'), { purpose: 'test' }, (blue) =>
        refuseCutOff(blue, MIGRATION).catch((error: unknown) => error),
      );
    await sides.router({ instance: 'reaches both' });
    await until(async () => (await mayMove()) instanceof VerdigrisError, 10_000);
    const [cutOff] = await sides.sql<{ instance: string }>(
      'blue',
      `SELECT instance FROM verdigris.router WHERE metrics ? 'lacks'`,
    );
    expect(await mayMove()).toMatchObject({
      type: 'PromotionBlocked',
      what: `these instances of the application have no connection to green: ${cutOff?.instance ?? ''} (role postgres)`,
    });
    await greenProxy.listen();
    await until(async () => (await mayMove()) === undefined);
  });
});

describe('the process', () => {
  test('starts while green is away', async () => {
    await greenProxy.down();
    const made = await router();
    expect((await made.read('u', READ)).side).toBe('blue');
    await made.write('u', 'UPDATE item SET value = value + 1 WHERE id = 2');
    await greenProxy.listen();
    await until(async () => (await made.read('u', READ)).side === 'green');
  });

  test('starts while blue is away, and holds requests until it comes', async () => {
    await blueProxy.down();
    const made = await router();
    const write = made.write('u', 'UPDATE item SET value = value + 1 WHERE id = 3');
    await pause(300);
    await blueProxy.listen();
    expect((await write).side).toBe('blue');
  });

  test('outlives the loss of all its connections, idle and in use', async () => {
    const made = await readingGreen();
    await made.write('u', 'UPDATE item SET value = value + 1 WHERE id = 4');
    const asleep = made.read(undefined, 'SELECT pg_sleep(5)');
    const failed = expect(asleep).rejects.toThrow();
    await pause(100);
    blueProxy.cut();
    greenProxy.cut();
    await failed;
    expect((await made.read(undefined, READ)).side).toBe('blue');
    await until(async () => (await made.read('u', READ)).side === 'green');
  });

  test('says what is wrong with a password at once', async () => {
    const made = await sides.router({ blue: { ...sides.blue.config, password: 'wrong' } });
    const started = performance.now();
    await expect(made.write('u', 'SELECT 1')).rejects.toMatchObject({ code: '28P01' });
    expect(performance.now() - started).toBeLessThan(1_000);
  });
});
