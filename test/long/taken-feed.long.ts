import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { VerdigrisError } from '../../src/errors.js';
import { feedName } from '../../src/postgres/feed.js';
import { readReaders } from '../../src/postgres/following.js';
import { measureLag } from '../../src/postgres/marker.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { readSlotReader } from '../../src/postgres/slot-readers.js';
import { whyFeedIsDead } from '../../src/postgres/dead-feed.js';
import { lookAtStandby, type StandbyState } from '../../src/postgres/standby.js';
import { installState } from '../../src/postgres/state.js';
import {
  disableSubscription,
  dropSubscription,
  enableSubscription,
  ensureSubscription,
  readSubscription,
  redirectSubscription,
} from '../../src/postgres/subscription.js';
import { forgetLastPass, momentOf, writeLastPass } from '../../src/postgres/verify/last-pass.js';
import { AUDIT_SCHEMA, AUDIT_TABLES } from '../support/audited-writers.js';
import { LinkProxy } from '../support/link-proxy.js';
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

  beforeEach(async () => {
    expect((await look()).health).toBe('healthy');
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
    await green.query(`DELETE FROM verdigris.marker_to_blue WHERE id LIKE 'standby away %'`);
  });

  afterAll(async () => {
    await closeSession(copy);
    await copyDatabase.drop();
    await standby.close();
  });

  const openBlue = (): Promise<Session> => Promise.resolve(blue);
  const away = (): Promise<Session> =>
    Promise.reject(new VerdigrisError({ type: 'ConnectionFailed', message: 'blue is away', nextStep: 'wait' }));
  const limits = { maxLagMs: 10_000, maxRetainedWal: 1e12 };
  const look = (open = openBlue): Promise<StandbyState> =>
    lookAtStandby(green, open, RUN, limits, new AbortController().signal);
  const dead = async (): Promise<string | undefined> => (await whyFeedIsDead(green, openBlue, RUN))?.why;

  /** Its worker finds the slot free, since blue's is gone, and stays away until a test has it come too late. */
  async function isTaken(): Promise<void> {
    expect(await disableSubscription(blue, FEED)).toBe(true);
    // Green's side of it ends a little later. Were that one taken for the copy's, the two would race for the slot.
    await expect.poll(async () => (await readReaders(green, [FEED])).size, WITHIN).toBe(0);
    // Its worker is to meet no row twice, and to go on: an earlier one may have applied what it had not confirmed.
    const tables = [...AUDIT_TABLES.map((name) => `public.${name}`), 'verdigris.marker_to_blue'];
    await copy.query(`TRUNCATE ${tables.join(', ')}`);
    const conninfo = rig.databases.green.peerConninfo;
    await ensureSubscription(copy, { name: FEED, conninfo, copyData: false, enabled: true, publisherVersion: 18 });
    await expect.poll(() => readSlotReader(green, FEED), WITHIN).toBeDefined();
  }

  /** The slot is past all that is on green now: whoever reads it has that, and nobody else will get it. */
  async function isConfirmed(): Promise<void> {
    const { rows } = await green.query<{ lsn: string }>('SELECT pg_current_wal_insert_lsn()::text AS lsn');
    const isPast = async (): Promise<boolean | undefined> => {
      const slot = await green.query<{ past: boolean }>(
        'SELECT confirmed_flush_lsn >= $2::pg_lsn AS past FROM pg_replication_slots WHERE slot_name = $1',
        [FEED, rows[0]?.lsn],
      );
      return slot.rows[0]?.past;
    };
    await expect.poll(isPast, WITHIN).toBe(true);
  }

  /** The copy is switched off, and blue goes on behind what it has taken. */
  async function comesBack(): Promise<void> {
    await dropSubscription(copy, FEED);
    await enableSubscription(blue, FEED);
    expect(await measureLag(green, blue, 'to_blue', 30_000)).toBeLessThan(30_000);
  }

  /** Tokens of the markers of a time in which blue is away. */
  async function awayMarkers(session: Session): Promise<string[]> {
    const { rows } = await session.query<{ token: string }>(
      `SELECT token FROM verdigris.marker_to_blue WHERE id LIKE 'standby away %' ORDER BY at`,
    );
    return rows.map(({ token }) => token);
  }

  /** Whether the copy's worker waits for a lock. */
  async function isBlocked(): Promise<boolean> {
    const { rowCount } = await copy.query(
      `SELECT FROM pg_locks WHERE NOT granted AND relation = 'public.notes'::regclass`,
    );
    return rowCount === 1;
  }

  const IS_TOLD = { health: 'broken', why: expect.stringMatching(/read by another subscriber/) as string };

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

  it('is told with the address also where a worker of blue is asking for it in vain', async () => {
    const { port = 0 } = rig.databases.green.config;
    const link = await LinkProxy.start(port);
    const conninfo = rig.databases.green.peerConninfo;
    try {
      await isTaken();
      await redirectSubscription(blue, FEED, conninfo.replace(`port=${port} `, `port=${link.port} `));
      link.swallow('toClient');
      await enableSubscription(blue, FEED);
      await expect.poll(async () => (await readSubscription(blue, FEED))?.applyPid ?? null, WITHIN).not.toBeNull();
      await isConfirmed();
      const seen = look();
      // It is at it when what was taken is found, 2 s after the look has begun, and ends then.
      await sleep(3_000);
      link.refuse();
      expect(await seen).toMatchObject({
        health: 'broken',
        why: expect.stringMatching(/than blue \(process \d+, from 127\.0\.0\.1, since /) as string,
      });
    } finally {
      await link.close();
      await disableSubscription(blue, FEED);
      await redirectSubscription(blue, FEED, conninfo);
    }
  });

  it('is found by a rollback that is asked for before anybody has looked', async () => {
    await isTaken();
    await enableSubscription(blue, FEED);
    await expect.poll(dead, WITHIN).toMatch(/read by another subscriber/);
  });

  it('is found when blue is back, where it was away for all of the time', async () => {
    await isTaken();
    // When blue had everything is known to the second.
    await sleep(2_000);
    expect((await look(away)).health).toBe('unreachable');
    // Once for each that reads: what is written anew says nothing of what was taken before.
    const written = await awayMarkers(green);
    await sleep(1_100);
    expect((await look(away)).health).toBe('unreachable');
    expect(await awayMarkers(green)).toEqual(written);
    await isConfirmed();
    expect(await awayMarkers(copy)).toEqual(written);
    await comesBack();
    expect(await look()).toMatchObject(IS_TOLD);
  });

  it('is found when blue is back, where blue itself had read it before, out of our reach', async () => {
    await sleep(2_000);
    expect((await look(away)).health).toBe('unreachable');
    const written = await awayMarkers(green);
    await expect.poll(() => awayMarkers(blue), WITHIN).toEqual(written);
    await isTaken();
    expect((await look(away)).health).toBe('unreachable');
    await isConfirmed();
    await comesBack();
    expect(await look()).toMatchObject(IS_TOLD);
  });

  it('is found when blue follows again, where whoever had it was too late to be seen', async () => {
    await isTaken();
    await sleep(2_000);
    await withClient(copyDatabase.config, async (holder) => {
      await holder.query('BEGIN; LOCK TABLE public.notes IN SHARE MODE');
      await enableSubscription(blue, FEED);
      await expect.poll(isBlocked, WITHIN).toBe(true);
      expect(await look()).toMatchObject({ health: 'lagging', rollbackSafe: true });
      await holder.query('ROLLBACK');
    });
    await isConfirmed();
    await comesBack();
    expect(await look()).toMatchObject(IS_TOLD);
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
