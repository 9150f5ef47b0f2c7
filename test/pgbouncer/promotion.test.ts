import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { connect, createServer, type AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { Console } from '../../src/pgbouncer/console.js';
import { Instance } from '../../src/pgbouncer/instance.js';
import { pgBouncerPools } from '../../src/pgbouncer/pgbouncer-pools.js';
import { poolsBefore } from '../../src/pgbouncer/from-plan.js';
import { PoolerAwaited, PoolerAway, releaseAll, type Pools } from '../../src/postgres/pools.js';
import { findPgbench } from '../support/pgbench.js';
import { PooledPair } from '../support/pooled-pair.js';
import { killWorkerAt } from '../support/pooled-death.js';
import { carryOut, STEPS } from '../support/promotion-steps.js';
import { withClient } from '../support/postgres.js';
import { StatementProxy } from '../support/statement-proxy.js';

const missing = findPgBouncer() === undefined ? 'pgbouncer' : findPgbench() === undefined ? 'pgbench' : undefined;
if (missing !== undefined) process.stdout.write(`SKIPPED promotions behind PgBouncer: ${missing} is not installed\n`);

/** Of stats_users: nobody's role on the databases. */
const ONLOOKER = 'onlooker';

describe.skipIf(missing !== undefined)('a promotion behind two PgBouncers', () => {
  let pair: PooledPair;
  const clients: pg.Client[] = [];

  beforeAll(async () => {
    pair = await PooledPair.create('pooled move', {
      pauseTimeoutMs: 1_500,
      users: { [ONLOOKER]: 'looks' },
      settings: { stats_users: ONLOOKER },
    });
  });

  afterAll(async () => pair.close());

  afterEach(async () => {
    await Promise.all(clients.splice(0).map((client) => client.end().catch(() => undefined)));
  });

  async function client(pooler: number): Promise<pg.Client> {
    const one = new pg.Client(pair.clientOf(pooler));
    one.on('error', () => undefined);
    await one.connect();
    clients.push(one);
    return one;
  }

  it('fails no transaction of pgbench, there and back', async () => {
    const load = pair.load();
    await sleep(1_000);
    for (const from of ['blue', 'green'] as const) {
      for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move(from));
      await pair.expectSettled(from === 'blue' ? 'green' : 'blue');
      await sleep(200);
    }
    const { failed, transactions } = await load.stop();
    expect(failed).toBe(0);
    expect(transactions).toBeGreaterThan(200);
    await pair.expectWritten(transactions);
  });

  // Again where a busy PgBouncer needed more than the 200 ms in which it may say who is in the way.
  it('moves nothing and lets everybody go on when a client does not end its transaction', { retry: 2 }, async () => {
    const idle = await client(1);
    await idle.query('BEGIN');
    const { pid } = (await idle.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows[0] ?? { pid: 0 };
    // Younger than the pause may take: nobody knows yet that it will not end.
    const { epoch } = await pair.whereWritesAre();
    const inTheWay = new RegExp(`did not come to rest within 300 ms. In the way: pid ${pid} \\(.*idle in transaction`);
    const impatient = pgBouncerPools(
      { ...pair.setup, pauseTimeoutMs: 300 },
      { openTransactions: pair.openTransactions },
    );
    try {
      await expect(impatient.pause('blue', epoch)).rejects.toThrow(inTheWay);
    } finally {
      await impatient.close();
    }
    await (await client(1)).query('UPDATE accounts SET balance = balance WHERE id = 1');
    // Later it is seen at once, and nobody waits for it at all.
    await sleep(300);
    const move = pair.move('blue', { ...pair.setup, pauseTimeoutMs: 300 });
    await expect(STEPS.promote(move)).rejects.toThrow(
      new RegExp(`would have to wait for pid ${pid} \\(.*idle in transaction`),
    );
    const other = await client(1);
    await other.query('UPDATE accounts SET balance = balance WHERE id = 1');
    // Its server connection is still the one that it had: nobody has ended it.
    await idle.query('UPDATE accounts SET balance = balance WHERE id = 2; COMMIT');
    await pair.expectSettled('blue');
  });

  it('names who keeps a connection without a transaction, as in session mode, and in the way of every pause', async () => {
    const commands = { ...pair.clientOf(1), database: 'pgbouncer' };
    await withClient(commands, (admin) => admin.query("SET pool_mode = 'session'"));
    const keeps = await client(1);
    const { pid } = (await keeps.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows[0] ?? { pid: 0 };
    const impatient = poolsBefore({ ...pair.setup, pauseTimeoutMs: 300 }, pair.databases);
    await sleep(310);
    try {
      await expect(impatient.pause('blue', (await pair.whereWritesAre()).epoch)).rejects.toThrow(
        new RegExp(`did not come to rest within 300 ms. In the way: pid ${pid} \\(.*idle, no transaction`),
      );
    } finally {
      await impatient.close();
      await withClient(commands, (admin) => admin.query('RELOAD'));
    }
    await pair.expectSettled('blue');
  });

  it('moves nothing when one of them is down, and leads it to where writes are when it starts', async () => {
    await pair.poolers[1]?.stopProcess();
    await expect(STEPS.promote(pair.move('blue'))).rejects.toThrow(
      /"pgbouncer_2" can't be opened: no connection \(ECONNREFUSED\)/,
    );
    await pair.expectSettled('blue', [0]);
    await (await client(0)).query('UPDATE accounts SET balance = balance WHERE id = 1');
    await pair.poolers[1]?.restart();
    await releaseHere();
    await pair.expectSettled('blue');
  });

  it.each(['is looked at', 'is about to pause'])(
    'waits for one that ends while it %s, and keeps nobody',
    async (moment) => {
      const { epoch } = await pair.whereWritesAre();
      let isPrepared = false;
      const end = async (): Promise<void> => pair.poolers[1]?.stopProcess();
      const pools = pgBouncerPools(pair.setup, {
        obstacles: async ({ pooler: { connection } }) => {
          if (moment !== 'is looked at' || connection !== 'pgbouncer_2') return [];
          await end();
          return ['what its end has made of it'];
        },
        whereWritesAre: async () => {
          if (isPrepared) await end();
          return pair.whereWritesAre();
        },
      });
      try {
        const tried = (async () => {
          await pools.prepare('blue', epoch);
          isPrepared = true;
          await pools.pause('blue', epoch);
        })();
        const away = await tried.catch((error: unknown) => error);
        expect(away).toBeInstanceOf(PoolerAway);
        expect(String(away)).toContain('PgBouncer "pgbouncer_2"');
        await (await client(0)).query('UPDATE accounts SET balance = balance WHERE id = 1');
        await pair.expectSettled('blue', [0]);
      } finally {
        isPrepared = false;
        await pair.poolers[1]?.restart();
        await pools.close();
      }
      await pair.expectSettled('blue');
    },
  );

  it('goes back without one that is down, which then starts where writes are', async () => {
    await carryOut('promote', pair.move('blue'));
    await carryOut('finish', pair.move('blue'));
    await pair.expectSettled('green');
    await pair.poolers[0]?.stopProcess();
    await carryOut('promote', pair.move('green'));
    await carryOut('finish', pair.move('green'));
    await pair.expectSettled('blue', [1]);
    await pair.poolers[0]?.restart();
    await pair.expectSettled('blue');
  });

  it('goes back without one that is shutting down, and says that its clients stay on green until they leave', async () => {
    for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move('blue'));
    await pair.expectSettled('green');
    const [first, second] = pair.setup.instances;
    if (first === undefined || second === undefined) throw new Error('there are two');
    const front = await closableFront(pair.poolers[0]?.port ?? 0);
    const stays = new pg.Client({ ...pair.clientOf(0), port: front.port });
    clients.push(stays);
    await stays.connect();
    const update = 'UPDATE accounts SET balance = balance WHERE id = 1';
    await stays.query(update);
    front.stopListening();
    const told: string[] = [];
    const move = pair.move('green', {
      ...pair.setup,
      instances: [{ ...first, config: { ...first.config, port: front.port } }, second],
    });
    await STEPS.promote({
      ...move,
      heard: {
        mayBeRefused: () => undefined,
        unserved: () => undefined,
        notTold: (what, side) => void (side === 'blue' && told.push(what)),
      },
    });
    expect(told).toEqual([
      expect.stringMatching(
        /^nothing listens at the address of PgBouncer "pgbouncer_1", .* they stay on green, .* SIGQUIT ends it/,
      ),
    ]);
    await expect(stays.query(update)).rejects.toMatchObject({ code: '25006' });
    await carryOut('finish', pair.move('green'));
    await pair.expectSettled('blue');
  });

  it('goes back while one takes no more clients, and says that the way to blue was not tried there', async () => {
    for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move('blue'));
    await pair.expectSettled('green');
    const stays = await client(0);
    const configured = await mostClients(1);
    const told: string[] = [];
    const heard = {
      mayBeRefused: (what: string) => void told.push(what),
      unserved: () => undefined,
      notTold: () => undefined,
    };
    try {
      await STEPS.promote({ ...pair.move('green'), heard });
      expect(told).toEqual([
        expect.stringMatching(
          /PgBouncer "pgbouncer_1" to its entry "orders_blue": .*\(max_client_conn\)\. Raise max_client_conn/,
        ),
      ]);
      await stays.query('UPDATE accounts SET balance = balance WHERE id = 1');
      await STEPS.finish(pair.move('green'));
      // On the way to green nothing is in a hurry.
      await expect(STEPS.promote(pair.move('blue'))).rejects.toThrow(/Raise max_client_conn of that PgBouncer/);
    } finally {
      await mostClients(configured);
    }
    await pair.expectSettled('blue');
  });

  it('says which mark an earlier run has left whose clock was ahead, and goes on when it is removed', async () => {
    const { epoch } = await pair.whereWritesAre();
    const [pooler] = pair.setup.instances;
    if (pooler === undefined) throw new Error('there is no PgBouncer');
    const before = await readFile(pooler.file, 'utf8');
    const instance = new Instance(pooler, pair.setup);
    await instance.load({ side: 'blue', epoch: epoch + 3_600, state: 'settled' });
    await instance.close();
    await expect(STEPS.promote(pair.move('blue'))).rejects.toMatchObject({
      type: 'PromotionBlocked',
      message: expect.stringContaining(`the mark of an earlier run of this name, of epoch ${epoch + 3_600}`) as string,
    });
    await writeFile(pooler.file, before.replaceAll(/^verdigris_.*\n/gm, ''));
    await withClient({ ...pair.clientOf(0), database: 'pgbouncer' }, (admin) => admin.query('RELOAD'));
    for (const from of ['blue', 'green'] as const) {
      for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move(from));
    }
    await pair.expectSettled('blue');
  });

  it('leaves a pause of somebody else alone, and says so', async () => {
    const admin = new pg.Client({ ...pair.clientOf(0), database: 'pgbouncer' });
    await admin.connect();
    clients.push(admin);
    await admin.query('PAUSE orders');
    await expect(STEPS.promote(pair.move('blue'))).rejects.toThrow(
      /"orders" is paused on PgBouncer "pgbouncer_1", and not by/,
    );
    const { rows } = await admin.query<{ name: string; paused: number }>('SHOW DATABASES');
    expect(rows.find(({ name }) => name === 'orders')?.paused).toBe(1);
    await admin.query('RESUME orders');
    await pair.expectSettled('blue');
  });

  it('says that somebody has paused all of one, and leaves that alone, on the way back, too', async () => {
    const admin = new pg.Client({ ...pair.clientOf(0), database: 'pgbouncer' });
    await admin.connect();
    clients.push(admin);
    for (const from of ['blue', 'green'] as const) {
      await admin.query('PAUSE');
      await expect(STEPS.promote(pair.move(from))).rejects.toThrow(
        /PgBouncer "pgbouncer_1" is paused as a whole .* RESUME without a name/,
      );
      await admin.query('RESUME');
      for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move(from));
    }
    await pair.expectSettled('blue');
  });

  it('takes a RESUME for done that somebody else was quicker with', async () => {
    const [pooler] = pair.setup.instances;
    if (pooler === undefined) throw new Error('there are two');
    const control = await Console.open(pooler);
    try {
      await control.resume('orders');
      await expect(control.resume('nobody')).rejects.toThrow(
        'PgBouncer "pgbouncer_1" refuses RESUME: no such database: nobody',
      );
      // The session goes on.
      await control.resume('orders');
    } finally {
      control.close();
    }
  });

  it('says at once that its user may only look, and waits for nobody', async () => {
    const [pooler] = pair.setup.instances;
    if (pooler === undefined) throw new Error('there are two');
    const { epoch } = await pair.whereWritesAre();
    const admin = new Instance(pooler, pair.setup);
    await admin.load({ side: 'blue', epoch, state: 'settled' }).finally(() => admin.close());
    const config = { ...pooler.config, user: ONLOOKER, password: 'looks' };
    const pools = pgBouncerPools({ ...pair.setup, instances: [{ ...pooler, config }] });
    try {
      for (const step of ['prepare', 'pause'] as const) {
        const refused = await pools[step]('blue', epoch).catch((error: unknown) => error);
        expect(String(refused)).toContain('PgBouncer "pgbouncer_1" refuses RELOAD: admin access needed');
        expect(refused).not.toBeInstanceOf(PoolerAwaited);
        expect(refused).toMatchObject({ type: 'PromotionBlocked' });
      }
    } finally {
      await pools.close();
    }
    // Its file says that somebody is at it: who may do more puts that right.
    await releaseHere();
    await pair.expectSettled('blue', [0]);
  });

  /** Lets the first PgBouncer take no more clients than this, RELOADs and all. @returns how many it took before */
  async function mostClients(most: number): Promise<number> {
    const file = join(dirname(pair.poolers[0]?.file ?? ''), 'pgbouncer.ini');
    const text = await readFile(file, 'utf8');
    const setting = /^max_client_conn = (\d+)$/m;
    await writeFile(file, text.replace(setting, `max_client_conn = ${most}`));
    await withClient({ ...pair.clientOf(0), database: 'pgbouncer' }, (admin) => admin.query('RELOAD'));
    return Number(setting.exec(text)?.[1]);
  }

  /** Before a PgBouncer, as one of 1.23 or later is while it shuts down: who is connected goes on, and nobody comes any more. */
  async function closableFront(target: number): Promise<{ readonly port: number; stopListening(): void }> {
    const front = createServer((client) => {
      const server = connect({ port: target, host: '127.0.0.1' });
      for (const socket of [client, server]) socket.on('error', () => undefined);
      client.pipe(server).pipe(client);
    });
    front.listen(0, '127.0.0.1');
    await once(front, 'listening');
    return { port: (front.address() as AddressInfo).port, stopListening: () => void front.close() };
  }

  /** What any activity does first that may have been begun by a worker that is gone. */
  async function releaseHere(): Promise<void> {
    const pools = poolsBefore(pair.setup, pair.databases);
    await releaseAll(pools).finally(() => pools.close());
  }

  /** A worker that has announced its pause and is held before it sends what begins with this; a second one settles. */
  async function heldBefore(
    command: string,
  ): Promise<{ proxy: StatementProxy; pools: Pools; wake(): Promise<unknown>; close(): Promise<void> }> {
    const [first] = pair.setup.instances;
    const proxy = await StatementProxy.start(pair.poolers[0]?.port ?? 0);
    if (first === undefined) throw new Error('there are two');
    const instances = [{ ...first, config: { ...first.config, port: proxy.port } }];
    const pools = poolsBefore({ ...pair.setup, instances }, pair.databases);
    const held = proxy.stopWhere(({ text }) => text.startsWith(command), 'before');
    const { epoch } = await pair.whereWritesAre();
    const pausing = pools.pause('blue', epoch).catch((error: unknown) => error);
    const there = await held;
    await releaseHere();
    return {
      proxy,
      pools,
      wake: () => {
        there.release();
        return pausing;
      },
      close: async () => {
        await pools.close();
        await proxy.close();
      },
    };
  }

  it('a worker that wakes up before its PAUSE refuses it, and gives the settings back', async () => {
    for (const command of ['SET server_login_retry', 'SET max_db_connections']) {
      const late = await heldBefore(command);
      expect(String(await late.wake())).toMatch(/"pgbouncer_1" has been settled by another worker meanwhile/);
      await pair.expectSettled('blue');
      await late.close();
    }
  });

  it('a worker whose PAUSE comes late resumes, and gives the settings back', async () => {
    const late = await heldBefore('PAUSE');
    expect(String(await late.wake())).toMatch(/"pgbouncer_1" has been settled by another worker meanwhile/);
    await pair.expectSettled('blue');
    expect(await late.pools.release()).toEqual([]);
    await pair.expectSettled('blue');
    await late.close();
  });

  it('a worker whose PAUSE comes late and that dies then leaves a pause that the next one ends', async () => {
    const late = await heldBefore('PAUSE');
    const looks = late.proxy.stopWhere(({ text }) => text === 'SHOW DATABASES', 'before');
    const ended = late.wake();
    await looks;
    await expect(pair.expectSettled('blue')).rejects.toThrow('paused');
    await late.proxy.close();
    await ended;
    await late.pools.close();
    await expect(pair.expectSettled('blue')).rejects.toThrow('paused');
    await releaseHere();
    await pair.expectSettled('blue');
    await (await client(0)).query('UPDATE accounts SET balance = balance WHERE id = 1');
  });

  it('ends on green with nobody waiting when its worker is killed between RELOAD and RESUME', async () => {
    const { outcome } = await killWorkerAt(pair, {
      name: 'RELOAD leads to green',
      at: 'console',
      point: ({ text, nth }) => text === 'RELOAD' && nth === 3,
      when: 'after',
    });
    expect(outcome).toBe('killed there');
    // Its clients wait: nobody has told them yet that the way is free.
    const waiting = client(0).then((one) => one.query('UPDATE accounts SET balance = balance WHERE id = 1'));
    for (const step of ['promote', 'finish'] as const) await carryOut(step, pair.move('blue'));
    await pair.expectSettled('green');
    await waiting;
  });
});
