import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { feedName } from '../../src/postgres/feed.js';
import { noteForced } from '../../src/postgres/forced-way-back.js';
import type { Session } from '../../src/postgres/session.js';
import { lookAtStandby } from '../../src/postgres/standby.js';
import { readRoute } from '../../src/postgres/state.js';
import { readSubscription } from '../../src/postgres/subscription.js';
import type { PromotionRig } from '../support/promotion-rig.js';
import { StandbyRig } from '../support/standby-rig.js';

const NAME = 'interrupted-way-back';
const FEED = feedName(NAME, 'to_blue');
const RUN = { runId: 'run', migration: NAME };

describe('a way back that Temporal or a person tries again', () => {
  let standby: StandbyRig;
  let rig: PromotionRig;
  let blue: Session;
  let green: Session;

  beforeAll(async () => {
    standby = await StandbyRig.create('interrupted way back');
    ({ rig, blue, green } = standby);
  });

  afterAll(() => standby.close());

  it('is not forced once more where its worker died with the feed switched off: blue gets all of it first', async () => {
    await noteForced(green, blue, RUN, await standby.epoch());
    await blue.query(`ALTER SUBSCRIPTION "${FEED}" DISABLE`);
    await expect(standby.promoteBack(true, { attempt: 2 })).rejects.toMatchObject({
      type: 'PromotionBlocked',
      nonRetryable: true,
      message: expect.stringMatching(/was interrupted: what it would lose now is looked at first/) as string,
    });
    expect(await readRoute(green, NAME)).toMatchObject({ writesOn: 'green' });
    expect(await readSubscription(blue, FEED)).toMatchObject({ enabled: true });
    await rig.audit();
  });

  it('says what it has met itself, as its last word: who is in the way is named', async () => {
    await rig.on('blue', async (holder) => {
      await holder.query(`BEGIN; ALTER SUBSCRIPTION "${FEED}" SET (synchronous_commit = on)`);
      await expect(standby.promoteBack(true)).rejects.toMatchObject({
        ...{ type: 'LockNotHad', nonRetryable: true },
        message: expect.stringMatching(/it waited for .*pid \d+ \(.*ALTER SUBSCRIPTION/) as string,
      });
      await holder.query('ROLLBACK');
    });
    await rig.on('green', async (holder) => {
      await holder.query('BEGIN; LOCK TABLE verdigris.progress IN SHARE MODE');
      await expect(standby.promoteBack(true)).rejects.toMatchObject({
        ...{ type: 'SqlError', nonRetryable: true },
        message: expect.stringMatching(/lock timeout \(55P03\)/) as string,
      });
      await holder.query('ROLLBACK');
    });
    // The first one has noted that it was about to switch the feed off; it goes on.
    await expect.poll(async () => (await readSubscription(blue, FEED))?.enabled).toBe(true);
    expect(await readRoute(green, NAME)).toMatchObject({ writesOn: 'green' });
    await rig.audit();
  });

  it('names what it would lose where blue does not catch up', async () => {
    await lookAtStandby(
      green,
      () => Promise.resolve(blue),
      RUN,
      { maxLagMs: 20_000, maxRetainedWal: 1e12 },
      new AbortController().signal,
    );
    await rig.on('blue', async (holder) => {
      await holder.query('BEGIN; LOCK TABLE public.notes IN SHARE MODE');
      await expect(standby.promoteBack(false)).rejects.toMatchObject({
        type: 'PromotionBlocked',
        message: expect.stringMatching(
          /blue is too far behind.* Its feed waits for .*; forced now, a rollback would lose about \d+ writes? \(.*\n/,
        ) as string,
      });
      await holder.query('ROLLBACK');
    });
    await rig.audit();
  });

  it('is still opened by whoever comes next where it has been decided, with the loss or without', async () => {
    await rig.writers.pause();
    const before = await standby.epoch();
    expect(await standby.promoteBack(false)).toMatchObject({ lost: null, epoch: before + 1 });
    expect(await standby.promoteBack(true, { attempt: 2 })).toMatchObject({ lost: null, epoch: before + 1 });
    expect(rig.watcher.seen).toEqual([]);
  });
});
