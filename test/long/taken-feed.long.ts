import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { VerdigrisError } from '../../src/errors.js';
import { feedName } from '../../src/postgres/feed.js';
import { measureLag } from '../../src/postgres/marker.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { readSlotReader } from '../../src/postgres/slot-readers.js';
import { lookAtStandby, whyFeedIsDead, type StandbyState } from '../../src/postgres/standby.js';
import { installState } from '../../src/postgres/state.js';
import {
  disableSubscription,
  dropSubscription,
  enableSubscription,
  ensureSubscription,
  readSubscription,
} from '../../src/postgres/subscription.js';
import { forgetLastPass, momentOf, writeLastPass } from '../../src/postgres/verify/last-pass.js';
import { AUDIT_SCHEMA } from '../support/audited-writers.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import type { PromotionRig } from '../support/promotion-rig.js';
import { StandbyRig } from '../support/standby-rig.js';

const MIGRATION = 'taken-feed';
const RUN = { runId: 'run', migration: MIGRATION };
const FEED = feedName(MIGRATION, 'to_blue');
const WITHIN = { timeout: 30_000, interval: 50 };

describe('a feed to blue whose slot a copy of blue takes', () => {
  let standby: StandbyRig;
  let rig: PromotionRig;
  let blue: Session;
  let green: Session;
  let copyDatabase: TestDatabase;
  let copy: Session;

  beforeAll(async () => {
    standby = await StandbyRig.create('taken feed');
    ({ rig, blue, green } = standby);
    copyDatabase = await testDatabase('pg15', 'taken feed copy');
    await withClient(copyDatabase.config, (client) => client.query(AUDIT_SCHEMA));
    copy = await openSession(asDatabase(copyDatabase, 'blue'), { purpose: 'test' });
    await installState(copy, 'blue');
  });

  afterEach(async () => {
    await comesBack();
    // As a comparison of all rows does that has found no difference.
    const began = { blue: await momentOf(blue), green: await momentOf(green) };
    await writeLastPass(green, RUN.runId, { began, tables: {} });
    expect(await look()).toMatchObject({ health: 'healthy', rollbackSafe: true });
    // As one that has found a difference: that is another one.
    await forgetLastPass(green, RUN.runId);
    expect((await look()).health).toBe('healthy');
    await green.query(`DELETE FROM verdigris.progress WHERE step = 'standby' AND object = 'taken'`);
  });

  afterAll(async () => {
    await closeSession(copy);
    await copyDatabase.drop();
    await standby.close();
  });

  const openBlue = (): Promise<Session> => Promise.resolve(blue);
  const limits = { maxLagMs: 10_000, maxRetainedWal: 1e12 };
  const look = (open = openBlue): Promise<StandbyState> =>
    lookAtStandby(green, open, RUN, limits, new AbortController().signal);
  const dead = (): Promise<string | undefined> => whyFeedIsDead(green, openBlue, RUN);

  /** Its worker finds the slot free, since blue's is gone for a moment; blue's comes too late. */
  async function isTaken(): Promise<void> {
    expect((await look()).health).toBe('healthy');
    await disableSubscription(blue, FEED);
    const conninfo = rig.databases.green.peerConninfo;
    await ensureSubscription(copy, { name: FEED, conninfo, copyData: false, enabled: true, publisherVersion: 18 });
    await expect.poll(() => readSlotReader(green, FEED), WITHIN).toBeDefined();
  }

  /** The copy is switched off, and blue goes on behind what it has taken. */
  async function comesBack(): Promise<void> {
    await dropSubscription(copy, FEED);
    await enableSubscription(blue, FEED);
    expect(await measureLag(green, blue, 'to_blue', 30_000)).toBeLessThan(30_000);
  }

  it('is broken, with the address of whoever has it, and a rollback waits for the loss to be accepted', async () => {
    await isTaken();
    await enableSubscription(blue, FEED);
    // The first look may come before the other one has confirmed what it was sent.
    let state = await look();
    await expect.poll(async () => (state = await look()).health, WITHIN).toBe('broken');
    expect(state.rollbackSafe).toBe(false);
    expect(state.why).toMatch(
      /^the slot \w+ on green was read by another subscriber than blue \(process \d+, from 127\.0\.0\.1, since .*drop the subscription .*; a rollback would lose /s,
    );
    expect(await dead()).toMatch(/read by another subscriber/);
    await comesBack();
    // Blue follows again, and lacks what was taken.
    expect(await look()).toMatchObject({ health: 'broken', rollbackSafe: false });
    await expect(standby.promoteBack(false)).rejects.toMatchObject({
      type: 'RollbackUnsafe',
      message: expect.stringMatching(/read by another subscriber.*a rollback would lose /s) as string,
    });
  });

  it('is found by a rollback that is asked for before anybody has looked', async () => {
    await isTaken();
    await enableSubscription(blue, FEED);
    await expect.poll(dead, WITHIN).toMatch(/read by another subscriber/);
  });

  it('is found when blue is back, where it was away for all of the time', async () => {
    await isTaken();
    const away = (): Promise<Session> =>
      Promise.reject(new VerdigrisError({ type: 'ConnectionFailed', message: 'blue is away', nextStep: 'wait' }));
    // When blue had everything is known to the second.
    await sleep(2_000);
    expect((await look(away)).health).toBe('unreachable');
    // Once for each time: what is written anew says nothing of what was taken before.
    const token = `SELECT token FROM verdigris.marker_to_blue WHERE id LIKE 'standby away %'`;
    const { rows } = await green.query(token);
    await sleep(1_100);
    expect((await look(away)).health).toBe('unreachable');
    expect((await green.query(token)).rows).toEqual(rows);
    await expect.poll(async () => (await copy.query(token)).rows, WITHIN).toEqual(rows);
    await comesBack();
    expect(await look()).toMatchObject({
      health: 'broken',
      why: expect.stringMatching(/another subscriber/) as string,
    });
  });

  it('is only late where blue itself reads it, and applies nothing for a while', async () => {
    await rig.on('blue', async (holder) => {
      await holder.query('BEGIN; LOCK TABLE public.notes IN SHARE MODE');
      await expect.poll(() => measureLag(green, blue, 'to_blue', 300), WITHIN).toBe(Number.POSITIVE_INFINITY);
      expect(await look()).toMatchObject({ health: 'lagging', rollbackSafe: true });
      expect(await dead()).toBeUndefined();
      await holder.query('ROLLBACK');
    });
    await expect.poll(async () => (await readSubscription(blue, FEED))?.applyPid ?? null, WITHIN).not.toBeNull();
    expect((await look()).health).toBe('healthy');
  });
});
