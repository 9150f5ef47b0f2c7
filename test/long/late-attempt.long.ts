import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { promoteActivities } from '../../activities/promote.js';
import { planSchema } from '../../src/plan/schema.js';
import { endTries, refuseEnded, type Tries } from '../../src/postgres/ended-tries.js';
import { feedName } from '../../src/postgres/feed.js';
import { findSlots } from '../../src/postgres/feed-objects.js';
import { TAKE_FENCE_LOCK } from '../../src/postgres/fence.js';
import { ident, literal } from '../../src/postgres/identifier.js';
import { readProgress, writeProgress } from '../../src/postgres/migrate/progress-row.js';
import { openActorSession } from '../../src/postgres/ownership.js';
import { preparePromotion, withdrawOpening } from '../../src/postgres/prepare-promotion.js';
import { promote } from '../../src/postgres/promote.js';
import { closeSession, type Database, type Session } from '../../src/postgres/session.js';
import { FENCE_CLOSED, readRoute } from '../../src/postgres/state.js';
import { streamNames } from '../../src/postgres/streams.js';
import { PromotionRig } from '../support/promotion-rig.js';
import type { RunRef } from '../../workflows/lib/run-ref.js';

/** The tries that a run of the workflow asks for with its nth activity. */
function askedAs({ runId }: { readonly runId: string }, activity: number, workflowRun = 'run'): Tries {
  return { runId, asked: { workflowRun, activity, at: activity } };
}

/** An attempt of the nth activity. */
function requested(activity: number): MockActivityEnvironment {
  return new MockActivityEnvironment({
    activityId: String(activity),
    workflowExecution: { workflowId: 'test', runId: 'run' },
    scheduledTimestampMs: activity,
  });
}

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
    const { ref, activities } = activitiesOf(rig);
    return new MockActivityEnvironment().run(() => activities.promote(ref, 'blue', epoch));
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

describe('the tries of a promotion that are ended', () => {
  it('leave no slot of the way back on green where the run is to promote later', async () => {
    const rig = await PromotionRig.create('ended tries');
    try {
      const { migration } = rig.move('blue');
      const { ref, activities } = activitiesOf(rig);
      const slots = (): Promise<string[]> => rig.ours('green', (s) => findSlots(s, feedName(migration, 'to_blue')));
      for (const slot of streamNames(migration, 'to_blue', 1)) {
        await rig.ours('green', (s) => s.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [slot]));
      }
      const end = (goesOn: boolean): Promise<unknown> =>
        new MockActivityEnvironment().run(() => activities.withdrawPromotion(ref, goesOn));
      expect(await end(false)).toBeNull();
      expect(await slots()).toHaveLength(1);
      expect(await end(true)).toBeNull();
      expect(await slots()).toEqual([]);
    } finally {
      await rig.close();
    }
  });
});

