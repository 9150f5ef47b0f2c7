import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readDecision } from '../../src/postgres/promotion-decision.js';
import { withSession } from '../../src/postgres/session.js';
import { otherSide, type Side } from '../../src/side.js';
import { transactionsPastTheFence } from '../support/past-the-fence.js';
import { withClient } from '../support/postgres.js';
import { PromotionRig } from '../support/promotion-rig.js';
import { carryOut } from '../support/promotion-steps.js';
import { StatementProxy } from '../support/statement-proxy.js';
import { LOCKS_WRITERS_OUT, WatchedTry } from '../support/watched-try.js';
import { isWaitingForLock, untilRow } from '../support/wait-for-row.js';

/* The rarer mistakes of promotions: see docs/mistakes.md and test/postgres/mistakes-promotion.test.ts. */

const MIGRATION = 'mistakes-promotion';

/** Who waits for the lock that a COMMIT takes if its transaction notifies. */
const WAITS_FOR_NOTIFY =
  "SELECT FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND objid = 0 AND NOT granted";

describe('the hold and the decision', () => {
  let rig: PromotionRig;
  /** Rows that the audit does not count: accounts with nothing in them. */
  let account = 10_000;

  beforeAll(async () => {
    rig = await PromotionRig.create('mistakes promotion');
    await rig.writers.pause();
  });

  // Nothing was lost in all this.
  afterAll(() => rig.audit().finally(() => rig.close()));

  const write = (client: pg.Client): Promise<unknown> =>
    client.query('INSERT INTO public.accounts VALUES ($1, 0)', [++account]);

  it('keys that the old side gives out until the last moment stay behind, however many', async () => {
    const attempt = await WatchedTry.prepare(rig);
    const { from } = attempt;
    const locking = attempt.stopAt(LOCKS_WRITERS_OUT, 'before');
    const outcome = attempt.run();
    const held = await locking;
    const next = (side: Side, count: number) =>
      rig.on(side, async (client) => {
        const sql = `SELECT max(nextval('public.entries_id_seq'))::int AS last FROM generate_series(1, ${count})`;
        return (await client.query<{ last: number }>(sql)).rows[0]?.last ?? 0;
      });
    const last = await next(from, 5_000);
    held.release();
    expect(await outcome).toMatchObject({ epoch: expect.any(Number) as number });
    expect(await next(otherSide(from), 1)).toBeGreaterThanOrEqual(last + 1_000);
    await carryOut('finish', rig.move(from));
    await attempt.close();
    await rig.audit();
    await rig.writers.pause();
  });

  // From green: the case before has moved the writes there.
  transactionsPastTheFence(() => rig, 'the other way');

  it('a worker that freezes while it asks what was decided is ended by the server, and writers go on', async () => {
    const attempt = await WatchedTry.prepare(rig);
    const { from } = attempt;
    const database = rig.databases[from];
    const proxy = await StatementProxy.start(Number(database.config.port));
    const through = { ...database, config: { ...database.config, port: proxy.port } };
    // With the fence's lock in its hands.
    const frozen = proxy.stopWhere(({ text }) => /verdigris\.route[\s\S]*FOR UPDATE/.test(text), 'before');
    const asking = withSession(through, { purpose: 'test' }, (session) =>
      readDecision(session, MIGRATION, from, 1),
    ).catch((error: unknown) => error);
    const held = await frozen;
    await rig.on(from, async (writer) => {
      await writer.query("SET statement_timeout = '8s'");
      await write(writer);
    });
    held.release();
    await asking;
    await proxy.close();
    await attempt.close();
  });

  it('a table that is new in a schema which the plan leaves out stops nothing, whether it is committed or not', async () => {
    const patterns = { include: ['*.*'], exclude: ['staging.*'] };
    for (const side of ['blue', 'green'] as const)
      await rig.on(side, (client) => client.query('CREATE SCHEMA staging'));
    for (let move = 0; move < 2; move++) {
      const attempt = await WatchedTry.prepare(rig, patterns);
      const { from } = attempt;
      await rig.on(from, async (loader) => {
        await loader.query('CREATE TABLE staging.load_1 (id int)');
        await loader.query('BEGIN; CREATE TABLE staging.load_2 (id int); INSERT INTO staging.load_1 VALUES (1)');
        expect(await attempt.run()).toMatchObject({ epoch: expect.any(Number) as number });
        await loader.query('COMMIT');
      });
      await carryOut('finish', rig.move(from));
      await attempt.close();
    }
    for (const side of ['blue', 'green'] as const) {
      await rig.on(side, (client) => client.query('DROP SCHEMA staging CASCADE'));
    }
  });

  it('what goes on beside it and makes no write of a moved table stops nothing: TRUNCATE at the fence, temporary tables', async () => {
    const attempt = await WatchedTry.prepare(rig);
    const { from } = attempt;
    const deciding = attempt.stopAt(/SELECT verdigris\.decide/, 'before');
    const outcome = attempt.run();
    const held = await deciding;
    await rig.on(from, (truncates) =>
      rig.on(from, async (temporary) => {
        const refused = truncates.query('TRUNCATE public.upserts').catch((error: unknown) => error);
        await temporary.query('BEGIN; CREATE TEMP TABLE seen_before (id int); COMMIT');
        await temporary.query('BEGIN; CREATE TEMP TABLE of_mine ON COMMIT DROP AS SELECT 1 AS id');
        await untilRow(temporary, "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
        held.release();
        expect(await outcome).toMatchObject({ epoch: expect.any(Number) as number });
        expect(await refused).toMatchObject({ code: '25006' });
        await temporary.query('ROLLBACK');
      }),
    );
    await carryOut('finish', rig.move(from));
    await attempt.close();
  });

  it('a database whose transactions are REPEATABLE READ by default shows what was committed while the lock was waited for', async () => {
    const { from, close } = await repeatableRead();
    const attempt = await WatchedTry.prepare(rig);
    const locking = attempt.stopAt(LOCKS_WRITERS_OUT, 'before');
    const outcome = attempt.run({ maxHoldMs: 5_000, lockTimeoutMs: 4_000 });
    const held = await locking;
    await rig.on(from, async (writer) => {
      await writer.query('BEGIN ISOLATION LEVEL READ COMMITTED');
      await write(writer);
      await writer.query('CREATE TABLE public.new_one (id int)');
      held.release();
      await rig.on(from, (client) => untilRow(client, isWaitingForLock('verdigris promotion')));
      await writer.query('COMMIT');
    });
    expect(await outcome).toMatchObject({ type: 'FenceTampered' });
    await rig.on(from, (client) => client.query('DROP TABLE public.new_one'));
    await attempt.close();
    await close();
  });

  async function repeatableRead(): Promise<{ from: Side; close: () => Promise<void> }> {
    const from = rig.primary;
    const set = (value: string): Promise<void> =>
      rig.on(from, async (client) => {
        const database = client.escapeIdentifier(client.database ?? '');
        await client.query(`ALTER DATABASE ${database} ${value}`);
      });
    await set("SET default_transaction_isolation = 'repeatable read'");
    return { from, close: () => set('RESET default_transaction_isolation') };
  }

  it('its COMMIT waits for no notifier: heavy NOTIFY traffic of another database of the server', async () => {
    const attempt = await WatchedTry.prepare(rig);
    const { from } = attempt;
    const heard = { blue: 0, green: 0 };
    const elsewhere = { ...rig.databases[from].config, database: 'postgres' };
    // Each 10 MB are written under the lock that all notifiers of the server share.
    const traffic = "SELECT pg_notify('elsewhere', repeat('x', 2000) || i) FROM generate_series(1, 5000) i";
    await rig.on('blue', (onBlue) =>
      rig.on('green', async (onGreen) => {
        onBlue.on('notification', () => heard.blue++);
        onGreen.on('notification', () => heard.green++);
        for (const client of [onBlue, onGreen]) await client.query('LISTEN verdigris_route');
        const committing = attempt.stopAt(/; COMMIT$/, 'before');
        const outcome = attempt.run({ maxHoldMs: 20_000, lockTimeoutMs: 20 });
        const held = await committing;
        const before = { ...heard };
        const notifiers = [1, 2, 3, 4].map(() => withClient(elsewhere, (client) => client.query(traffic)));
        await rig.on(from, (client) => untilRow(client, WAITS_FOR_NOTIFY));
        held.release();
        expect(await outcome).toMatchObject({ epoch: expect.any(Number) as number });
        await Promise.all(notifiers);
        // Routers that listen to either side hear of it.
        await expect.poll(() => heard.blue > before.blue && heard.green > before.green, { timeout: 5_000 }).toBe(true);
      }),
    );
    await carryOut('finish', rig.move(from));
    await attempt.close();
  });
});
