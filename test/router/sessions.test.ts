import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import {
  CommitOutcomeUnknownError,
  NotSupportedError,
  TransactionControlError,
  WriteMovedError,
  WriteTimeoutError,
  type Router,
} from '../../src/router/index.js';
import type { Side } from '../../src/side.js';
import { within } from '../../src/timing.js';
import { PiecemealProxy } from './piecemeal-proxy.js';
import { metric, pause, Sides, until } from './sides.js';

const INSERT = 'INSERT INTO item (id) VALUES ($1) RETURNING id';

let sides: Sides;
let router: Router;

beforeAll(async () => {
  sides = await (await Sides.create('sessions')).claim();
  for (const side of ['blue', 'green'] as const) {
    await sides.sql(
      side,
      `CREATE FUNCTION careless(wanted int) RETURNS text LANGUAGE plpgsql AS $$
       BEGIN
         INSERT INTO item (id) VALUES (wanted);
         RETURN 'written';
       EXCEPTION WHEN OTHERS THEN
         RETURN 'swallowed';
       END $$;
       CREATE FUNCTION loud(wanted int) RETURNS text LANGUAGE plpgsql AS $$
       BEGIN
         INSERT INTO item (id) VALUES (wanted);
         RETURN 'written';
       EXCEPTION WHEN OTHERS THEN
         RAISE EXCEPTION 'can not save %: %', wanted, SQLERRM;
       END $$;
       CREATE PROCEDURE in_chunks(first int, chunks int) LANGUAGE plpgsql AS $$
       BEGIN
         FOR n IN first .. first + chunks - 1 LOOP
           INSERT INTO item (id) VALUES (n);
           COMMIT;
           PERFORM pg_sleep(0.15);
         END LOOP;
       END $$`,
    );
  }
});

beforeEach(async () => {
  await sides.reset();
  router = await sides.router();
});

afterAll(() => sides.drop());

async function ids(side: Side): Promise<number[]> {
  return (await sides.sql<{ id: number }>(side, 'SELECT id FROM item ORDER BY id')).map((row) => row.id);
}

async function moveWritesToGreen(): Promise<void> {
  await sides.decide('green');
  await sides.open('green');
}

async function moveFencesOnly(): Promise<void> {
  await sides.setFence('blue', 'closed');
  await sides.setFence('green', 'open');
}

describe("a function that swallows the fence's error on the server", () => {
  test('in a transaction is run again on the other side', async () => {
    await moveFencesOnly();
    const answer = await router.transaction('u', {}, async (tx) => {
      const { rows } = await tx.query<{ careless: string }>('SELECT careless(1)');
      return [tx.side, rows[0]?.careless];
    });
    expect(answer).toEqual(['green', 'written']);
    expect([await ids('blue'), await ids('green')]).toEqual([[], [1]]);
  });

  test('in a single statement is run again once writes are known to be on the other side', async () => {
    const late = await sides.router({ pollIntervalMs: 60_000 });
    await sides.sql('green', `SELECT setval('verdigris.fence', 1)`);
    // As a promotion leaves it, but nobody is told.
    await sides.sql('blue', "UPDATE verdigris.route SET epoch = epoch + 1, writes_on = 'green'");
    await moveFencesOnly();
    expect(late.route().writesOn).toBe('blue');
    const answer = await late.write('u', 'SELECT careless(2)');
    expect(answer).toMatchObject({ side: 'green', rows: [{ careless: 'written' }] });
    expect([await ids('blue'), await ids('green')]).toEqual([[], [2]]);
  });

  test('in a single statement is an unknown outcome when no route says that writes have left', async () => {
    await moveFencesOnly();
    const error = await router.write('u', 'SELECT careless(3)').catch((e: unknown) => e);
    expect(error).toBeInstanceOf(CommitOutcomeUnknownError);
    expect(error).toMatchObject({ code: 'OutcomeUnknown', side: 'blue' });
  });
});

describe("a function that makes another error of the fence's on the server", () => {
  test('in a single statement is run again on the other side', async () => {
    await moveFencesOnly();
    const answer = await router.write('u', 'SELECT loud(4)');
    expect(answer).toMatchObject({ side: 'green', rows: [{ loud: 'written' }] });
    expect([await ids('blue'), await ids('green')]).toEqual([[], [4]]);
    expect(await metric(router, 'verdigris_router_retried_writes_total')).toBe(1);
  });

  test("and of any other error is the caller's", async () => {
    await router.write('u', 'SELECT loud(4)');
    await expect(router.write('u', 'SELECT loud(4)')).rejects.toMatchObject({ code: 'P0001' });
    expect(await metric(router, 'verdigris_router_retried_writes_total')).toBe(0);
  });
});