describe('an attempt that Temporal has not heard of for too long, between two tries', () => {
  it('moves nothing once the run has ended the tries; the next promotion of the run does', async () => {
    const rig = await PromotionRig.create('ended attempt');
    try {
      const { ref, activities } = activitiesOf(rig);
      const { databases, migration, tables, maxHoldMs } = rig.move('blue');
      const wayBack = tables.map((table) => ({ table }));
      const attempt = async (tries: Tries, onBlocked: () => void): Promise<unknown> => {
        const knownTables = await preparePromotion({ databases, migration, from: 'blue', fenced: tables, wayBack });
        return promote(
          {
            ...{ databases, migration, from: 'blue', tries, fenced: tables, knownTables, maxHoldMs },
            ...{ sequenceGap: 1_000, feedBack: true },
          },
          { attempts: 100, onBlocked },
        );
      };
      await rig.writers.pause();
      await rig.on('blue', async (writer) => {
        let isBlocked = (): void => undefined;
        const blocked = new Promise<void>((resolve) => (isBlocked = resolve));
        // Behind the fence that the attempt has armed.
        await preparePromotion({ databases, migration, from: 'blue', fenced: tables, wayBack });
        await writer.query(`BEGIN; UPDATE ${tables[0]?.name ?? ''} SET id = id`);
        const late = attempt(askedAs(ref, 7), isBlocked).catch((error: unknown) => error);
        await blocked;
        expect(await requested(8).run(() => activities.withdrawPromotion(ref))).toBeNull();
        await writer.query('COMMIT');
        expect(await late).toMatchObject({ type: 'StaleEpoch', retryable: true });
      });
      expect(await rig.ours('blue', (blue) => readRoute(blue, migration))).toMatchObject({ writesOn: 'blue' });
      rig.writers.resume();
      await attempt(askedAs(ref, 9), () => undefined);
      await rig.moveOn(['finish']);
      await rig.audit();
    } finally {
      await rig.close();
    }
  });

  it('gives nothing back once green has said that it has the writes, or an attempt has ended its way back', async () => {
    const rig = await PromotionRig.create('ended way back');
    try {
      await rig.moveOn();
      const { ref, activities } = activitiesOf(rig);
      const { databases, migration, tables, maxHoldMs } = rig.move('green');
      const { epoch = 0 } = (await rig.ours('green', (green) => readRoute(green, migration))) ?? {};
      const wayBack = (activity: number): Promise<unknown> =>
        requested(activity).run(() => activities.promote(ref, 'green', epoch));
      const prepared = { databases, migration, from: 'green', fenced: tables } as const;
      await rig.writers.pause();
      await rig.on('green', async (writer) => {
        let isBlocked = (): void => undefined;
        const blocked = new Promise<void>((resolve) => (isBlocked = resolve));
        const knownTables = await preparePromotion({ ...prepared, wayBack: undefined });
        await writer.query(`BEGIN; UPDATE ${tables[0]?.name ?? ''} SET id = id`);
        const tries = { ...prepared, tries: askedAs(ref, 7), knownTables, maxHoldMs, sequenceGap: 1_000 };
        const late = promote({ ...tries, feedBack: false }, { attempts: 100, onBlocked: isBlocked });
        const ended = late.catch((error: unknown) => error);
        await blocked;
        expect(await requested(8).run(() => activities.writesOfGreen(ref, epoch))).toBe('has them');
        await writer.query('COMMIT');
        expect(await ended).toMatchObject({ type: 'StaleEpoch', retryable: true });
      });
      await expect(wayBack(7)).rejects.toMatchObject({ type: 'StaleEpoch', nonRetryable: false });
      const feed = (change: string): Promise<unknown> =>
        rig.ours('blue', (blue) => blue.query(`ALTER SUBSCRIPTION ${ident(feedName(migration, 'to_blue'))} ${change}`));
      await feed('DISABLE');
      const unsafe = { type: 'RollbackUnsafe', nonRetryable: true };
      await expect(wayBack(9)).rejects.toMatchObject(unsafe);
      await feed('ENABLE');
      await expect(wayBack(9)).rejects.toMatchObject(unsafe);
      expect(await rig.ours('green', (green) => readRoute(green, migration))).toMatchObject({ writesOn: 'green' });
      // Another attempt decides in the moment in which this one ends: the next one opens blue.
      await feed('DISABLE');
      await rig.ours('green', (green) => green.query(decidesWhenTriesEnd(migration, epoch)));
      await expect(wayBack(10)).rejects.toMatchObject({ type: 'StaleEpoch', nonRetryable: false });
      expect(await wayBack(10)).toMatchObject({ epoch: epoch + 1 });
    } finally {
      await rig.close();
    }
  });

  it('is told by who withdraws the promotion where it has decided; tries are ended once, however late and often', async () => {
    const rig = await PromotionRig.create('late decision');
    try {
      const { ref, activities } = activitiesOf(rig);
      await rig.ours('blue', async (blue) => {
        const [first, ending, next] = [askedAs(ref, 10), askedAs(ref, 11), askedAs(ref, 12)];
        await refuseEnded(blue, first);
        // A version that only counted has ended tries of this run before.
        const key = { runId: ref.runId, step: 'promotion', object: 'tries ended' };
        await writeProgress(blue, key, { times: 1 }, true);
        await refuseEnded(blue, first);
        await endTries(blue, ending);
        // Its workers refuse where the count is another one by then.
        expect((await readProgress(blue, key))?.state).toMatchObject({ times: 2, activity: 11 });
        // Also where its worker was frozen before it had asked blue anything.
        await expect(refuseEnded(blue, first)).rejects.toMatchObject({ type: 'StaleEpoch' });
        await refuseEnded(blue, next);
        await endTries(blue, first);
        await endTries(blue, ending);
        await refuseEnded(blue, next);
        await endTries(blue, next);
        await expect(refuseEnded(blue, next)).rejects.toMatchObject({ type: 'StaleEpoch' });
        // After a reset activities are counted anew from where it begins: then it is Temporal's clock that tells.
        const [before, after] = [askedAs(ref, 13, 'reset'), askedAs(ref, 5, 'reset')];
        await expect(refuseEnded(blue, { ...before, asked: { ...before.asked, at: 11 } })).rejects.toThrow('has ended');
        await refuseEnded(blue, { ...after, asked: { ...after.asked, at: 13 } });
        await endTries(blue, { ...after, asked: { ...after.asked, at: 13 } });
        await expect(refuseEnded(blue, askedAs(ref, 13))).rejects.toMatchObject({ type: 'StaleEpoch' });
        await refuseEnded(blue, askedAs(ref, 14));
      });
      const withdraw = (goesOn: boolean): Promise<unknown> =>
        requested(30).run(() => activities.withdrawPromotion(ref, goesOn));
      // An attempt whose end is the promotion's: what it can't move, people must mend.
      await rig.ours('blue', async (blue) => {
        const { epoch = 0 } = (await readRoute(blue, rig.move('blue').migration)) ?? {};
        await blue.query('SELECT lo_create(4711)');
        const blocked = requested(20).run(() => activities.promote(ref, 'blue', epoch));
        await expect(blocked).rejects.toMatchObject({ type: 'PromotionBlocked', nonRetryable: true });
        await blue.query('SELECT lo_unlink(4711)');
        // Its worker may have died before Temporal has heard of that: the next attempt says it, and tries nothing.
        const again = requested(20).run(() => activities.promote(ref, 'blue', epoch));
        await expect(again).rejects.toMatchObject({
          ...{ type: 'PromotionBlocked', nonRetryable: true },
          message: expect.stringContaining('large object') as string,
        });
        await expect(refuseEnded(blue, askedAs(ref, 20))).rejects.toMatchObject({ type: 'StaleEpoch' });
        await refuseEnded(blue, askedAs(ref, 21));
      });
      await rig.moveOn();
      await expect(withdraw(false)).rejects.toMatchObject({ type: 'WritesOnGreen', nonRetryable: true });
      // Also to a run that goes on, unless it is of an earlier version.
      const told = requested(30).run(() => activities.withdrawPromotion(ref, true, true));
      await expect(told).rejects.toMatchObject({ type: 'WritesOnGreen', nonRetryable: true });
      expect(await withdraw(true)).toBeNull();
      await rig.audit();
    } finally {
      await rig.close();
    }
  });
});

