import net from 'node:net';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  CommitOutcomeUnknownError,
  TransactionAbortedError,
  TransactionControlError,
  WriteMovedError,
  WriteTimeoutError,
  type Router,
} from '../../src/router/index.js';
import { SideLink } from '../../src/router/side-link.js';
import { isUncovered, parseToken } from '../../src/router/token.js';
import { TAKE_FENCE_LOCK } from '../../src/postgres/fence.js';
import type { Side } from '../../src/side.js';
import { withClient } from '../support/postgres.js';
import { metric, pause, Sides, until } from './sides.js';

const INSERT = 'INSERT INTO item (id) VALUES ($1) RETURNING id';

let sides: Sides;
let router: Router;

beforeAll(async () => {
  sides = await (await Sides.create('held writes')).claim();
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

/** The server's process behind a router that has one connection. */
async function backendOf(narrow: Router): Promise<number | undefined> {
  return (await narrow.read<{ pid: number }>(undefined, 'SELECT pg_backend_pid() AS pid')).rows[0]?.pid;
}

async function outcomesOfWrites(of: Router): Promise<{ error: number; refused: number }> {
  const requests = 'verdigris_router_requests_total';
  return {
    error: await metric(of, requests, { kind: 'write', outcome: 'error' }),
    refused: await metric(of, requests, { kind: 'write', outcome: 'refused' }),
  };
}

function refusedBy(what: string): Error {
  return Object.assign(new Error(`${what} is away`), { code: 'ECONNREFUSED' });
}

/** Sockets that lose each message which holds this text, and tell of it. */
function losing(text: string, onLost: () => void): () => net.Socket {
  class Losing extends net.Socket {
    override _write(message: Buffer, encoding: BufferEncoding, done: () => void): void {
      if (!message.includes(text)) return super._write(message, encoding, done);
      onLost();
      done();
    }
  }
  return () => new Losing();
}

/** Fences as after a promotion, without a word in the route: the fence alone is the news. */
async function moveFencesOnly(): Promise<void> {
  await sides.setFence('blue', 'closed');
  await sides.setFence('green', 'open');
}

describe('a write that meets the fence is run again on the other side, unseen', () => {
  test('a single statement', async () => {
    await moveFencesOnly();
    const result = await router.write('u', INSERT, [1]);
    expect(result).toMatchObject({ rows: [{ id: 1 }], side: 'green' });
    expect([await ids('blue'), await ids('green')]).toEqual([[], [1]]);
    expect(await metric(router, 'verdigris_router_retried_writes_total')).toBe(1);
    expect(await metric(router, 'verdigris_router_requests_total', { outcome: 'error' })).toBe(0);
  });

  test.each(['read committed', 'repeatable read', 'serializable'] as const)(
    'a transaction at %s that began before the promotion',
    async (isolation) => {
      let runs = 0;
      const value = await router.transaction('u', { isolation }, async (tx) => {
        runs += 1;
        await tx.query('SELECT count(*) FROM item');
        if (runs === 1) await moveWritesToGreen();
        await tx.query(INSERT, [2]);
        return tx.side;
      });
      expect([value, runs]).toEqual(['green', 2]);
      expect([await ids('blue'), await ids('green')]).toEqual([[], [2]]);
    },
  );

  test('a transaction that has worked for longer than a write may wait', async () => {
    const hasty = await sides.router({ writeTimeoutMs: 300 });
    let runs = 0;
    const moved = hasty.transaction('u', {}, async (tx) => {
      runs += 1;
      await tx.query('SELECT count(*) FROM item');
      if (runs === 1) await Promise.all([moveWritesToGreen(), pause(500)]);
      await tx.query(INSERT, [2]);
      return tx.side;
    });
    expect([await moved, runs]).toEqual(['green', 2]);
  });

  test('a read that has worked for longer than a write may wait, and then writes', async () => {
    for (const side of ['blue', 'green'] as const) {
      await sides.sql(
        side,
        `CREATE OR REPLACE FUNCTION at_last(wanted int) RETURNS int LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_sleep(0.4); INSERT INTO item (id) VALUES (wanted); RETURN wanted; END $$`,
      );
    }
    const hasty = await sides.router({ writeTimeoutMs: 300 });
    await moveFencesOnly();
    expect((await hasty.read('u', 'SELECT at_last(1)')).side).toBe('green');
    expect([await ids('blue'), await ids('green')]).toEqual([[], [1]]);
  });

  test('a transaction that has worked for as long on both sides, as writes were promoted and rolled back', async () => {
    const hasty = await sides.router({ writeTimeoutMs: 300 });
    const ran: Side[] = [];
    await hasty.transaction('u', {}, async (tx) => {
      ran.push(tx.side);
      await tx.query('SELECT count(*) FROM item');
      const to = (['green', 'blue'] as const)[ran.length - 1];
      if (to !== undefined) {
        await Promise.all([sides.decide(to), pause(400)]);
        await sides.open(to);
      }
      await tx.query(INSERT, [3]);
    });
    expect(ran).toEqual(['blue', 'green', 'blue']);
    expect([await ids('blue'), await ids('green')]).toEqual([[3], []]);
  });

  test('a transaction, once, when the route that was announced takes a while to be read', async () => {
    const { query } = SideLink.prototype;
    const late = vi.spyOn(SideLink.prototype, 'query').mockImplementation(async function (this: SideLink, ...asked) {
      await pause(8);
      return query.apply(this, asked);
    });
    try {
      let runs = 0;
      const moved = router.transaction('u', {}, async (tx) => {
        runs += 1;
        await tx.query('SELECT count(*) FROM item');
        if (runs === 1) await moveWritesToGreen();
        await tx.query(INSERT, [2]);
        return tx.side;
      });
      expect([await moved, runs]).toEqual(['green', 2]);
    } finally {
      late.mockRestore();
    }
  });

  test('a transaction whose function swallows the error', async () => {
    await moveFencesOnly();
    const outcome = await router.transaction('u', {}, async (tx) => {
      await tx.query(INSERT, [3]).catch(() => undefined);
      return tx.side;
    });
    expect(outcome).toBe('green');
    expect([await ids('blue'), await ids('green')]).toEqual([[], [3]]);
  });

  test('a write that is refused as cancelled, as a plan may ask for', async () => {
    const refuseWith = (code: string): Promise<void> =>
      withClient(sides.blue.config, async (client) => {
        const { rows } = await client.query<{ text: string }>(
          "SELECT pg_get_functiondef('verdigris.fence_check()'::regprocedure) AS text",
        );
        await client.query((rows[0]?.text ?? '').replace(/'(25006|57014)'/, `'${code}'`));
      });
    await refuseWith('57014');
    try {
      await moveFencesOnly();
      await router.write('u', INSERT, [7]);
      expect([await ids('blue'), await ids('green')]).toEqual([[], [7]]);
    } finally {
      await refuseWith('25006');
    }
  });

  test('a transaction that goes back to a savepoint and on', async () => {
    await moveFencesOnly();
    await router.transaction('u', {}, async (tx) => {
      await tx.query('SAVEPOINT s');
      await tx.query(INSERT, [4]).catch(() => tx.query('ROLLBACK TO SAVEPOINT s'));
    });
    expect(await ids('green')).toEqual([4]);
  });

  test('a read that writes', async () => {
    await moveFencesOnly();
    await router.read('u', INSERT, [5]);
    expect(await ids('green')).toEqual([5]);
  });

  test('the next read of the user goes where the write went, even before the route says so', async () => {
    await moveFencesOnly();
    await router.write('u', INSERT, [6]);
    expect(await router.read('u', 'SELECT id FROM item')).toMatchObject({ side: 'green', rows: [{ id: 6 }] });
    expect(router.route().writesOn).toBe('green');
  });
});

describe("a promotion's hold that is longer than the application's own timeouts", () => {
  /** Holds the fence of blue as a promotion does, and moves writes to green in the end, or gives up. */
  async function hold(ms: number, outcome: 'promoted' | 'given up'): Promise<{ readonly ended: Promise<void> }> {
    let taken: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (taken = resolve));
    const ended = withClient(sides.blue.config, async (actor) => {
      await actor.query(`BEGIN; ${TAKE_FENCE_LOCK}`);
      taken();
      await pause(ms);
      if (outcome === 'promoted') await moveWritesToGreen();
      await actor.query('ROLLBACK');
    });
    await held;
    return { ended };
  }

  function hastyRouter(setting: string): Promise<Router> {
    const options = `-c ${setting}`;
    return sides.router({ blue: { ...sides.blue.config, options }, green: { ...sides.green.config, options } });
  }

  describe.each([
    ['lock_timeout', 30],
    ['statement_timeout', 150],
  ] as const)('%s', (setting, ms) => {
    let hasty: Router;
    beforeEach(async () => {
      hasty = await hastyRouter(`${setting}=${ms}ms`);
    });

    test.each(['promoted', 'given up'] as const)('a write, when the promotion is %s', async (outcome) => {
      const { ended } = await hold(1_500, outcome);
      const started = performance.now();
      const { side } = await hasty.write('u', INSERT, [1]);
      expect(performance.now() - started).toBeGreaterThan(300);
      await ended;
      expect(side).toBe(outcome === 'promoted' ? 'green' : 'blue');
      expect([...(await ids('blue')), ...(await ids('green'))]).toEqual([1]);
      expect(await metric(hasty, 'verdigris_router_retried_writes_total')).toBe(1);
    });

    test('a transaction, also one whose function wraps the error', async () => {
      const { ended } = await hold(1_000, 'promoted');
      let runs = 0;
      const side = await hasty.transaction('u', {}, async (tx) => {
        runs += 1;
        await tx.query(INSERT, [2]).catch((cause: unknown) => {
          throw new Error('could not save', { cause });
        });
        return tx.side;
      });
      await ended;
      expect(side).toBe('green');
      expect(runs).toBeGreaterThan(1);
      expect([await ids('blue'), await ids('green')]).toEqual([[], [2]]);
    });
  });

  test('a transaction had worked before it waited there: that was no wait, but the time at the fence is', async () => {
    const options = '-c lock_timeout=400ms';
    const hasty = await sides.router({ blue: { ...sides.blue.config, options }, writeTimeoutMs: 300 });
    const { ended } = await hold(1_500, 'given up');
    const started = performance.now();
    const error = await hasty.write('u', INSERT, [1]).catch((e: unknown) => e);
    const tookMs = performance.now() - started;
    expect(error).toBeInstanceOf(WriteTimeoutError);
    expect((error as WriteTimeoutError).heldMs).toBeGreaterThan(tookMs - 200);
    await ended;

    let held: Promise<void> | undefined;
    const early = await sides.router({
      blue: { ...sides.blue.config, options: '-c lock_timeout=30ms' },
      writeTimeoutMs: 1_000,
    });
    const moved = early.transaction('u', {}, async (tx) => {
      await tx.query('SELECT count(*) FROM item');
      if (held === undefined) {
        await pause(1_100);
        held = (await hold(150, 'promoted')).ended;
      }
      await tx.query(INSERT, [2]);
      return tx.side;
    });
    expect(await moved).toBe('green');
    await held;
  });

  test('a function that goes on without the write, behind a savepoint, has said what it wants', async () => {
    const hasty = await hastyRouter('lock_timeout=30ms');
    const { ended } = await hold(200, 'given up');
    let runs = 0;
    const done = hasty.transaction('u', {}, async (tx) => {
      runs += 1;
      await tx.query('SAVEPOINT s');
      await tx.query(INSERT, [4]).catch(() => tx.query('ROLLBACK TO SAVEPOINT s'));
      throw new Error('its own');
    });
    await expect(done).rejects.toThrow('its own');
    await ended;
    expect(runs).toBe(1);
  });

  test("a lock_timeout at a row is the caller's, as without a router", async () => {
    const hasty = await hastyRouter('lock_timeout=30ms');
    await sides.sql('blue', 'INSERT INTO item (id) VALUES (5)');
    await withClient(sides.blue.config, async (other) => {
      await other.query('BEGIN; UPDATE item SET id = id WHERE id = 5');
      await expect(hasty.write('u', 'UPDATE item SET id = id WHERE id = $1', [5])).rejects.toMatchObject({
        code: '55P03',
      });
      await other.query('ROLLBACK');
    });
    expect(await metric(hasty, 'verdigris_router_retried_writes_total')).toBe(0);
  });

  test('what may commit in its middle is not run again', async () => {
    const hasty = await hastyRouter('lock_timeout=30ms');
    const { ended } = await hold(1_000, 'given up');
    await expect(hasty.write('u', 'DO $$ BEGIN INSERT INTO item (id) VALUES (6); END $$')).rejects.toMatchObject({
      code: '55P03',
    });
    await ended;
    expect(await ids('blue')).toEqual([]);
  });
});

describe('while both sides are closed', () => {
  test('writes are held, then done, and nothing is seen but the time', async () => {
    await sides.setFence('blue', 'closed');
    const started = performance.now();
    const writes = Array.from({ length: 30 }, (_, id) => router.write(`u${id}`, INSERT, [id]));
    await pause(300);
    await sides.setFence('green', 'open');
    const results = await Promise.all(writes);
    const held = performance.now() - started;
    expect(held).toBeGreaterThan(290);
    expect(held).toBeLessThan(5_000);
    expect(results.every((result) => result.side === 'green')).toBe(true);
    expect(await ids('green')).toHaveLength(30);
    expect(await ids('blue')).toHaveLength(0);
  });

  test('after the decision, what waits for the new side is not run again and again, and goes on when it opens', async () => {
    await sides.decide('green');
    let runs = 0;
    const work = router.transaction('u', {}, async (tx) => {
      runs += 1;
      await tx.query(INSERT, [1]);
      return tx.side;
    });
    await pause(400);
    await sides.open('green');
    expect(await work).toBe('green');
    // Once on blue, then not before there is news, or for lack of it now and then.
    expect(runs).toBeLessThan(60);
  });

  test('a write that waits for a connection of the closed side is not tried there any more', async () => {
    const narrow = await sides.router({ blue: { ...sides.blue.config, max: 1 } });
    let isMoved: () => void = () => undefined;
    const moved = new Promise<void>((resolve) => (isMoved = resolve));
    let runs = 0;
    const first = narrow.transaction('u', {}, async (tx) => {
      runs += 1;
      if (runs === 1) await moved;
      await tx.query(INSERT, [0]);
    });
    await until(() => runs === 1);
    const queued = [1, 2, 3, 4, 5].map((id) => narrow.write('u', INSERT, [id]));
    await moveWritesToGreen();
    await until(() => narrow.route().writesOn === 'green');
    isMoved();
    await Promise.all([first, ...queued]);
    expect([await ids('blue'), await ids('green')]).toEqual([[], [0, 1, 2, 3, 4, 5]]);
    expect(await metric(narrow, 'verdigris_router_retried_writes_total')).toBe(1);
  });

  test('reads go on, also after the decision and before the new side is open', async () => {
    await sides.decide('green');
    await until(() => router.route().writesOn === 'green');
    const took: number[] = [];
    for (let n = 0; n < 100; n++) {
      const began = performance.now();
      await router.read('u', 'SELECT 1');
      took.push(performance.now() - began);
    }
    // To wait for the news each time would take 20 ms at least.
    expect(took.sort((a, b) => a - b)[50]).toBeLessThan(15);
  });

  test('a write is given up after writeTimeoutMs, and was not done', async () => {
    await sides.setFence('blue', 'closed');
    const impatient = await sides.router({ writeTimeoutMs: 200 });
    const started = performance.now();
    await expect(impatient.write('u', INSERT, [1])).rejects.toThrow(WriteTimeoutError);
    expect(performance.now() - started).toBeLessThan(5_000);
    expect([await ids('blue'), await ids('green')]).toEqual([[], []]);
  });

  test('so is one whose server did not answer its BEGIN, which was a wait, too', async () => {
    let lost = 0;
    const stream = losing('BEGIN', () => (lost += 1));
    const blue = { ...sides.blue.config, stream, query_timeout: 400 };
    const impatient = await sides.router({ blue, writeTimeoutMs: 300 });
    const work = impatient.transaction('u', {}, (tx) => tx.query(INSERT, [1]));
    const error = await work.catch((e: unknown) => e);
    expect(error).toBeInstanceOf(WriteTimeoutError);
    expect((error as WriteTimeoutError).heldMs).toBeGreaterThan(390);
    expect(lost).toBe(1);
  });

  test('with retryTransactions: false the function runs once and the caller is told to repeat it', async () => {
    await moveWritesToGreen();
    const careful = await sides.router({ retryTransactions: false });
    // The route is known, so there is nothing to repeat ...
    await careful.transaction('u', {}, (tx) => tx.query(INSERT, [1]));
    await sides.setFence('green', 'closed');
    let runs = 0;
    const work = careful.transaction('u', {}, async (tx) => {
      runs += 1;
      await tx.query(INSERT, [2]);
    });
    await expect(work).rejects.toThrow(WriteMovedError);
    expect(runs).toBe(1);
  });
});

describe('nothing is run again whose outcome is unknown', () => {
  /** Commits of rows of item take `seconds`, by a deferred trigger. */
  async function slowCommits(seconds: number): Promise<void> {
    await sides.sql(
      'blue',
      `CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(${seconds}); RETURN NULL; END $$;
       CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION slow()`,
    );
  }

  async function killCommitting(): Promise<void> {
    await until(async () => {
      const rows = await sides.sql(
        'blue',
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event = 'PgSleep'`,
      );
      return rows.length > 0;
    });
  }

  test.each([0, 100])('a backend killed during COMMIT, with %d percent of the users on green', async (percent) => {
    await slowCommits(5);
    await sides.stage(percent);
    await until(() => router.route().greenReadPercent === percent);
    let runs = 0;
    const work = router.transaction('u', {}, async (tx) => {
      runs += 1;
      await tx.query(INSERT, [1]);
    });
    const rejected = expect(work).rejects.toThrow(CommitOutcomeUnknownError);
    await killCommitting();
    await rejected;
    expect(runs).toBe(1);
    expect(await metric(router, 'verdigris_router_requests_total', { kind: 'write', outcome: 'error' })).toBe(1);
  });

  test('a backend killed during a single write', async () => {
    await slowCommits(5);
    const rejected = expect(router.write('u', INSERT, [1])).rejects.toThrow(CommitOutcomeUnknownError);
    await killCommitting();
    await rejected;
    expect(await ids('green')).toEqual([]);
  });

  test('a query timeout of the application is an unknown outcome too, and its connection is not used again', async () => {
    const hasty = await sides.router({ blue: { ...sides.blue.config, query_timeout: 1_000, max: 1 } });
    await slowCommits(3);
    await expect(hasty.write('u', INSERT, [1])).rejects.toThrow(CommitOutcomeUnknownError);
    expect((await hasty.read('u', 'SELECT 7 AS seven')).rows).toEqual([{ seven: 7 }]);
  });

  test('a position that never comes costs its connection, and nobody a write', async () => {
    await sides.stage(100);
    let lost = 0;
    const stream = losing('pg_current_wal_flush_lsn', () => (lost += 1));
    const blue = { ...sides.blue.config, stream, query_timeout: 300, max: 1 };
    const narrow = await sides.router({ blue });
    await until(() => narrow.route().greenReadPercent === 100);
    const writes = [1, 2, 3].map((id) => narrow.write('u', INSERT, [id]));
    expect(await Promise.allSettled(writes)).toMatchObject([1, 2, 3].map((id) => ({ value: { rows: [{ id }] } })));
    expect(await ids('blue')).toEqual([1, 2, 3]);
    expect(lost).toBe(3);
  });

  describe('whatever the server or the socket says as it goes', () => {
    const sockets: net.Socket[] = [];

    async function routerOnSockets(): Promise<Router> {
      sockets.length = 0;
      const stream = (): net.Socket => {
        const socket = new net.Socket();
        sockets.push(socket);
        return socket;
      };
      return sides.router({ blue: { ...sides.blue.config, stream } });
    }

    /** A write and a COMMIT are on their way, and this is the last that is heard of blue. */
    async function loseBlue(how: (socket: net.Socket) => void): Promise<void> {
      await until(async () => {
        const rows = await sides.sql(
          'blue',
          "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'",
        );
        return rows.length === 2;
      });
      for (const socket of sockets) how(socket);
    }

    const says = (severity: string, code: string) => (socket: net.Socket) => {
      const fields = Buffer.from(`S${severity}\0C${code}\0Mno more\0\0`);
      const head = Buffer.alloc(5);
      head.write('E');
      head.writeInt32BE(fields.length + 4, 1);
      socket.emit('data', Buffer.concat([head, fields]));
      socket.destroy();
    };
    const breaks = (code: string) => (socket: net.Socket) => socket.destroy(Object.assign(new Error('no'), { code }));

    test.each([
      ['a PANIC with the code of its disk', 0, says('PANIC', '58030')],
      ['the same, where the position is wanted', 100, says('PANIC', '58030')],
      ['the same in another language', 0, says('PANIK', '53100')],
      ["a pooler's own FATAL", 0, says('FATAL', '58000')],
      ['a fault of TLS', 0, breaks('EPROTO')],
      ['the same, where the position is wanted', 100, breaks('ERR_SSL_DECRYPTION_FAILED_OR_BAD_RECORD_MAC')],
    ])('%s (%d percent of the users on green)', async (_, percent, how) => {
      await slowCommits(5);
      await sides.stage(percent);
      const made = await routerOnSockets();
      await until(() => made.route().greenReadPercent === percent);
      const write = made.write('u', INSERT, [1]);
      const work = made.transaction('u', {}, (tx) => tx.query(INSERT, [2]));
      const outcomes = Promise.allSettled([write, work]);
      await loseBlue(how);
      const reasons = (await outcomes).map((one) => one.status === 'rejected' && (one.reason as unknown));
      expect(reasons).toEqual([expect.any(CommitOutcomeUnknownError), expect.any(CommitOutcomeUnknownError)]);
      await killCommitting();
    });
  });

  test.each([
    ['the statements of a transaction', true],
    ['its last statement and COMMIT', false],
  ])('a connection killed between %s leaves nothing done', async (_, isTriedAgain) => {
    const work = router.transaction('u', {}, async (tx) => {
      await tx.query(INSERT, [1]);
      const { rows } = await tx.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
      await sides.sql('blue', 'SELECT pg_terminate_backend($1, 5000)', [rows[0]?.pid]);
      // Long enough for the client to hear of it: a COMMIT that is sent is in doubt.
      await pause(isTriedAgain ? 50 : 300);
      if (isTriedAgain) await tx.query('SELECT 1').catch(() => undefined);
    });
    await expect(work).rejects.toThrow(TransactionAbortedError);
    expect(await ids('blue')).toEqual([]);
    expect(await ids('green')).toEqual([]);
  });
});

describe('an error of class 08 that a statement has raised is no lost connection', () => {
  test('as is a wrong number of values', async () => {
    const narrow = await sides.router({ blue: { ...sides.blue.config, max: 1 } });
    const before = await backendOf(narrow);
    const write = narrow.write('u', 'UPDATE item SET value = $1 WHERE id = $2', [1]);
    await expect(write).rejects.toMatchObject({ code: '08P01', severity: 'ERROR' });
    expect(await backendOf(narrow)).toBe(before);
  });

  test('but the outcome is unknown where the server says so by 08007', async () => {
    const write = router.write('u', "DO $$ BEGIN RAISE 'it may be' USING ERRCODE = '08007'; END $$");
    await expect(write).rejects.toThrow(CommitOutcomeUnknownError);
  });

  test('a function may go back to a savepoint after it, and commit', async () => {
    await router.transaction('u', {}, async (tx) => {
      await tx.query('SAVEPOINT before_it');
      await tx
        .query("DO $$ BEGIN RAISE 'the foreign server is away' USING ERRCODE = '08006'; END $$")
        .catch(() => tx.query('ROLLBACK TO before_it'));
      await tx.query(INSERT, [1]);
    });
    expect(await ids('blue')).toEqual([1]);
  });
});

describe("a transaction is the function's and nobody else's", () => {
  test.each([0, 100])(
    'COMMIT answered by ROLLBACK is an error, with %d percent of the users on green',
    async (percent) => {
      await sides.stage(percent);
      await until(() => router.route().greenReadPercent === percent);
      const work = router.transaction('u', {}, async (tx) => {
        await tx.query(INSERT, [1]);
        await tx.query('SELECT 1 / 0').catch(() => undefined);
      });
      await expect(work).rejects.toThrow(TransactionAbortedError);
      expect(await ids('blue')).toEqual([]);
    },
  );

  test("the function's own error rolls back, reaches the caller, and counts against no side", async () => {
    const work = router.transaction('u', {}, async (tx) => {
      await tx.query(INSERT, [1]);
      throw new Error('changed my mind');
    });
    await expect(work).rejects.toThrow('changed my mind');
    expect(await ids('blue')).toEqual([]);
    expect(await metric(router, 'verdigris_router_requests_total', { outcome: 'error' })).toBe(0);
    expect(await metric(router, 'verdigris_router_requests_total', { outcome: 'refused' })).toBe(1);
  });

  test.each([
    ['a network error', refusedBy('a cache')],
    ['a request that failed', new TypeError('fetch failed', { cause: refusedBy('a service') })],
    ['the end of another database', Object.assign(new pg.DatabaseError('shut down', 0, 'error'), { code: '57P01' })],
  ])("%s of the function's own ends no connection and counts against no side", async (_, thrown) => {
    const narrow = await sides.router({ blue: { ...sides.blue.config, max: 1 } });
    const before = await backendOf(narrow);
    const work = narrow.transaction('u', {}, async (tx) => {
      await tx.query(INSERT, [1]);
      throw thrown;
    });
    await expect(work).rejects.toBe(thrown);
    expect(await backendOf(narrow)).toBe(before);
    expect(await ids('blue')).toEqual([]);
    expect(await outcomesOfWrites(narrow)).toEqual({ error: 0, refused: 1 });
  });

  test("a statement's error that the function wraps counts as the statement's own does", async () => {
    const narrow = await sides.router({ blue: { ...sides.blue.config, max: 1 } });
    const before = await backendOf(narrow);
    const wrapped = async (text: string): Promise<unknown> =>
      narrow
        .transaction('u', {}, (tx) =>
          tx.query(text).catch((cause: unknown) => Promise.reject(new Error('wrapped', { cause }))),
        )
        .catch((error: unknown) => error);
    expect(await wrapped('SELECT 1 / 0')).toMatchObject({ message: 'wrapped', cause: { code: '22012' } });
    expect(await outcomesOfWrites(narrow)).toEqual({ error: 0, refused: 1 });
    expect(await backendOf(narrow)).toBe(before);
    expect(await wrapped('SELECT pg_terminate_backend(pg_backend_pid())')).toMatchObject({ message: 'wrapped' });
    expect(await outcomesOfWrites(narrow)).toEqual({ error: 1, refused: 1 });
    expect(await backendOf(narrow)).not.toBe(before);
  });

  test('an error of a deferred constraint at COMMIT is the error that the caller sees', async () => {
    await sides.sql(
      'blue',
      'DROP TABLE IF EXISTS part; CREATE TABLE part (item int REFERENCES item DEFERRABLE INITIALLY DEFERRED)',
    );
    await sides.stage(100);
    await until(() => router.route().greenReadPercent === 100);
    const work = router.transaction('u', {}, (tx) => tx.query('INSERT INTO part VALUES (99)'));
    await expect(work).rejects.toMatchObject({ code: '23503' });
    expect(await sides.sql('blue', 'SELECT FROM part')).toHaveLength(0);
  });

  test('to begin or end it inside is refused', async () => {
    for (const control of [
      'BEGIN',
      'commit',
      'END',
      'ROLLBACK',
      'abort',
      'START TRANSACTION',
      "PREPARE TRANSACTION 'x'",
    ]) {
      const work = router.transaction('u', {}, (tx) => tx.query(control));
      await expect(work).rejects.toThrow(TransactionControlError);
    }
  });

  test('savepoints are fine, and statements sent at once run in turn', async () => {
    await router.transaction('u', {}, async (tx) => {
      await tx.query('SAVEPOINT s');
      await tx.query('SELECT 1 / 0').catch(() => tx.query('ROLLBACK TO s'));
      await Promise.all([1, 2, 3].map((id) => tx.query(INSERT, [id])));
    });
    expect(await ids('blue')).toEqual([1, 2, 3]);
  });

  test('write() that leaves a transaction open is refused, and the next request does not inherit it', async () => {
    const narrow = await sides.router({ blue: { ...sides.blue.config, max: 1 } });
    await expect(narrow.write('u', 'BEGIN')).rejects.toThrow(TransactionControlError);
    await narrow.write('u', INSERT, [8]);
    expect(await ids('blue')).toEqual([8]);
  });

  test.each([
    ['', false],
    [', nor one of a server that does not tell what became of it', true],
  ])('a lost position after COMMIT does not make a committed transaction a failed one%s', async (_, isHardened) => {
    await sides.stage(100);
    await until(() => router.route().greenReadPercent === 100);
    const limited = `reader_${sides.blue.database.slice(-8)}`;
    await sides.sql(
      'blue',
      `CREATE ROLE ${limited} LOGIN PASSWORD 'x'; GRANT ALL ON item TO ${limited};
       REVOKE EXECUTE ON FUNCTION pg_catalog.pg_current_wal_flush_lsn() FROM PUBLIC`,
    );
    if (isHardened) await sides.sql('blue', 'REVOKE EXECUTE ON FUNCTION pg_catalog.txid_status(bigint) FROM PUBLIC');
    const bound = await sides.router({ blue: { ...sides.blue.config, user: limited, password: 'x' } });
    await until(() => bound.route().greenReadPercent === 100);
    await bound.transaction('u', {}, (tx) => tx.query(INSERT, [1]));
    await bound.write('u', INSERT, [2]);
    expect(await ids('blue')).toEqual([1, 2]);
    // No position is known: it says so.
    const token = parseToken(bound.exportToken('u') ?? '');
    expect(token !== undefined && isUncovered(token)).toBe(true);
    await bound.close();
    await sides.sql('blue', `DROP OWNED BY ${limited}; DROP ROLE ${limited}`);
  });
});
