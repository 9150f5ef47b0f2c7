import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { VerdigrisError } from '../../src/errors.js';
import { Hold, StandsInTheWay } from '../../src/postgres/hold.js';
import { somebodyWaits } from '../../src/postgres/blockers.js';
import {
  longWriters,
  whoBlocks,
  whoHasWritten,
  whoHoldsAdvisoryLock,
  whoLocksReadersOut,
} from '../../src/postgres/locks.js';
import { lockOutWriters } from '../../src/postgres/promotion-hold.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { FENCE_LOCK } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

describe('who stands in the way of a promotion', () => {
  let own: TestDatabase;
  let session: Session;

  beforeAll(async () => {
    own = await testDatabase('pg15', 'in the way');
    session = await openSession(asDatabase(own, 'blue'), { purpose: 'test' });
    await session.query('CREATE TABLE public.cards (number text)');
  });

  afterAll(async () => {
    await closeSession(session);
    await own.drop();
  });

  it('is told with process, application, user, client, database, state, age and the kind of the statement', async () => {
    await withClient({ ...own.config, application_name: 'shop' }, async (writer) => {
      await writer.query('BEGIN');
      await writer.query('SELECT pg_advisory_xact_lock_shared(77)');
      await writer.query("INSERT INTO cards VALUES ('4111 1111')");
      const { rows } = await writer.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
      const who = [
        await whoBlocks(session, { schema: 'public', name: 'cards' }),
        await whoHoldsAdvisoryLock(session, 77n),
        await longWriters(session, { olderThanSeconds: 0, everywhere: false }),
      ];
      for (const text of who) {
        expect(text).toContain(
          `pid ${rows[0]?.pid} (shop, user postgres, client 127.0.0.1, database ${own.database}, idle in transaction`,
        );
        expect(text).toMatch(/transaction \d+\.\d s old, last statement: SELECT pg_backend_pid\(\) AS/);
      }
      // Of the whole server, where other tests write, too.
      expect(await whoHasWritten(session)).toMatch(/^Writing longest on its server: pid \d+ \(.*, database /);
      expect(await longWriters(session, { olderThanSeconds: 60, everywhere: false })).toBeNull();
      await writer.query('ROLLBACK');
    });
    expect(await whoHoldsAdvisoryLock(session, 77n)).toBe('Writing longest: nobody any more.');
  });

  it('never shows a value of a statement', async () => {
    await withClient({ ...own.config, application_name: "it's 1 shop" }, async (writer) => {
      for (const statement of ["SELECT '4111 1111'", 'SELECT 41111111 , 2', "INSERT INTO cards VALUES('4111 1111')"]) {
        await writer.query('BEGIN');
        await writer.query('SELECT pg_advisory_xact_lock_shared(78)');
        await writer.query(statement);
        const text = await whoHoldsAdvisoryLock(session, 78n);
        expect(text).toContain(statement.slice(0, 6));
        expect(text).not.toContain('1111');
        await writer.query('ROLLBACK');
      }
    });
  });

  it('is looked for only while somebody waits for a lock, which a role without pg_monitor finds out, too', async () => {
    const role = `plain_${process.pid}`;
    await session.query(`CREATE ROLE ${role} LOGIN PASSWORD 'x'`);
    const config = { ...own.config, user: role, password: 'x' };
    const plain = await openSession({ ...asDatabase(own, 'blue'), config }, { purpose: 'test' });
    try {
      await withClient(own.config, async (holder) => {
        await holder.query('BEGIN; LOCK TABLE cards');
        await withClient(own.config, async (waiter) => {
          const waiting = waiter.query('SELECT FROM cards');
          // Others wait on this server at times, so only that it is seen can be asked for.
          await expect.poll(() => somebodyWaits(session)).toBe(true);
          await expect.poll(() => somebodyWaits(plain)).toBe(true);
          await holder.query('COMMIT');
          await waiting;
        });
      });
      // It is said of the whole server: what others wait for has an end, too.
      await expect.poll(() => somebodyWaits(session), { timeout: 30_000 }).toBe(false);
      await expect.poll(() => somebodyWaits(plain), { timeout: 30_000 }).toBe(false);
    } finally {
      await closeSession(plain);
      await session.query(`DROP ROLE ${role}`);
    }
  });

  it('can be a prepared transaction, which has no process', async () => {
    await withClient(own.config, async (writer) => {
      await writer.query(
        "BEGIN; SELECT pg_advisory_xact_lock_shared(79); LOCK TABLE cards; INSERT INTO cards VALUES ('x')",
      );
      await writer.query("PREPARE TRANSACTION 'in_the_way'");
      const prepared = `prepared transaction in_the_way, user postgres, database ${own.database}, to be ended with COMMIT PREPARED or ROLLBACK PREPARED, transaction \\d+\\.\\d s old`;
      const text = await longWriters(session, { olderThanSeconds: 0, everywhere: false });
      expect(text).toMatch(new RegExp(`^${prepared}$`));
      // An application with two-phase commit has a young one at each moment: it ends like any writer.
      expect(await longWriters(session, { olderThanSeconds: 5, everywhere: false })).toBeNull();
      expect(await longWriters(session, { olderThanSeconds: 5, everywhere: true })).toBeNull();
      const told = [
        [await whoHoldsAdvisoryLock(session, 79n), 'Writing longest'],
        [await whoBlocks(session, { schema: 'public', name: 'cards' }), 'In the way'],
        [await whoLocksReadersOut(session), 'Locking'],
      ] as const;
      for (const [who, lead] of told) expect(who).toMatch(new RegExp(`^${lead}: ${prepared}\\.$`));
      await writer.query("ROLLBACK PREPARED 'in_the_way'");
    });
  });
});

describe('a hold whose lock is not had', () => {
  it('blames writers only when the lock was not to be had: not for a connection that is cut', async () => {
    const own = await testDatabase('pg15', 'lock not had');
    const blue = asDatabase(own, 'blue');
    const main = await openSession(blue, { purpose: 'test' });
    const promotion = {
      ...{ databases: { blue, green: blue }, migration: 'm', from: 'blue' as const, fenced: [], knownTables: [] },
      ...{ maxHoldMs: 5_000, lockTimeoutMs: 20, sequenceGap: 0, feedBack: false },
    };
    const ask = (): Promise<void> => lockOutWriters(main, promotion, new Hold(5_000), 1);
    await withClient(own.config, async (writer) => {
      await writer.query(`SELECT pg_advisory_lock_shared(${FENCE_LOCK})`);
      await expect(ask()).rejects.toThrow('writers did not end within 20 ms');
      await main.query('ROLLBACK');
      const { rows } = await main.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
      await writer.query('SELECT pg_terminate_backend($1, 5000)', [rows[0]?.pid]);
    });
    await expect(ask()).rejects.not.toThrow('writers did not end');
    await closeSession(main);
    await own.drop();
  });
});

describe('a hold that ends without a decision', () => {
  it('asks who stood in the way only when it is explained, so that writers have gone on by then', async () => {
    let asked = 0;
    const failure = new StandsInTheWay('writers did not end', new Error('lock timeout'), () => {
      asked++;
      return Promise.resolve('Writing longest: pid 1.');
    });
    expect(asked).toBe(0);
    const error = await StandsInTheWay.explained(failure);
    expect(error).toMatchObject({ type: 'PromotionBlocked', cause: new Error('lock timeout') });
    expect(error.message).toContain('writers did not end. Writing longest: pid 1.');
  });

  it('is explained without that when nobody answers, or when asking fails', async () => {
    for (const who of [() => new Promise<string>(() => undefined), () => Promise.reject(new Error('cut'))]) {
      const error = await StandsInTheWay.explained(new StandsInTheWay('it took too long', undefined, who));
      expect(error.message.split('\n')[0]).toBe('the promotion could not go through: it took too long');
    }
  });

  it('is a try whatever ended it, but an error for people stays as it is', async () => {
    expect(await StandsInTheWay.explained(new Error('connection reset'))).toMatchObject({ type: 'PromotionBlocked' });
    const tampered = new VerdigrisError({ type: 'FenceTampered', message: 'open', nextStep: 'mend it' });
    expect(await StandsInTheWay.explained(tampered)).toBe(tampered);
  });

  it('keeps its transaction no longer than that, however late a worker freezes: until 17 a server bounds none as a whole', async () => {
    const own = await testDatabase('pg15', 'frozen late');
    const main = await openSession(asDatabase(own, 'blue'), { purpose: 'test' });
    const hold = new Hold(1_000);
    await hold.query(main, "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '1s'");
    const ended = new Promise((resolve) => main.once('error', resolve));
    await hold.queryInTransaction(main, 'SELECT pg_sleep(0.8)');
    await hold.queryInTransaction(main, 'SELECT');
    await ended;
    expect(hold.elapsed()).toBeGreaterThanOrEqual(1_000);
    // Half a second for a machine that is busy: the server's own limit began anew at 0.8 s.
    expect(hold.elapsed()).toBeLessThan(1_700);
    await own.drop();
  });

  it('begins no step when its time is over, and tells what each step took', async () => {
    const hold = new Hold(60_000);
    await hold.step('lock', () => Promise.resolve());
    await hold.step('marker', () => Promise.resolve());
    expect(Object.keys(hold.steps)).toEqual(['lock', 'marker']);
    const over = new Hold(-1);
    let began = false;
    const late = over.step('lock', () => {
      began = true;
      return Promise.resolve();
    });
    await expect(late).rejects.toThrow('the hold took longer than');
    expect(began).toBe(false);
    // The decision has been made: the new side is opened however late it is.
    await over.afterDecision('open', () => Promise.resolve());
    expect(Object.keys(over.steps)).toEqual(['open']);
  });
});
