import { chmodSync, chownSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { asUser, isRoot } from '../support/as-user.js';
import { PooledPair } from '../support/pooled-pair.js';
import { planSchema } from '../../src/plan/schema.js';
import { isReady, type PreflightReport } from '../../src/postgres/preflight/finding.js';
import { preflight } from '../../src/postgres/preflight/preflight.js';
import { backendPid } from '../../src/postgres/migrate/step-context.js';
import { withSession, type Database } from '../../src/postgres/session.js';
import { withClient } from '../support/postgres.js';
import { poolsBefore } from '../../src/pgbouncer/from-plan.js';
import { poolerAdmin, poolerFindings, whatPreflightSays } from '../support/pooler-preflight.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED the preflight of PgBouncer: pgbouncer is not installed\n');

describe.skipIf(!isThere)('the preflight of PgBouncer', () => {
  let pair: PooledPair;

  beforeAll(async () => {
    // A login that has failed keeps the next ones away for 15 s by default.
    pair = await PooledPair.create('pooled preflight', { poolers: 1, settings: { server_login_retry: '1' } });
  });

  afterAll(async () => pair.close());

  const findings = (more?: Parameters<typeof poolerFindings>[1]): Promise<string[]> => poolerFindings(pair, more);
  const admin = (...commands: string[]): Promise<void> => poolerAdmin(pair, ...commands);

  /** What the look before the pause says: why it is refused, and otherwise nothing. */
  async function saidBeforePause(): Promise<string[]> {
    const pools = poolsBefore(pair.setup, pair.databases);
    try {
      await pools.prepare('blue', (await pair.whereWritesAre()).epoch);
      return [];
    } catch (error) {
      return [String(error)];
    } finally {
      await pools.release();
      await pools.close();
    }
  }

  it('finds nothing where all is well, and leaves the file as it is', async () => {
    const before = readFileSync(pair.poolers[0]?.file ?? '', 'utf8');
    expect(await findings()).toEqual([]);
    expect(readFileSync(pair.poolers[0]?.file ?? '', 'utf8')).toBe(before);
  });

  it('refuses session pooling, and clients that are cut off while they wait', async () => {
    await admin("SET pool_mode = 'session'", "SET query_wait_timeout = '3'");
    expect(await findings()).toEqual(['error pgbouncer-pool-mode', 'error pgbouncer-wait']);
    await admin('RELOAD');
  });

  it('refuses sessions of a user only while they are there, and warns of them when they have gone', async () => {
    const file = pair.poolers[0]?.file ?? '';
    const right = readFileSync(file, 'utf8');
    writeFileSync(file, `${right}\n[users]\n${pair.user} = pool_mode=session\n`);
    await admin('RELOAD');
    try {
      await withClient(pair.clientOf(0), async (dumping) => {
        await dumping.query('SELECT 1');
        expect(await findings()).toEqual(['error pgbouncer-pool-mode']);
      });
      await expect.poll(findings).toEqual(['warning pgbouncer-pool-mode']);
      const [{ message = '' } = {}] = await whatPreflightSays(pair);
      expect(message).toContain(`pools sessions of "${pair.user}", who are not there now`);
      expect(await saidBeforePause()).toEqual([]);
    } finally {
      // A user keeps the mode that it had when its line goes.
      writeFileSync(file, `${right}\n[users]\n${pair.user} = pool_mode=transaction\n`);
      await admin('RELOAD');
      writeFileSync(file, right);
      await admin('RELOAD');
    }
  });

  it('warns of clients that replicate through it, which are in the way of a pause', async () => {
    const ask = pg.Client.prototype.query as unknown as (this: pg.Client, ...of: unknown[]) => Promise<pg.QueryResult>;
    const replication = { database: 'orders', user: 'cdc', replication: 'logical', application_name: 'feed', addr: '' };
    const answers = vi.spyOn(pg.Client.prototype, 'query').mockImplementation(async function (
      this: pg.Client,
      ...of: unknown[]
    ) {
      const answer = await ask.apply(this, of);
      // As later versions say it.
      return of[0] === 'SHOW CLIENTS' ? { ...answer, rows: [...(answer.rows as object[]), replication] } : answer;
    } as never);
    try {
      const said = await whatPreflightSays(pair);
      expect(said.filter(({ check }) => check === 'pgbouncer-pool-mode')).toMatchObject([
        { severity: 'warning', message: expect.stringContaining('(user "cdc", logical replication, feed)') as string },
      ]);
      expect(await saidBeforePause()).toEqual([expect.stringContaining('replicate through PgBouncer')]);
    } finally {
      answers.mockRestore();
    }
  });

  it('warns of an entry whose own limits a pause can not change for its time', async () => {
    const file = pair.poolers[0]?.file ?? '';
    const right = readFileSync(file, 'utf8');
    writeFileSync(file, right.replace(/^(orders = .*)$/m, '$1 min_pool_size=2'));
    await admin('RELOAD');
    expect(await findings()).toEqual(['warning pgbouncer-limits']);
    writeFileSync(file, right);
    await admin('RELOAD');
  });

  it('refuses a console that it does not know, or that is not there, and a file that is not there', async () => {
    expect(await findings({ connection: 'other' })).toEqual(['error pgbouncer-console']);
    expect(await findings({ file: '/nowhere/orders.ini' })).toEqual(['error pgbouncer-file']);
    await pair.poolers[0]?.stopProcess();
    expect(await findings()).toEqual(['error pgbouncer-console']);
    await pair.poolers[0]?.restart();
  });

  it('warns of entries that lead to blue and would stay there, and of no others; before the pause, too', async () => {
    const file = pair.poolers[0]?.file ?? '';
    const right = readFileSync(file, 'utf8');
    const blue = /^orders_blue = (.*) pool_size=1$/m.exec(right)?.[1] ?? '';
    const address = blue.replace(/ dbname=.*$/, '');
    const withEntries = async (...entries: string[]): Promise<void> => {
      writeFileSync(file, `${right}${entries.join('\n')}\n`);
      await admin('RELOAD');
    };
    await withEntries(
      `reports = ${address} dbname=another`,
      'elsewhere = host=127.0.0.1 port=1',
      '* = host=127.0.0.1 port=1',
    );
    expect(await findings()).toEqual([]);
    await withEntries(`orders_jobs = ${blue} pool_size=2`, `* = ${address}`);
    const said = await whatPreflightSays(pair);
    expect(said.map(({ severity, check, message }) => `${severity} ${check}: ${message}`)).toEqual([
      expect.stringContaining('warning pgbouncer-entries: clients of "orders_jobs" stay on blue'),
      expect.stringContaining('warning pgbouncer-entries: clients that come by a name without an entry of its own (*)'),
    ]);
    const told: string[] = [];
    const pools = poolsBefore(pair.setup, pair.databases, {
      mayBeRefused: (what) => void told.push(what),
      unserved: () => undefined,
      notTold: () => undefined,
    });
    await pools.prepare('blue', (await pair.whereWritesAre()).epoch);
    expect(told).toHaveLength(2);
    expect(told[0]).toContain('"orders_jobs" stay on blue');
    await pools.release();
    await pools.close();
    writeFileSync(file, right);
    await admin('RELOAD');
  });

  describe.skipIf(!isRoot)('where the worker is another user than PgBouncer', () => {
    const worker = { uid: 54_003, gid: 54_004 };
    let file = '';
    let pooler = { uid: 0, gid: 0 };

    beforeAll(() => {
      file = pair.poolers[0]?.file ?? '';
      pooler = statSync(file);
      chmodSync(dirname(file), 0o777);
    });

    afterAll(() => {
      chmodSync(dirname(file), 0o700);
      chownSync(file, pooler.uid, pooler.gid);
      chmodSync(file, 0o600);
    });

    /** Looks, and lets the worker show that what it writes is loaded. */
    const prepared = (groups: readonly number[]): Promise<string[]> =>
      asUser({ ...worker, groups }, async () => {
        const pools = poolsBefore(pair.setup, pair.databases);
        try {
          await pools.prepare('blue', (await pair.whereWritesAre()).epoch);
          expect(await pools.release()).toEqual([]);
        } finally {
          await pools.close();
        }
        return findings();
      });

    it('lets it write a file that has a group of both', async () => {
      chownSync(file, pooler.uid, pooler.gid);
      chmodSync(file, 0o660);
      expect(await prepared([pooler.gid])).toEqual([]);
      expect(statSync(file)).toMatchObject({ uid: worker.uid, gid: pooler.gid });
      await pair.poolers[0]?.restart();
      await pair.expectSettled('blue');
    });

    it('refuses a file that PgBouncer could not read any more, and leaves it', async () => {
      chownSync(file, worker.uid, pooler.gid);
      chmodSync(file, 0o640);
      const before = statSync(file).ino;
      expect(await asUser(worker, () => findings())).toEqual(['error pgbouncer-file']);
      await expect(prepared([])).rejects.toMatchObject({
        type: 'PromotionBlocked',
        message: expect.stringContaining(`the new file can't be given to group ${pooler.gid}`) as string,
      });
      expect(statSync(file).ino).toBe(before);
      await pair.poolers[0]?.restart();
    });
  });

  describe('of a connection of the worker that leads through one', () => {
    const through = (entry: string): Database => {
      const { connection, peerConninfo } = pair.databases.blue;
      const config = { ...pair.clientOf(0), database: entry };
      return { side: 'blue', connection, config, peerConninfo };
    };
    const settings = async (entry: string): Promise<unknown> =>
      withClient({ ...pair.clientOf(0), database: entry }, async (application) => {
        const { rows } = await application.query(
          `SELECT current_setting('search_path') AS path, current_setting('lock_timeout') AS patience,
                  current_setting('row_security') AS policies`,
        );
        return rows;
      });
    const found = (blue: Database): Promise<PreflightReport> => {
      const plan = planSchema.parse({ name: pair.migration, blue: { connection: 'b' }, green: { connection: 'g' } });
      return preflight({ blue, green: pair.databases.green, plan, runId: 'run-1', reachWithinMs: 1_000 });
    };

    it('refuses one that clients share, and leaves nothing of ours to the application', async () => {
      const before = await settings('orders_blue');
      const report = await found(through('orders_blue'));
      expect(await settings('orders_blue')).toEqual(before);
      expect(isReady(report)).toBe(false);
      expect(report.findings.filter(({ check }) => check === 'connection')).toEqual([
        {
          ...{ severity: 'error', check: 'connection', side: 'blue', object: 'test_blue' },
          message: expect.stringContaining(
            'the connection "test_blue" leads through a pooler that gives one',
          ) as string,
          remedy: expect.stringMatching(
            /^Write the address of the server itself into VERDIGRIS_CONNECTION_TEST_BLUE /,
          ) as string,
        },
      ]);
    });

    it('refuses one that hands out its connections in turn', async () => {
      await admin('SET server_round_robin = 1', 'RECONNECT');
      try {
        const client = { ...pair.clientOf(0), database: 'orders' };
        // Two of them at once, so that there are two to be handed out.
        await withClient(client, (one) =>
          withClient(client, async (other) => {
            for (const each of [one, other]) await each.query('BEGIN; SELECT 1');
            for (const each of [one, other]) await each.query('COMMIT');
          }),
        );
        const { findings } = await found(through('orders'));
        expect(findings.filter(({ check }) => check === 'connection')).toMatchObject([
          { severity: 'error', side: 'blue' },
        ]);
      } finally {
        await admin('RELOAD', 'RECONNECT');
      }
    });

    it('only warns of one that each client has for itself: its statements are cancelled by the process of the server', async () => {
      await admin("SET pool_mode = 'session'", 'RECONNECT');
      try {
        const database = through('orders');
        await withSession(database, { purpose: 'test' }, async (session) => {
          const { rows } = await session.query('SELECT pg_backend_pid() AS pid');
          expect(rows).toEqual([{ pid: backendPid(session) }]);
        });
        const { findings } = await found(database);
        expect(findings.filter(({ check }) => check === 'connection' || check === 'pooler')).toEqual([
          expect.objectContaining({ severity: 'warning', check: 'pooler', side: 'blue', object: 'test_blue' }),
        ]);
      } finally {
        await admin('RELOAD');
      }
    });
  });
});
