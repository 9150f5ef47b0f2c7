import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { standbyActivities } from '../../activities/standby.js';
import { planSchema } from '../../src/plan/schema.js';
import { FENCE_TRIGGER } from '../../src/postgres/fence.js';
import { finishPromotion } from '../../src/postgres/finish-promotion.js';
import { AUDIT_TABLES } from '../support/audited-writers.js';
import { PromotionRig } from '../support/promotion-rig.js';

/* Somebody has a table of green to himself, save its writers, as a VACUUM or a CREATE INDEX CONCURRENTLY does for hours. */

const LOCK = 'BEGIN; LOCK TABLE public.notes IN SHARE UPDATE EXCLUSIVE MODE';

describe('what follows a promotion, where somebody has a table of green', () => {
  let rig: PromotionRig;
  let holder: pg.Client;
  let pid: number;

  beforeEach(async () => {
    rig = await PromotionRig.create('finish locked');
    holder = new pg.Client({ ...rig.databases.green.config, application_name: 'nightly report' });
    await holder.connect();
    pid = (await holder.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows[0]?.pid ?? 0;
  });

  afterEach(async () => {
    await holder.end();
    await rig.close();
  });

  const finish = (keepFence = false): Promise<unknown> => {
    const { databases, migration, from } = rig.move('blue');
    return finishPromotion(databases, migration, from, { feedBack: true, keepFence });
  };

  const armed = (): Promise<string[]> =>
    rig.on('green', async (client) => {
      const { rows } = await client.query<{ name: string }>(
        `SELECT tgrelid::regclass::text AS name FROM pg_trigger WHERE tgname = '${FENCE_TRIGGER}' AND tgenabled <> 'D' ORDER BY 1`,
      );
      return rows.map(({ name }) => name);
    });

  const feedIsOn = (): Promise<boolean> =>
    rig.on('blue', async (client) => {
      const { rows } = await client.query<{ on: boolean }>(
        'SELECT bool_and(subenabled) AS on FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())',
      );
      return rows[0]?.on === true;
    });

  /** Green has been fenced since before the promotion. */
  async function promote(): Promise<void> {
    await rig.moveOn(['promote']);
    expect(await armed()).toHaveLength(AUDIT_TABLES.length);
  }

  it('is done but for the fence of that table, with who it is; and that is done when they have gone', async () => {
    await promote();
    await holder.query(LOCK);
    const began = performance.now();
    const left = await finish();
    expect(performance.now() - began).toBeLessThan(15_000);
    expect(left).toMatch(
      new RegExp(`^the fence of public.notes: the lock that it needs .* it waited for pid ${pid} \\(nightly report`),
    );
    expect(await feedIsOn()).toBe(true);
    expect(await armed()).toEqual(['notes']);
    await rig.audit();

    const { migration } = rig.move('blue');
    const plan = planSchema.parse({ name: migration, blue: { connection: 'b' }, green: { connection: 'g' } });
    const { blue, green } = rig.databases;
    const uri = ({ config }: typeof blue): string =>
      `postgres://postgres:${String(config.password)}@127.0.0.1:${config.port ?? 0}/${config.database ?? ''}`;
    const environment = { VERDIGRIS_CONNECTION_B: uri(blue), VERDIGRIS_CONNECTION_G: uri(green) };
    const { switchFenceOff } = standbyActivities({ environment, redact: (text) => text });
    const told: string[] = [];
    const context = new MockActivityEnvironment();
    context.on('heartbeat', (details: unknown) => told.push(JSON.stringify(details ?? null)));
    const switching = expect(context.run(() => switchFenceOff({ plan, runId: 'run' }))).rejects.toThrow();
    await expect.poll(() => told.join(), { timeout: 20_000 }).toContain(`it waited for pid ${pid} (nightly report`);
    // As the end of the standby window does: it would be tried again in a minute.
    context.cancel();
    await switching;
    expect(await armed()).toEqual(['notes']);
    await holder.query('ROLLBACK');
    await new MockActivityEnvironment().run(() => switchFenceOff({ plan, runId: 'run' }));
    expect(await armed()).toEqual([]);
  });

  it('takes no lock of a table whose fence is off already, nor any where the fence is to be kept', async () => {
    await promote();
    await holder.query(LOCK);
    expect(await timed(() => finish(true))).toBeLessThan(2_000);
    expect(await armed()).toHaveLength(AUDIT_TABLES.length);
    expect(await feedIsOn()).toBe(true);
    await holder.query('ROLLBACK');
    await finish();
    expect(await armed()).toEqual([]);
    await holder.query(LOCK);
    expect(await timed(finish)).toBeLessThan(2_000);
    await holder.query('ROLLBACK');
    rig.primary = 'green';
    await rig.audit();
  });

  async function timed(work: () => Promise<unknown>): Promise<number> {
    const began = performance.now();
    const outcome = await Promise.race([work().then(() => 'done'), sleep(15_000, 'waits on')]);
    expect(outcome).toBe('done');
    return performance.now() - began;
  }
});