describe('what commits in its middle', () => {
  test('a procedure that is half done is not run again, and the caller is told that a part may be there', async () => {
    const work = router.write('u', 'CALL in_chunks(1, 40)').catch((e: unknown) => e);
    await until(async () => (await ids('blue')).length > 0);
    await moveWritesToGreen();
    const error = await work;
    expect(error).toBeInstanceOf(WriteMovedError);
    expect(error).toMatchObject({ code: 'WriteMoved', nothingWasDone: false, from: 'blue' });
    expect((await ids('blue')).length).toBeGreaterThan(0);
    expect(await ids('green')).toEqual([]);
  });

  test.each([
    'INSERT INTO item (id) VALUES (1); COMMIT; INSERT INTO item (id) VALUES (2)',
    'INSERT INTO item (id) VALUES (1); COMMIT; BEGIN; INSERT INTO item (id) VALUES (2)',
    'INSERT INTO item (id) VALUES (1); ROLLBACK; START TRANSACTION; SELECT 1',
  ])('several statements that end the transaction of a function are told, never repeated: %s', async (text) => {
    let runs = 0;
    const work = router.transaction('u', {}, async (tx) => {
      runs += 1;
      await tx.query(text).catch(() => undefined);
      await moveFencesOnly();
      await tx.query(INSERT, [3]).catch(() => undefined);
    });
    await expect(work).rejects.toThrow(TransactionControlError);
    expect(runs).toBe(1);
    expect(await ids('green')).toEqual([]);
  });

  test('several statements without a COMMIT are one transaction, and are run again as one', async () => {
    await moveFencesOnly();
    const text =
      "INSERT INTO item (id) VALUES (1); SELECT 'a', CASE WHEN true THEN 1 END; INSERT INTO item (id) VALUES (2)";
    await router.transaction('u', {}, (tx) => tx.query(text));
    expect(await ids('green')).toEqual([1, 2]);
  });
});

