import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { isUncovered, parseToken } from '../../src/router/token.js';
import { inCohort, type Router } from '../../src/router/index.js';
import { SILENT } from '../../src/router/logger.js';
import type { Side } from '../../src/side.js';
import { metric, pause, Sides, until } from './sides.js';

let sides: Sides;
let feed: string;

beforeAll(async () => {
  sides = await Sides.create('own writes');
  await sides.sql('blue', 'INSERT INTO item SELECT g, 0 FROM generate_series(1, 100) g');
  // Before the fence: the first synchronization is a COPY, which fires its triggers.
  feed = await sides.replicate();
  await sides.claim();
  await sides.stage(100);
});

afterAll(() => sides.drop());

const BUMP = 'UPDATE item SET value = value + 1 WHERE id = $1 RETURNING value';
const VALUE = 'SELECT value FROM item WHERE id = $1';

type Value = { value: number };

async function onGreen(router: Router): Promise<Router> {
  await until(() => router.route().greenReadPercent === 100);
  return router;
}

/** A transaction on green that keeps the apply worker from going on. */
async function holdApply<T>(work: () => Promise<T>): Promise<T> {
  await sides.sql('green', 'BEGIN; LOCK TABLE item IN SHARE MODE');
  try {
    return await work();
  } finally {
    await sides.sql('green', 'ROLLBACK');
  }
}

describe.each(['strict', 'session'] as const)('reads that are %s', (consistency) => {
  let router: Router;

  beforeEach(async () => {
    router = await onGreen(await sides.router({ consistency }));
  });

  test('a user always reads the last write, and reads it on green', async () => {
    const patient = await onGreen(await sides.router({ consistency, catchUpBudgetMs: 500 }));
    let fromGreen = 0;
    const users = Array.from({ length: 8 }, async (_, u) => {
      for (let i = 0; i < 40; i++) {
        const id = u + 1;
        const written =
          i % 2 === 0
            ? await patient.write<Value>(`u${u}`, BUMP, [id])
            : await patient.transaction(`u${u}`, {}, (tx) => tx.query<Value>(BUMP, [id]));
        const read = await patient.read<Value>(`u${u}`, VALUE, [id]);
        expect(read.rows[0]?.value).toBe(written.rows[0]?.value);
        if (read.side === 'green') fromGreen += 1;
      }
    });
    await Promise.all(users);
    expect(fromGreen).toBeGreaterThan(160);
    expect(await metric(patient, 'verdigris_router_requests_total', { outcome: 'error' })).toBe(0);
  });

  test('while green does not apply, blue answers within the budget, and it is counted', async () => {
    await holdApply(async () => {
      const { rows } = await router.write<Value>('u', BUMP, [1]);
      const started = performance.now();
      const read = await router.read<Value>('u', VALUE, [1], { endpoint: 'item' });
      expect(performance.now() - started).toBeLessThan(3_000);
      expect(read).toMatchObject({ side: 'blue', rows });
      expect(await metric(router, 'verdigris_router_fallbacks_total', { reason: 'behind', endpoint: 'item' })).toBe(1);
    });
    await until(async () => (await router.read('u', VALUE, [1])).side === 'green');
  });

  test('a read-only transaction reads green as a read does', async () => {
    // Where green has not applied the write within the budget, blue answers as it should.
    await until(async () => {
      const written = await router.write<Value>('u', BUMP, [2]);
      const read = await router.transaction('u', { readOnly: true }, async (tx) => ({
        side: tx.side,
        rows: (await tx.query<Value>(VALUE, [2])).rows,
      }));
      expect(read.rows).toEqual(written.rows);
      return read.side === 'green';
    });
  });

  test('a user whose commits are not flushed reads blue', async () => {
    const careless = await onGreen(
      await sides.router({ consistency, blue: { ...sides.blue.config, options: '-c synchronous_commit=off' } }),
    );
    const { rows } = await careless.write<Value>('u', BUMP, [3]);
    expect(await careless.read<Value>('u', VALUE, [3])).toMatchObject({ side: 'blue', rows });
    // Another process could take a position that does not cover it: it is told so.
    await onGreen(router);
    expect(router.importToken('u', careless.exportToken('u') ?? '')).toBe(true);
    expect((await router.read('u', VALUE, [3])).side).toBe('blue');

    await router.transaction('v', {}, async (tx) => {
      await tx.query('SET LOCAL synchronous_commit = off');
      return tx.query(BUMP, [4]);
    });
    expect((await router.read('v', VALUE, [4])).side).toBe('blue');
    // A later, flushed write covers the earlier one.
    await router.write('v', BUMP, [4]);
    await until(async () => (await router.read('v', VALUE, [4])).side === 'green');
  });
});