/** Green gives the writes to blue in the statement that ends tries. */
function decidesWhenTriesEnd(migration: string, epoch: number): string {
  return `
    CREATE FUNCTION decides() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      PERFORM verdigris.decide(${literal(migration)}, ${epoch}, 'blue'), setval('verdigris.fence', ${FENCE_CLOSED});
      RETURN NULL;
    END $$;
    CREATE TRIGGER decides AFTER INSERT OR UPDATE ON verdigris.progress
       FOR EACH ROW WHEN (NEW.object = 'tries ended') EXECUTE FUNCTION decides()`;
}

function activitiesOf(rig: PromotionRig): { ref: RunRef; activities: ReturnType<typeof promoteActivities> } {
  const { databases } = rig;
  const environment = { VERDIGRIS_CONNECTION_B: uriOf(databases.blue), VERDIGRIS_CONNECTION_G: uriOf(databases.green) };
  const { migration } = rig.move('blue');
  const plan = planSchema.parse({
    ...{ name: migration, blue: { connection: 'b' }, green: { connection: 'g' }, traffic: { stages: [] } },
  });
  return { ref: { plan, runId: 'run' }, activities: promoteActivities({ environment, redact: (text) => text }) };
}

function uriOf({ config }: Database): string {
  return `postgres://${config.user ?? ''}:${String(config.password)}@127.0.0.1:${config.port ?? 0}/${config.database ?? ''}`;
}