describe('what lives in a session', () => {
  test('a prepared statement by name is prepared anew on the other side, and its plan on the old one still meets the fence', async () => {
    const narrow = await sides.router({ blue: { ...sides.blue.config, max: 1 } });
    const named = { name: 'insert-item', text: INSERT };
    for (const id of [1, 2, 3, 4, 5, 6]) await narrow.write('u', { ...named, values: [id] });
    await moveFencesOnly();
    expect((await narrow.write('u', { ...named, values: [7] })).side).toBe('green');
    expect([await ids('blue'), await ids('green')]).toEqual([[1, 2, 3, 4, 5, 6], [7]]);
  });

  test('a cursor that is declared in a transaction is declared again with it', async () => {
    await sides.sql('blue', 'INSERT INTO item SELECT g FROM generate_series(1, 5) g');
    await sides.sql(
      'green',
      'ALTER TABLE item DISABLE TRIGGER _verdigris_fence; INSERT INTO item SELECT g FROM generate_series(1, 5) g; ALTER TABLE item ENABLE ALWAYS TRIGGER _verdigris_fence',
    );
    await moveFencesOnly();
    const seen = await router.transaction('u', {}, async (tx) => {
      await tx.query('DECLARE c CURSOR FOR SELECT id FROM item ORDER BY id');
      const first = await tx.query<{ id: number }>('FETCH 2 FROM c');
      await tx.query(INSERT, [10]);
      const rest = await tx.query<{ id: number }>('FETCH ALL FROM c');
      return [tx.side, ...first.rows.map((row) => row.id), ...rest.rows.map((row) => row.id)];
    });
    expect(seen).toEqual(['green', 1, 2, 3, 4, 5]);
  });

  test.each([
    ['LISTEN news', 'to both sides'],
    ['  -- why\n unlisten *', 'to both sides'],
    ['PREPARE p AS SELECT 1', 'name'],
    ['DEALLOCATE ALL', 'name'],
    ['DISCARD ALL', "router's"],
    ['DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1', 'WITH HOLD'],
    ['COPY item FROM STDIN', 'connection of your own'],
    ['/* app */ COPY (SELECT id FROM item) TO STDOUT WITH CSV', 'connection of your own'],
  ])('is refused before it is sent: %s', async (text, hint) => {
    await expect(router.write('u', text)).rejects.toThrow(hint);
    await expect(router.read('u', text)).rejects.toBeInstanceOf(NotSupportedError);
    await expect(router.transaction('u', {}, (tx) => tx.query(text))).rejects.toMatchObject({ code: 'NotSupported' });
    expect(await metric(router, 'verdigris_router_requests_total', { outcome: 'error' })).toBe(0);
  });

  test('a statement that comes when the function has returned is told that it is late', async () => {
    const late: Promise<unknown>[] = [];
    await router.transaction('u', {}, async (tx) => {
      await tx.query(INSERT, [1]);
      late.push(pause(50).then(() => tx.query(INSERT, [2])));
    });
    await expect(late[0]).rejects.toThrow('the transaction is over');
    expect(await ids('blue')).toEqual([1]);
  });

  test('a cursor or stream object is refused', async () => {
    const stream = { text: 'SELECT 1', submit: () => undefined };
    await expect(router.read('u', stream)).rejects.toBeInstanceOf(NotSupportedError);
    await expect(router.transaction('u', {}, (tx) => tx.query(stream))).rejects.toBeInstanceOf(NotSupportedError);
  });

  test('words that only look like it pass', async () => {
    await router.write('u', "SELECT 'LISTEN'");
    await router.write('u', 'NOTIFY news');
    await router.write('u', "INSERT INTO item (id) SELECT 5 WHERE 'copy' <> 'from stdin'");
    expect(await ids('blue')).toEqual([5]);
  });

  test('words behind a comment in the middle of a statement pass', async () => {
    await sides.sql('blue', 'INSERT INTO item VALUES (1, 7)');
    const marked = '/* GET /items */ SELECT id, CASE WHEN value > 0 THEN 1 ELSE 0 /* none */ END AS paid FROM item';
    const { rows } = await router.transaction('u', {}, (tx) => tx.query(marked));
    expect(rows).toEqual([{ id: 1, paid: 1 }]);
    await router.read('u', '/* q */ WITH discard AS (SELECT 1 AS n) SELECT n FROM /* the one above */ discard');
    await moveFencesOnly();
    const upsert = '/* POST /items */ INSERT INTO item VALUES (1, 1) ON CONFLICT (id) /* seen */ DO NOTHING';
    expect((await router.write('u', upsert)).side).toBe('green');
  });

  test.each(['/* a /* b */ */ COMMIT', '-- done\rCOMMIT', '; COMMIT'])(
    'a COMMIT behind a comment or an empty statement is refused: %j',
    async (text) => {
      const work = router.transaction('u', {}, async (tx) => {
        await tx.query(INSERT, [1]);
        await tx.query(text);
      });
      await expect(work).rejects.toThrow(TransactionControlError);
      expect(await ids('blue')).toEqual([]);
    },
  );
});

describe('holds are bounded', () => {
  test('also for those who wait for a connection behind others', async () => {
    const narrow = await sides.router({ blue: { ...sides.blue.config, max: 1 }, writeTimeoutMs: 300 });
    const busy = narrow.write('u', 'SELECT pg_sleep(4)');
    await pause(20);
    const started = performance.now();
    const error = await narrow.write('v', INSERT, [1]).catch((e: unknown) => e);
    expect(performance.now() - started).toBeLessThan(3_000);
    expect(error).toBeInstanceOf(WriteTimeoutError);
    expect(error).toMatchObject({ code: 'WriteTimeout' });
    await busy;
    expect(await ids('blue')).toEqual([]);
    // The one that gave up has not kept the turn that it never had.
    await narrow.write('v', INSERT, [2]);
    expect(await ids('blue')).toEqual([2]);
  });
});

