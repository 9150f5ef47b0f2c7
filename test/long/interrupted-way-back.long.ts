import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { promoteActivities, type PromotionResult } from '../../activities/promote.js';
import { planSchema } from '../../src/plan/schema.js';
import { feedName } from '../../src/postgres/feed.js';
import { noteForced } from '../../src/postgres/forced-way-back.js';
import { closeSession, openSession, type Database, type Session } from '../../src/postgres/session.js';
import { lookAtStandby } from '../../src/postgres/standby.js';
import { readRoute } from '../../src/postgres/state.js';
import { readSubscription } from '../../src/postgres/subscription.js';
import { PromotionRig } from '../support/promotion-rig.js';

const NAME = 'interrupted-way-back';
const FEED = feedName(NAME, 'to_blue');
const RUN = { runId: 'run', migration: NAME };

describe('a way back that Temporal or a person tries again', () => {
  let rig: PromotionRig;
  let blue: Session;
  let green: Session;

  beforeAll(async () => {
    rig = await PromotionRig.create('interrupted way back');
    await rig.moveOn();
    blue = await openSession(rig.databases.blue, { purpose: 'test' });
    green = await openSession(rig.databases.green, { purpose: 'test' });
  });

  afterAll(async () => {
    await Promise.all([blue, green].map(closeSession));
    await rig.close();
  });

  const epochNow = async (): Promise<number> => (await readRoute(green, NAME))?.epoch ?? 0;

  async function promoteBack(acceptLoss: boolean, attempt: number): Promise<PromotionResult> {
    const uri = ({ config }: Database): string =>
      `postgres://${config.user ?? ''}:${String(config.password)}@127.0.0.1:${config.port ?? 0}/${config.database ?? ''}`;
    const environment = {
      VERDIGRIS_CONNECTION_B: uri(rig.databases.blue),
      VERDIGRIS_CONNECTION_G: uri(rig.databases.green),
    };
    const plan = planSchema.parse({ name: NAME, blue: { connection: 'b' }, green: { connection: 'g' } });
    const epoch = await epochNow();
    const { promote } = promoteActivities({ environment, redact: (text: string) => text });
    const context = new MockActivityEnvironment({ attempt });
    return context.run(() => promote({ plan, runId: 'run' }, 'green', epoch, acceptLoss));
  }

  it('is not forced once more where its worker died with the feed switched off: blue gets all of it first', async () => {
    await noteForced(green, blue, RUN, await epochNow());
    await blue.query(`ALTER SUBSCRIPTION "${FEED}" DISABLE`);
    await expect(promoteBack(true, 2)).rejects.toMatchObject({
      type: 'PromotionBlocked',
      nonRetryable: true,
      message: expect.stringMatching(/was interrupted: what it would lose now is looked at first/) as string,
    });
    expect(await readRoute(green, NAME)).toMatchObject({ writesOn: 'green' });
    expect(await readSubscription(blue, FEED)).toMatchObject({ enabled: true });
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
      await expect(promoteBack(false, 1)).rejects.toMatchObject({
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
    const before = await epochNow();
    expect(await promoteBack(false, 1)).toMatchObject({ lost: null, epoch: before + 1 });
    expect(await promoteBack(true, 2)).toMatchObject({ lost: null, epoch: before + 1 });
    expect(rig.watcher.seen).toEqual([]);
  });
});
