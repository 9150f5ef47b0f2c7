import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { promoteActivities } from '../../activities/promote.js';
import { planSchema } from '../../src/plan/schema.js';
import { feedName } from '../../src/postgres/feed.js';
import { findSlots } from '../../src/postgres/feed-objects.js';
import { TAKE_FENCE_LOCK } from '../../src/postgres/fence.js';
import { openActorSession } from '../../src/postgres/ownership.js';
import { preparePromotion, withdrawOpening } from '../../src/postgres/prepare-promotion.js';
import { closeSession, type Database, type Session } from '../../src/postgres/session.js';
import { FENCE_CLOSED, readRoute } from '../../src/postgres/state.js';
import { streamNames } from '../../src/postgres/streams.js';
import { PromotionRig } from '../support/promotion-rig.js';

describe('an attempt of a promotion that gives up while another one of the same epoch decides', () => {
  let rig: PromotionRig;
  let blue: Session;

  beforeAll(async () => {
    rig = await PromotionRig.create('late attempt');
    blue = await openActorSession(rig.databases.blue, 'promotion');
  });

  afterAll(async () => {
    await closeSession(blue);
    await rig.close();
  });

  /** The activity: it fails at the latest when it can't announce its try, since the route's row is locked. */
  function lateAttempt(epoch: number): Promise<unknown> {
    const { databases } = rig;
    const environment = {
      VERDIGRIS_CONNECTION_B: uriOf(databases.blue),
      VERDIGRIS_CONNECTION_G: uriOf(databases.green),
    };
    const { migration } = rig.move('blue');
    const plan = planSchema.parse({ name: migration, blue: { connection: 'b' }, green: { connection: 'g' } });
    const { promote } = promoteActivities({ environment, redact: (text) => text });
    return new MockActivityEnvironment().run(() => promote({ plan, runId: 'run' }, 'blue', epoch));
  }

  it('leaves the slot of the way back alone', async () => {
    const { databases, migration, tables } = rig.move('blue');
    const wayBack = tables.map((table) => ({ table }));
    await preparePromotion({ databases, migration, from: 'blue', fenced: tables, wayBack });
    const { epoch = 0 } = (await readRoute(blue, migration)) ?? {};
    // The late attempt has got as far as this before.
    await withdrawOpening(blue, migration, 'blue', epoch);
    await rig.writers.pause();
    await blue.query(`BEGIN; ${TAKE_FENCE_LOCK}`);
    for (const slot of streamNames(migration, 'to_blue', 1)) {
      await rig.ours('green', (s) => s.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [slot]));
    }
    await blue.query('SELECT verdigris.decide($1, $2, $3)', [migration, epoch, 'green']);
    const late = lateAttempt(epoch).catch((error: unknown) => error);
    await rig.ours('blue', async (s) => {
      const givenUp = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'verdigris promotion given up'`;
      await expect.poll(async () => (await s.query(givenUp)).rowCount, { timeout: 20_000 }).toBeGreaterThan(0);
    });
    await sleep(1_000);
    await blue.query(`SELECT setval('verdigris.fence', ${FENCE_CLOSED}); COMMIT`);
    await closeSession(blue);
    expect(await late).toBeInstanceOf(ApplicationFailure);
    expect(await rig.ours('green', (s) => findSlots(s, feedName(migration, 'to_blue')))).toHaveLength(1);
  });
});

function uriOf({ config }: Database): string {
  return `postgres://${config.user ?? ''}:${String(config.password)}@127.0.0.1:${config.port ?? 0}/${config.database ?? ''}`;
}
