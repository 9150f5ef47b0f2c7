import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { directionTo, feedName } from '../../src/postgres/feed.js';
import { measureLag, waitForMarker, writeMarker } from '../../src/postgres/marker.js';
import { preparePromotion } from '../../src/postgres/prepare-promotion.js';
import { createPublication } from '../../src/postgres/publication.js';
import { ensureSlot } from '../../src/postgres/replication-slot.js';
import { openSession, closeSession, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { enableSubscription, ensureSubscription, readSubscription } from '../../src/postgres/subscription.js';
import { otherSide, type Side } from '../../src/side.js';
import { asDatabase, testDatabase } from '../support/postgres.js';
import { carryOut, STEPS } from '../support/promotion-steps.js';
import { PromotionRig } from '../support/promotion-rig.js';
import { StatementProxy } from '../support/statement-proxy.js';
import { WatchedTry } from '../support/watched-try.js';

/*
 * Mistakes that replication in both directions has been bitten by: see docs/mistakes.md. Each test fails when its rule
 * is taken out of the code (npm run test:mutations).
 */

const MIGRATION = 'mistakes-feeds';

describe('the feed there and the feed back', () => {
  let rig: PromotionRig;
  /** Rows that the audit does not count: accounts with nothing in them. */
  let account = 10_000;

  beforeAll(async () => {
    rig = await PromotionRig.create('mistakes feeds');
    await rig.writers.pause();
  });

  afterAll(() => rig.close());

  const feedTo = (side: Side): string => feedName(MIGRATION, directionTo(side));
  const subscription = (side: Side) => rig.ours(side, (s) => readSubscription(s, feedTo(side)));

  /** The side that has no writes any more follows the one that has, and has met no error on the way. */
  async function follows(side: Side): Promise<void> {
    const other = otherSide(side);
    const lag = await rig.ours(other, (to) => rig.ours(side, (from) => measureLag(to, from, directionTo(side), 8_000)));
    expect(lag).toBeLessThan(8_000);
    expect((await subscription(side))?.errors).toBe(0);
  }

  it('the reverse feed does not begin while a worker of the old one still runs', async () => {
    const from = rig.primary;
    const to = otherSide(from);
    const move = rig.move(from);
    await carryOut('promote', move);
    rig.primary = to;
    await rig.on(to, async (reader) => {
      await reader.query(`BEGIN; LOCK TABLE verdigris.marker_${directionTo(to)} IN SHARE MODE`);
      // The worker waits for the lock, and hears of nothing else meanwhile.
      await rig.ours(from, (s) => writeMarker(s, directionTo(to)));
      const finished = carryOut('finish', move);
      while ((await subscription(to))?.enabled === true) await sleep(5);
      await sleep(300);
      expect(await subscription(from)).toMatchObject({ enabled: false, workers: 0 });
      await reader.query('ROLLBACK');
      await finished;
    });
    expect(await subscription(to)).toBeUndefined();
    expect(await subscription(from)).toMatchObject({ enabled: true });
    await follows(from);
  });

  it('a marker of the old direction that comes after the decision does not come back', async () => {
    const from = rig.primary;
    const to = otherSide(from);
    const move = rig.move(from);
    await carryOut('promote', move);
    rig.primary = to;
    // Somebody measures the lag once more, while the slot of the way back is there and the old feed still runs.
    await rig.ours(from, (source) =>
      rig.ours(to, async (target) => {
        const token = await writeMarker(source, directionTo(to));
        expect(await waitForMarker(target, directionTo(to), token, 10_000)).toBe(true);
      }),
    );
    await carryOut('finish', move);
    await follows(from);
  });

  it('the slot of the way back begins after the last row of the old side, however late that row is applied', async () => {
    const attempt = await WatchedTry.prepare(rig);
    const { from } = attempt;
    const to = otherSide(from);
    const move = rig.move(from);
    const locking = attempt.stopAt(
      /READ COMMITTED; SET LOCAL lock_timeout = #; SET LOCAL idle_in_transaction/,
      'before',
    );
    const outcome = attempt.run({ maxHoldMs: 10_000 });
    const held = await locking;
    await rig.on(to, async (reader) => {
      await reader.query('BEGIN; LOCK TABLE public.accounts IN SHARE MODE');
      await rig.on(from, (client) => client.query('INSERT INTO public.accounts VALUES ($1, 0)', [++account]));
      held.release();
      await sleep(400);
      await reader.query('ROLLBACK');
    });
    expect(await outcome).toMatchObject({ holdMs: expect.any(Number) as number });
    await attempt.close();
    await carryOut('finish', move);
    await follows(from);
    await rig.audit();
    await rig.writers.pause();
  });

  it('no promotion begins without a way back that is proven, also not when it was proven once', async () => {
    const from = rig.primary;
    const { migration, tables, databases } = rig.move(from);
    const to = otherSide(from);
    const prepare = (peerConninfo: string) =>
      preparePromotion({
        databases: { ...databases, [to]: { ...databases[to], peerConninfo } },
        ...{ migration, from, fenced: tables, wayBack: tables.map((table) => ({ table })) },
      });
    const nowhere = 'host=127.0.0.1 port=1 user=postgres dbname=nowhere';
    const unreachable = expect.objectContaining({
      type: 'PromotionBlocked',
      message: expect.stringContaining('there would be no way back') as string,
    });
    await expect(prepare(nowhere)).rejects.toEqual(unreachable);
    expect(
      (
        await rig.ours(from, (s) =>
          s.query("SELECT FROM pg_trigger WHERE tgname = '_verdigris_fence' AND tgenabled <> 'D'"),
        )
      ).rowCount,
    ).toBe(0);
    // Such as localhost: it answers, and is the old side itself.
    const itself = databases[from].peerConninfo;
    const another = expect.objectContaining({
      type: 'PromotionBlocked',
      message: expect.stringMatching(/there would be no way back: .*leads to another server/) as string,
    });
    await expect(prepare(itself)).rejects.toEqual(another);
    await prepare(databases[to].peerConninfo);
    await expect(prepare(nowhere)).rejects.toEqual(unreachable);
    await expect(prepare(itself)).rejects.toEqual(another);
  });

  const enable = (side: Side) =>
    rig.on(side, (dba) => dba.query(`ALTER SUBSCRIPTION "${feedTo(side)}" ENABLE`).then(() => undefined));

  it('the feed back that somebody has enabled is off before writers are asked to wait', async () => {
    const from = rig.primary;
    const { migration, tables, databases } = rig.move(from);
    const wayBack = tables.map((table) => ({ table }));
    const prepare = () => preparePromotion({ databases, migration, from, fenced: tables, wayBack });
    await prepare();
    await enable(from);
    await prepare();
    expect(await subscription(from)).toMatchObject({ enabled: false, workers: 0 });
  });

  it('one that is enabled in the hold ends the try: both feeds would be on at once', async () => {
    const attempt = await WatchedTry.prepare(rig);
    const deciding = attempt.stopAt(/verdigris\.decide/, 'before');
    const outcome = attempt.run({ maxHoldMs: 10_000 });
    const held = await deciding;
    await enable(attempt.from);
    held.release();
    expect(await outcome).toMatchObject({
      type: 'PromotionBlocked',
      message: expect.stringMatching(/the subscription .* has been enabled/) as string,
    });
    await attempt.close();
    expect(rig.primary).toBe(attempt.from);
    // Without a slot, since the try has taken its own away: what was enabled has met an error by now, or has not.
    await rig.moveOn();
    await rig.on(attempt.from, (dba) => dba.query('SELECT pg_stat_reset_subscription_stats(NULL)'));
    await follows(attempt.from);
    await rig.audit();
    await rig.writers.pause();
  });

  it('a worker that was frozen since an earlier promotion begins no feed in a later one', async () => {
    const { from } = await frozenBeforeFeedBack(async ({ from, wake }) => {
      const other = otherSide(from);
      await carryOut('finish', rig.move(from));
      await rig.moveOn();
      expect(rig.primary).toBe(from);
      const { migration, tables, databases } = rig.move(from);
      const wayBack = tables.map((table) => ({ table }));
      await preparePromotion({ databases, migration, from, fenced: tables, wayBack });
      // Its sessions, which held the locks of both actors, have been ended; one that it opens now is in an epoch that is over.
      expect(await wake()).toMatchObject({
        message: expect.stringMatching(/Connection terminated|is not the one of epoch/) as string,
      });
      expect(await subscription(from)).toMatchObject({ enabled: false, workers: 0 });
      expect(await subscription(other)).toMatchObject({ enabled: true });
    });
    await rig.moveOn();
    await follows(from);
    await rig.audit();
    await rig.writers.pause();
  });

  /** Writes have moved, and the worker that finishes it is frozen when the old feed has ended. */
  async function frozenBeforeFeedBack(
    work: (frozen: { readonly from: Side; readonly wake: () => Promise<unknown> }) => Promise<void>,
  ): Promise<{ from: Side }> {
    const from = rig.primary;
    await rig.moveOn(['promote']);
    const proxy = await StatementProxy.start(Number(rig.databases[from].config.port));
    try {
      const config = { ...rig.databases[from].config, port: proxy.port };
      const databases = { ...rig.databases, [from]: { ...rig.databases[from], config } };
      const dropped = proxy.stopWhere(({ text }) => text.includes('pg_drop_replication_slot'), 'after');
      const outcome = STEPS.finish({ ...rig.move(from), databases }).catch((error: unknown) => error);
      const held = await dropped;
      await work({
        from,
        wake: () => {
          held.release();
          return outcome;
        },
      });
      return { from };
    } finally {
      await proxy.close();
    }
  }
});

it('with origin = none a change that came by replication does not go back, even if both feeds were on', async () => {
  const names = ['one', 'two'] as const;
  const own = [await testDatabase('pg18', 'origin b'), await testDatabase('pg18', 'origin g')];
  const databases = own.map((database, i) => asDatabase(database, i === 0 ? 'blue' : 'green'));
  const sessions: Session[] = [];
  try {
    for (const [i, database] of databases.entries()) {
      const session = await openSession(database, { purpose: 'test' });
      sessions.push(session);
      await installState(session, database.side);
      await session.query('CREATE TABLE public.t (id int PRIMARY KEY, n int)');
      const direction = i === 0 ? 'to_green' : 'to_blue';
      const name = `${own[0]?.database ?? ''}_${names[i] ?? ''}`;
      await session.query(createPublication(name, direction, [{ table: { schema: 'public', name: 't' } }]));
      await ensureSlot(session, name);
    }
    const [blue, green] = sessions;
    if (blue === undefined || green === undefined) throw new Error('two sessions were opened');
    for (const [i, session] of [green, blue].entries()) {
      const name = `${own[0]?.database ?? ''}_${names[i] ?? ''}`;
      await ensureSubscription(session, {
        ...{ name, conninfo: databases[i]?.peerConninfo ?? '', copyData: false, enabled: false, publisherVersion: 18 },
      });
      await enableSubscription(session, name);
    }
    await blue.query('INSERT INTO public.t VALUES (1, 0)');
    expect(await measureLag(blue, green, 'to_green', 20_000)).toBeLessThan(20_000);
    expect(await measureLag(green, blue, 'to_blue', 20_000)).toBeLessThan(20_000);
    const { rows } = await blue.query<{ errors: string }>(
      'SELECT sum(apply_error_count)::text AS errors FROM pg_stat_subscription_stats WHERE subname LIKE $1',
      [`${own[0]?.database ?? ''}%`],
    );
    expect(rows[0]?.errors).toBe('0');
  } finally {
    await Promise.all(sessions.map(closeSession));
    for (const database of own.reverse()) await database.drop();
  }
});
