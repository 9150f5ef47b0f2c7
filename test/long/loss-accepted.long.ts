import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { feedName } from '../../src/postgres/feed.js';
import { noteForced } from '../../src/postgres/forced-way-back.js';
import type { Session } from '../../src/postgres/session.js';
import { lookAtStandby } from '../../src/postgres/standby.js';
import { FENCE_LOCK, readRoute } from '../../src/postgres/state.js';
import { readSubscription } from '../../src/postgres/subscription.js';
import type { PromotionRig } from '../support/promotion-rig.js';
import { StandbyRig, type WayBack } from '../support/standby-rig.js';

describe('a way back whose loss was accepted', () => {
  const NAME = 'rollback-forced';
  const OWN_FEED = feedName(NAME, 'to_blue');
  const OWN_RUN = { runId: 'run', migration: NAME };
  let standby: StandbyRig;
  let rig: PromotionRig;
  let blue: Session;
  let green: Session;

  beforeAll(async () => {
    standby = await StandbyRig.create('rollback forced');
    ({ rig, blue, green } = standby);
  });

  afterAll(() => standby.close());

  /** Tries it beside a transaction that has written, and ends only after the last try. */
  async function blockedBack(acceptLoss: boolean, more: WayBack = {}): Promise<void> {
    await rig.on('green', async (writer) => {
      await writer.query(`BEGIN; SELECT pg_advisory_xact_lock_shared(${FENCE_LOCK})`);
      let ended: Promise<unknown> | undefined;
      const told = (what: string): void => {
        more.told?.(what);
        if (what.includes('"attempt":5')) ended ??= writer.query('ROLLBACK');
      };
      await expect(standby.promoteBack(acceptLoss, { ...more, told })).rejects.toMatchObject({
        type: 'PromotionBlocked',
        message: expect.stringMatching(/writers did not end/) as string,
      });
      await ended;
    });
  }

  const late = `public.notes WHERE reference IN (SELECT md5('late' || g)::uuid FROM generate_series(1, 1500) g)`;

  async function writeLate(): Promise<void> {
    await green.query(`INSERT INTO public.notes SELECT md5('late' || g)::uuid FROM generate_series(1, 1500) g`);
  }

  async function lateOnBlue(): Promise<number | null> {
    return (await blue.query(`SELECT FROM ${late}`)).rowCount;
  }

  it('has the feed bring what is written while a lock for the fence is waited for', async () => {
    await rig.on('green', async (holder) => {
      await holder.query('BEGIN; LOCK TABLE public.notes IN ROW EXCLUSIVE MODE');
      const blocked = blockedBack(true);
      await expect.poll(async () => (await readRoute(green, NAME))?.opening, { timeout: 10_000 }).toBe('blue');
      await sleep(500);
      await writeLate();
      await expect.poll(lateOnBlue, { timeout: 5_000 }).toBe(1_500);
      await holder.query('ROLLBACK');
      await blocked;
    });
    await green.query(`DELETE FROM ${late}`);
    await rig.audit();
  });

  it('and between its tries', async () => {
    let written: Promise<void> | undefined;
    let brought: Promise<number | null> | undefined;
    const told = (what: string): void => {
      if (what.includes('"attempt":1')) written ??= writeLate();
      if (what.includes('"attempt":4')) brought ??= lateOnBlue();
    };
    await blockedBack(true, { told });
    await written;
    expect(await brought).toBe(1_500);
    await green.query(`DELETE FROM ${late}`);
    await rig.audit();
  });

  it('is refused where it has grown clearly beyond that, and counts nothing that the feed brings', async () => {
    const accepted = 'about 3 writes';
    await rig.audit();
    const limits = { maxLagMs: 20_000, maxRetainedWal: 1e12 };
    const { signal } = new AbortController();
    const state = await lookAtStandby(green, () => Promise.resolve(blue), OWN_RUN, limits, signal);
    expect(state.health).toBe('healthy');
    await blue.query(`ALTER SUBSCRIPTION "${OWN_FEED}" DISABLE`);
    await writeLate();
    // The counters of a session are sent at most once a second.
    await green.query('SELECT pg_sleep(1.1)');
    await expect(standby.promoteBack(true, { accepted })).rejects.toMatchObject({
      ...{ type: 'RollbackUnsafe', nonRetryable: true },
      message: expect.stringMatching(
        /^blue lacks clearly more by now than was accepted; a rollback would lose about \d{4,} /,
      ) as string,
    });
    expect(await readRoute(green, NAME)).toMatchObject({ writesOn: 'green' });
    await blue.query(`ALTER SUBSCRIPTION "${OWN_FEED}" ENABLE`);
    await expect.poll(lateOnBlue, { timeout: 10_000 }).toBe(1_500);
    await rig.writers.pause();
    await blockedBack(true, { accepted });
    rig.writers.resume();
    await green.query(`DELETE FROM ${late}`);
    await rig.audit();
  });

  it('and that does not get through leaves the feed switched on: blue goes on to follow', async () => {
    await blockedBack(true);
    expect(await readSubscription(blue, OWN_FEED)).toMatchObject({ enabled: true });
    await rig.audit();
  });

  it('nor does one whose worker has died: the next one switches the feed on', async () => {
    await noteForced(green, blue, OWN_RUN, await standby.epoch());
    await blue.query(`ALTER SUBSCRIPTION "${OWN_FEED}" DISABLE`);
    await blockedBack(false);
    expect(await readSubscription(blue, OWN_FEED)).toMatchObject({ enabled: true });
    await rig.audit();
  });

  it('but leaves a subscription alone that somebody else had disabled', async () => {
    await blue.query(`ALTER SUBSCRIPTION "${OWN_FEED}" DISABLE`);
    await blockedBack(true);
    expect(await readSubscription(blue, OWN_FEED)).toMatchObject({ enabled: false });
    await blue.query(`ALTER SUBSCRIPTION "${OWN_FEED}" ENABLE`);
    await rig.audit();
  });

  it('has lost nothing where green had been closed by a try without a loss; what such a try has lost is said by whoever opens blue', async () => {
    await rig.writers.pause();
    const epoch = await standby.epoch();
    expect(await standby.promoteBack(false, { epoch })).toMatchObject({ lost: null });
    expect(await standby.promoteBack(true, { epoch })).toMatchObject({ lost: null, epoch: epoch + 1 });
    await noteForced(green, blue, OWN_RUN, epoch);
    expect((await standby.promoteBack(false, { epoch })).lost).toMatch(
      /^(about \d+ writes?|what was written on green) /,
    );
    expect(rig.watcher.seen).toEqual([]);
  });
});