describe('connections that are kept for the next request', () => {
  test('go back to the pool, which closes them when they have been idle', async () => {
    const tidy = await sides.router({
      blue: { ...sides.blue.config, idleTimeoutMillis: 100, application_name: 'tidy' },
    });
    await Promise.all([1, 2, 3].map((id) => tidy.write('u', INSERT, [id])));
    const open = async (): Promise<number> =>
      (
        await sides.sql(
          'blue',
          "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tidy' AND query NOT LIKE '%verdigris%' AND query NOT LIKE 'LISTEN%'",
        )
      ).length;
    expect(await open()).toBeGreaterThan(0);
    await until(async () => (await open()) === 0, 5_000);
  });

  test('and were in use for longer than they may be kept go back as well', async () => {
    const tidy = await sides.router({
      blue: { ...sides.blue.config, idleTimeoutMillis: 100, application_name: 'long' },
    });
    await tidy.write('u', 'SELECT pg_sleep(0.8)');
    const open = async (): Promise<number> =>
      (
        await sides.sql(
          'blue',
          "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'long' AND query LIKE '%pg_sleep%'",
        )
      ).length;
    expect(await open()).toBe(1);
    await until(async () => (await open()) === 0, 5_000);
  });

  test("stay in the pool up to the application's own min", async () => {
    const tidy = await sides.router({
      blue: { ...sides.blue.config, min: 2, idleTimeoutMillis: 100, application_name: 'ready' },
    });
    await Promise.all([1, 2, 3].map(() => tidy.write('u', 'SELECT pg_sleep(0.05)')));
    const open = async (): Promise<number> =>
      (
        await sides.sql(
          'blue',
          "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ready' AND query LIKE '%pg_sleep%'",
        )
      ).length;
    await until(async () => (await open()) < 3, 5_000);
    await pause(500);
    expect(await open()).toBe(2);
  });

  test('and were opened for a stage are closed when they have been idle after it', async () => {
    const green = { ...sides.green.config, idleTimeoutMillis: 100, application_name: 'opened' };
    const staged = await sides.router({ green });
    await Promise.all([1, 2, 3].map(() => staged.write('u', 'SELECT pg_sleep(0.05)')));
    const open = async (): Promise<number> =>
      (
        await sides.sql(
          'green',
          "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'opened'",
        )
      ).length;
    await sides.stage(100);
    // And the router's link.
    await until(async () => (await open()) === 4, 10_000);
    await sides.stage(0);
    await until(async () => (await open()) === 1, 10_000);
  });

  test('are not given to anybody in an aborted transaction, though the server says so a moment after the error', async () => {
    const proxy = await PiecemealProxy.start(sides.blue.port);
    try {
      const { config } = sides.blue;
      const narrow = await sides.router({ blue: { ...config, host: '127.0.0.1', port: proxy.port, max: 1 } });
      const script = 'BEGIN; INSERT INTO item (id) VALUES (1); INSERT INTO item (id) VALUES (1); COMMIT';
      const [failed, next] = await Promise.allSettled([narrow.write('u', script), narrow.write('v', INSERT, [2])]);
      expect(failed).toMatchObject({ status: 'rejected', reason: { code: '23505' } });
      expect(next).toMatchObject({ status: 'fulfilled' });
      // What was committed before the error is known at once, too.
      const parts = 'INSERT INTO item (id) VALUES (3); COMMIT; INSERT INTO item (id) VALUES (3)';
      await expect(narrow.transaction('u', {}, (tx) => tx.query(parts))).rejects.toThrow(TransactionControlError);
      expect(await ids('blue')).toEqual([2, 3]);
      await narrow.close();
    } finally {
      await proxy.close();
    }
  });

  test('are given up when nothing comes after an error, which the caller gets within seconds', async () => {
    const proxy = await PiecemealProxy.start(sides.blue.port, { swallows: true });
    try {
      const blue = { ...sides.blue.config, host: '127.0.0.1', port: proxy.port, max: 2, query_timeout: 1_000 };
      const narrow = await sides.router({ blue });
      const failed = await within(
        Promise.allSettled([
          narrow.write('u', 'SELECT 1/0'),
          narrow.transaction('v', {}, (tx) => tx.query('SELECT 1/0')),
        ]),
        4_000,
        undefined,
      );
      const ofServer = { status: 'rejected', reason: { code: '22012' } };
      expect(failed).toMatchObject([ofServer, ofServer]);
      const next = await Promise.all([narrow.write('u', INSERT, [1]), narrow.write('v', INSERT, [2])]);
      expect(next).toMatchObject([{ side: 'blue' }, { side: 'blue' }]);
    } finally {
      await proxy.close();
    }
  });

  test('are not used again when the server has closed them meanwhile', async () => {
    await router.write('u', INSERT, [1]);
    const killed = await sides.sql(
      'blue',
      // Returns when they are gone.
      "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'INSERT INTO item%' AND pid <> pg_backend_pid()",
    );
    expect(killed.length).toBeGreaterThan(0);
    await pause(50);
    await router.write('u', INSERT, [2]);
    expect(await ids('blue')).toEqual([1, 2]);
  });
});
