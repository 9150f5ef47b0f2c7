import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { promoteActivities, type PromotionResult } from '../../activities/promote.js';
import { planSchema } from '../../src/plan/schema.js';
import { feedName } from '../../src/postgres/feed.js';
import { noteForced } from '../../src/postgres/forced-way-back.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { FENCE_LOCK, readRoute } from '../../src/postgres/state.js';
import { readSubscription } from '../../src/postgres/subscription.js';
import { PromotionRig } from '../support/promotion-rig.js';

describe('a way back whose loss was accepted', () => {
  const NAME = 'rollback-forced';
  const OWN_FEED = feedName(NAME, 'to_blue');
  const OWN_RUN = { runId: 'run', migration: NAME };
  let rig: PromotionRig;
  let blue: Session;
  let green: Session;

  beforeAll(async () => {
    rig = await PromotionRig.create('rollback forced');
    await rig.moveOn();
    blue = await openSession(rig.databases.blue, { purpose: 'test' });
    green = await openSession(rig.databases.green, { purpose: 'test' });
  });

  afterAll(async () => {
    await Promise.all([blue, green].map(closeSession));
    await rig.close();
  });

  /** @param told what the activity says while it works */
  async function promoteBack(
    acceptLoss: boolean,
    epoch?: number,
    told: (what: string) => void = () => undefined,
  ): Promise<PromotionResult> {
    const uri = ({ config }: Database): string =>
      `postgres://${config.user ?? ''}:${String(config.password)}@127.0.0.1:${config.port ?? 0}/${config.database ?? ''}`;
    const dependencies = {
      environment: {
        VERDIGRIS_CONNECTION_B: uri(rig.databases.blue),
        VERDIGRIS_CONNECTION_G: uri(rig.databases.green),
      },
      redact: (text: string) => text,
    };
    const plan = planSchema.parse({ name: NAME, blue: { connection: 'b' }, green: { connection: 'g' } });
    const of = epoch ?? (await readRoute(green, NAME))?.epoch ?? 0;
    const { promote: promoteActivity } = promoteActivities(dependencies);
    const context = new MockActivityEnvironment();
    context.on('heartbeat', (details: unknown) => told(JSON.stringify(details ?? null)));
    return context.run(() => promoteActivity({ plan, runId: 'run' }, 'green', of, acceptLoss));
  }

  /** The same beside a transaction that has written, and ends only after the last try. */
  async function blockedBack(acceptLoss: boolean): Promise<void> {
    await rig.on('green', async (writer) => {
      await writer.query(`BEGIN; SELECT pg_advisory_xact_lock_shared(${FENCE_LOCK})`);
      let ended: Promise<unknown> | undefined;
      const told = (what: string): void => {
        if (what.includes('"attempt":5')) ended ??= writer.query('ROLLBACK');
      };
      await expect(promoteBack(acceptLoss, undefined, told)).rejects.toMatchObject({
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
    await noteForced(green, blue, OWN_RUN, (await readRoute(green, NAME))?.epoch ?? 0);
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
    const epoch = (await readRoute(green, NAME))?.epoch ?? 0;
    expect(await promoteBack(false, epoch)).toMatchObject({ lost: null });
    expect(await promoteBack(true, epoch)).toMatchObject({ lost: null, epoch: epoch + 1 });
    await noteForced(green, blue, OWN_RUN, epoch);
    expect((await promoteBack(false, epoch)).lost).toMatch(/^(about \d+ writes?|what was written on green) /);
    expect(rig.watcher.seen).toEqual([]);
  });
});
