import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { feedName } from '../../src/postgres/feed.js';
import { noteForced } from '../../src/postgres/forced-way-back.js';
import type { Session } from '../../src/postgres/session.js';
import { FENCE_LOCK } from '../../src/postgres/state.js';
import { readSubscription } from '../../src/postgres/subscription.js';
import type { PromotionRig } from '../support/promotion-rig.js';
import { StandbyRig } from '../support/standby-rig.js';

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
  async function blockedBack(acceptLoss: boolean): Promise<void> {
    await rig.on('green', async (writer) => {
      await writer.query(`BEGIN; SELECT pg_advisory_xact_lock_shared(${FENCE_LOCK})`);
      let ended: Promise<unknown> | undefined;
      const told = (what: string): void => {
        if (what.includes('"attempt":5')) ended ??= writer.query('ROLLBACK');
      };
      await expect(standby.promoteBack(acceptLoss, { told })).rejects.toMatchObject({
        type: 'PromotionBlocked',
        message: expect.stringMatching(/writers did not end/) as string,
      });
      await ended;
    });
  }

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