test('strict reads see what another process has written just before, without a token', async () => {
  const [writer, reader] = [await onGreen(await sides.router()), await onGreen(await sides.router())];
  for (let i = 0; i < 50; i++) {
    const written = await writer.write<Value>('u', BUMP, [10]);
    const read = await reader.read<Value>('u', VALUE, [10]);
    expect(read.rows).toEqual(written.rows);
  }
});

test('a token carries a write to another process whose reads are of the session', async () => {
  const options = { consistency: 'session' } as const;
  const [writer, reader] = [await onGreen(await sides.router(options)), await onGreen(await sides.router(options))];
  await reader.read('u', VALUE, [11]);
  await holdApply(async () => {
    const written = await writer.write<Value>('u', BUMP, [11]);
    const token = writer.exportToken('u') ?? '';
    expect(parseToken(token)).toBeDefined();
    expect(reader.importToken('u', token)).toBe(true);
    expect(await reader.read<Value>('u', VALUE, [11])).toMatchObject({ side: 'blue', rows: written.rows });
  });
});

test('a process that has not heard of the stage yet hides no write from one that has', async () => {
  await sides.stage(0);
  try {
    const options = { consistency: 'session' } as const;
    const behind = await sides.router({ ...options, pollIntervalMs: 60_000 });
    await until(() => behind.route().greenReadPercent === 0);
    // Nobody is told: the row changes without a notification.
    await sides.sql('blue', 'UPDATE verdigris.route SET green_read_percent = 100, generation = generation + 1');
    const reader = await onGreen(await sides.router(options));
    for (const user of ['writes', 'commits'])
      await until(async () => (await reader.read(user, VALUE, [12])).side === 'green');
    await holdApply(async () => {
      const written = await behind.write<Value>('writes', BUMP, [12]);
      expect(reader.importToken('writes', behind.exportToken('writes') ?? '')).toBe(true);
      expect(await reader.read<Value>('writes', VALUE, [12])).toMatchObject({ side: 'blue', rows: written.rows });
      const committed = await behind.transaction('commits', {}, (tx) => tx.query<Value>(BUMP, [12]));
      const token = parseToken(behind.exportToken('commits') ?? '');
      expect(token !== undefined && isUncovered(token)).toBe(false);
      expect(reader.importToken('commits', behind.exportToken('commits') ?? '')).toBe(true);
      expect(await reader.read<Value>('commits', VALUE, [12])).toMatchObject({ side: 'blue', rows: committed.rows });
    });
    expect(behind.route().greenReadPercent).toBe(0);
    // It is covered as soon as green has it.
    await until(async () => (await reader.read('commits', VALUE, [12])).side === 'green');
  } finally {
    await sides.stage(100);
  }
});

test('a token that is none is refused and changes nothing', async () => {
  const router = await onGreen(await sides.router());
  for (const text of ['', '1', 'x:0/0', '1:0/0:2', '-1:0/0', '1:G/0', '1e9:0/0', '1:0/123456789']) {
    expect(router.importToken('u', text)).toBe(false);
  }
  expect(router.exportToken('u')).toBeUndefined();
});

test('users outside the cohort and nobody in particular read blue', async () => {
  const router = await onGreen(await sides.router());
  expect((await router.read(undefined, VALUE, [1])).side).toBe('blue');
  for (const nobody of ['', null as unknown as string]) {
    await router.write(nobody, BUMP, [1]);
    expect(router.exportToken(nobody)).toBeUndefined();
    expect((await router.read(nobody, VALUE, [1])).side).toBe('blue');
    expect(inCohort('use-green-db', nobody, 100)).toBe(false);
  }
  expect(await metric(router, 'verdigris_router_fallbacks_total')).toBe(0);
  await until(async () => (await router.read('u', VALUE, [1])).side === 'green');
  await sides.stage(0);
  await until(() => router.route().greenReadPercent === 0);
  expect((await router.read('u', VALUE, [1])).side).toBe('blue');
  await sides.stage(100);
});

test('reads on green are read-only, and a read that writes is answered by blue without blaming green', async () => {
  const router = await onGreen(await sides.router());
  await sides.sql('blue', 'CREATE SEQUENCE IF NOT EXISTS counter');
  await sides.sql('green', 'CREATE SEQUENCE IF NOT EXISTS counter');
  await until(async () => (await router.read('u', VALUE, [1])).side === 'green');
  const next = await router.read<{ n: string }>('u', "SELECT nextval('counter') AS n");
  expect(next.side).toBe('blue');
  expect(await sides.sql('green', 'SELECT is_called FROM counter')).toEqual([{ is_called: false }]);
  expect(await metric(router, 'verdigris_router_requests_total', { side: 'green', outcome: 'error' })).toBe(0);
  // Gates take a fallback for a read that green could not answer.
  expect(await metric(router, 'verdigris_router_fallbacks_total', { reason: 'error' })).toBe(0);
});

