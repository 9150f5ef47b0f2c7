import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Router, RouterOptions } from '../../src/router/index.js';
import { metric, pause, Sides, until } from './sides.js';

let sides: Sides;

beforeAll(async () => {
  sides = await Sides.readByAll('failed on green');
});

afterAll(() => sides.drop());

const READ = 'SELECT value FROM item WHERE id = 1';

async function readingGreen(options: Partial<RouterOptions> = {}): Promise<Router> {
  // Of the session: a green that is behind for a moment, with nothing of this user, is asked all the same.
  const made = await sides.router({ consistency: 'session', ...options });
  await until(async () => (await made.read('u', READ)).side === 'green');
  return made;
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

test("a network error of the function's own is not green's: nothing runs again, and green is read on", async () => {
  const made = await readingGreen();
  const away = Object.assign(new Error('the cache is away'), { code: 'ECONNREFUSED' });
  const ran: string[] = [];
  for (const thrown of [away, new TypeError('fetch failed', { cause: away }), away, away]) {
    const read = made.transaction('u', { readOnly: true }, async (tx) => {
      ran.push(tx.side);
      await tx.query(READ);
      throw thrown;
    });
    await expect(read).rejects.toBe(thrown);
  }
  expect(ran).toEqual(['green', 'green', 'green', 'green']);
  expect(await failedReads(made)).toEqual({ error: 0, refused: 4, instead: 0 });
  expect((await made.read('u', READ)).side).toBe('green');
});

test("a statement that fails with class 08 on both sides is the application's own", async () => {
  const made = await readingGreen();
  for (let i = 0; i < 4; i++) {
    await expect(made.read('u', 'SELECT $1::int, $2::int', [1])).rejects.toMatchObject({ code: '08P01' });
  }
  expect(await failedReads(made)).toEqual({ error: 0, refused: 4, instead: 0 });
  expect((await made.read('u', READ)).side).toBe('green');
});

test('a connection to green that is lost before a read-only transaction ends is no error: blue answers', async () => {
  const made = await readingGreen();
  const ran: string[] = [];
  await made.transaction('u', { readOnly: true }, async (tx) => {
    ran.push(tx.side);
    const { rows } = await tx.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    if (tx.side === 'green') await sides.sql('green', 'SELECT pg_terminate_backend($1, 5000)', [rows[0]?.pid]);
    await pause(100);
  });
  expect(ran).toEqual(['green', 'blue']);
  expect(await failedReads(made)).toEqual({ error: 1, refused: 0, instead: 1 });
});

test('a read-only transaction that gets no connection to green, for whatever reason, is answered by blue', async () => {
  let isBroken = false;
  const onConnect = (): void => {
    if (isBroken) throw new Error('the hook is not well');
  };
  const made = await readingGreen({ green: { ...sides.green.config, onConnect } });
  isBroken = true;
  const lose = `
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
     WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
       AND application_name <> 'verdigris router'`;
  await sides.sql('green', lose);
  await pause(100);
  const ran: string[] = [];
  for (let i = 0; i < 4; i++) {
    await made.transaction('u', { readOnly: true }, async (tx) => {
      ran.push(tx.side);
      await tx.query(READ);
    });
  }
  expect(ran).toEqual(['blue', 'blue', 'blue', 'blue']);
  // After three of them green is left alone for a while.
  expect(await failedReads(made)).toEqual({ error: 3, refused: 0, instead: 4 });
});

test('a read that waits in vain since the pool is busy, not stuck, is answered by blue and no error of green', async () => {
  const made = await readingGreen({ green: { ...sides.green.config, max: 1 } });
  const slow = (): Promise<unknown> =>
    made.transaction('u', { readOnly: true }, async (tx) => {
      await tx.query(READ);
      // One is waited for, two are not.
      await pause(550);
    });
  const busy = [slow(), slow()];
  expect((await made.read('u', READ)).side).toBe('blue');
  await Promise.all(busy);
  expect(await failedReads(made)).toEqual({ error: 0, refused: 1, instead: 1 });
});

test('a read waits a second for a free connection to green, then blue answers: an error of a green that is not away', async () => {
  const made = await readingGreen({ green: { ...sides.green.config, max: 1 } });
  let release: () => void = () => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  const sidesOfInner: string[] = [];
  // It reads within itself, too, and would wait for itself.
  const holding = made.transaction('u', { readOnly: true }, async (tx) => {
    await tx.query(READ);
    sidesOfInner.push((await made.read('u', READ)).side);
    await released;
    throw new Error('no success that makes up for the failures');
  });
  const started = performance.now();
  const answers = await Promise.all([1, 2, 3, 4].map(() => made.read('u', READ)));
  expect(performance.now() - started).toBeLessThan(8_000);
  expect(answers.map(({ side }) => side)).toEqual(['blue', 'blue', 'blue', 'blue']);
  release();
  await expect(holding).rejects.toThrow('no success');
  expect(sidesOfInner).toEqual(['blue']);
  expect(await failedReads(made)).toEqual({ error: 5, refused: 1, instead: 5 });
  expect((await made.read('u', READ)).side).toBe('green');
});