test('users of an application that reads all types in its own way read on green as well', async () => {
  const types = { getTypeParser: () => (value: string | Buffer) => ({ value }) };
  const config = { blue: { ...sides.blue.config, types }, green: { ...sides.green.config, types } };
  const router = await sides.router(config);
  await until(async () => (await router.read('u', VALUE, [1])).side === 'green', 10_000);
  expect(router.route()).toMatchObject({ epoch: expect.any(Number) as number, greenReadPercent: 100, opening: null });
  // Where their commits are in the log is the router's own question, too.
  await router.write('writes', BUMP, [5]);
  await router.transaction('commits', {}, (tx) => tx.query(BUMP, [6]));
  for (const user of ['writes', 'commits'])
    await until(async () => (await router.read(user, VALUE, [5])).side === 'green', 3_000);
});

test.each([
  "SELECT pg_notify('jobs', '1')",
  'SELECT pg_try_advisory_xact_lock(1)',
  '-- a job\nNOTIFY jobs',
  'SELECT 1; /* a job */ NOTIFY jobs',
  'DO $$ BEGIN NOTIFY jobs; END $$',
])('what would be heard, or would exclude others, on green alone is answered by blue: %s', async (text) => {
  const warnings: string[] = [];
  const logger = { ...SILENT, warn: (_: object, message: string) => warnings.push(message) };
  const router = await onGreen(await sides.router({ catchUpBudgetMs: 5_000, logger }));
  await until(async () => (await router.read('u', VALUE, [1])).side === 'green');
  const before = await metric(router, 'verdigris_router_fallbacks_total');
  expect((await router.read('u', text)).side).toBe('blue');
  const ran: string[] = [];
  const read = router.transaction('u', { readOnly: true }, async (tx) => {
    ran.push(tx.side);
    await tx.query(VALUE, [1]);
    // Whatever the function makes of it.
    await tx.query(text).catch(() => undefined);
    return tx.side;
  });
  expect([await read, ran]).toEqual(['blue', ['green', 'blue']]);
  expect(await metric(router, 'verdigris_router_requests_total', { outcome: 'error' })).toBe(0);
  expect(await metric(router, 'verdigris_router_fallbacks_total')).toBe(before);
  expect(warnings).toEqual([]);
});

// The last ones: they end the epoch that the others live in.
test('a process that has not heard of the promotion looks again when it meets a token of the new epoch', async () => {
  const behind = await onGreen(await sides.router({ pollIntervalMs: 60_000 }));
  const before = behind.route().epoch;
  // Nobody is told: the row changes without a notification.
  for (const side of ['blue', 'green'] as const) {
    await sides.sql(
      side,
      "UPDATE verdigris.route SET epoch = epoch + 1, writes_on = 'green', green_read_percent = 100",
    );
  }
  await sides.sql('green', `ALTER SUBSCRIPTION "${feed}" DISABLE`);
  await sides.setFence('blue', 'closed');
  await sides.setFence('green', 'open');
  const promoted = await sides.router();
  const written = await promoted.write<Value>('u', BUMP, [20]);
  expect(written.side).toBe('green');
  await pause(50);
  expect(behind.route().epoch).toBe(before);
  behind.importToken('u', promoted.exportToken('u') ?? '');
  expect(await behind.read<Value>('u', VALUE, [20])).toMatchObject({ side: 'green', rows: written.rows });
});

/** Nobody is told: the row changes without a notification. */
async function moveUnheard(to: Side): Promise<void> {
  for (const side of ['blue', 'green'] as const) {
    await sides.sql(side, 'UPDATE verdigris.route SET epoch = epoch + 1, writes_on = $1, green_read_percent = $2', [
      to,
      to === 'green' ? 100 : 0,
    ]);
    await sides.setFence(side, side === to ? 'open' : 'closed');
  }
}

test.each(['strict', 'session'] as const)(
  'a process that has not heard of the rollback looks again when it meets a token of a write on blue (%s)',
  async (consistency) => {
    await moveUnheard('green');
    const behind = await sides.router({ pollIntervalMs: 60_000, consistency });
    await behind.write<Value>('u', BUMP, [20]);
    const ofGreen = behind.exportToken('u') ?? '';
    await moveUnheard('blue');
    const back = await sides.router({ consistency });
    back.importToken('u', ofGreen);
    const written = await back.write<Value>('u', BUMP, [20]);
    expect(written.side).toBe('blue');
    expect(behind.route().writesOn).toBe('green');
    behind.importToken('u', back.exportToken('u') ?? '');
    expect(await behind.read<Value>('u', VALUE, [20])).toMatchObject({ side: 'blue', rows: written.rows });
  },
);
