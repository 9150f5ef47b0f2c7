import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Attempt } from '../../activities/promotion-attempt.js';
import { giveTriesUp } from '../../activities/promotion-withdraw.js';
import { readRouteAndFlag } from '../../src/postgres/doctor/read-state.js';
import { openDecided } from '../../src/postgres/doctor/open.js';
import { whoIsPrimary } from '../../src/postgres/doctor/who-is-primary.js';
import { isFenceOpen } from '../../src/postgres/fence.js';
import { NO_POOLS, type Pools } from '../../src/postgres/pools.js';
import { preparePromotion } from '../../src/postgres/prepare-promotion.js';
import { promote } from '../../src/postgres/promote.js';
import type { Promoted } from '../../src/postgres/promotion.js';
import { isFenceHeldAlone } from '../../src/postgres/promotion-decision.js';
import { withSession, type Databases, type Session } from '../../src/postgres/session.js';
import { ACTOR_LOCK, FENCE_CLOSED, FENCE_LOCK, FENCE_OPEN, readRoute } from '../../src/postgres/state.js';
import type { Side } from '../../src/side.js';
import { holdPoint } from '../support/hold-points.js';
import { StatementProxy } from '../support/statement-proxy.js';
import { untilRow } from '../support/wait-for-row.js';
import { CrashPair } from './mistakes/crash-pair.js';

/* A synchronous standby is gone while writes are moved: no limit of the server ends a COMMIT that waits for it. */

const START_MS = 120_000;

/** The same pair with one side behind a proxy. */
const through = (pair: CrashPair, side: Side, { port }: StatementProxy): Databases => {
  const database = pair.databases[side];
  return { ...pair.databases, [side]: { ...database, config: { ...database.config, port } } };
};

/** Has commits on a side wait for these. */
async function waitFor(pair: CrashPair, side: Side, names: string): Promise<void> {
  await pair.on(side, async (client) => {
    await client.query(`ALTER SYSTEM SET synchronous_standby_names = ${pg.escapeLiteral(names)}`);
    await client.query('SELECT pg_reload_conf()');
    await untilRow(client, `SELECT WHERE current_setting('synchronous_standby_names') = ${pg.escapeLiteral(names)}`);
    // A backend takes it over between two statements, and whether anybody is waited for a moment after the checkpointer has.
    await sleep(300);
  });
}

const ours = <T>(pair: CrashPair, side: Side, work: (session: Session) => Promise<T>): Promise<T> =>
  withSession(pair.databases[side], { purpose: 'test' }, work);

/** One try of the promotion to green, prepared before. */
async function prepared(
  pair: CrashPair,
): Promise<(databases?: Databases, pools?: Pools) => Promise<Promoted | { type: string; message: string }>> {
  const { databases, migration, move } = pair;
  const fenced = move.tables;
  const wayBack = fenced.map((table) => ({ table }));
  const knownTables = await preparePromotion({ databases, migration, from: 'blue', fenced, wayBack });
  return (to = databases, pools = NO_POOLS) =>
    promote(
      { ...move, databases: to, fenced, knownTables, pools, sequenceGap: 1_000, feedBack: true },
      { attempts: 1 },
    ).catch((error: unknown) => error as { type: string; message: string });
}

describe("green's synchronous standby is gone", () => {
  let pair: CrashPair;

  beforeAll(async () => {
    pair = await CrashPair.start('sync-gone-green');
  }, START_MS);

  afterAll(() => pair.stop());

  it('before the hold: the try ends there, with the setting, and leaves no session that waits', async () => {
    const tryIt = await prepared(pair);
    await waitFor(pair, 'green', 'nobody');
    const paused: string[] = [];
    const failed = await tryIt(pair.databases, {
      ...NO_POOLS,
      pause: async () => void paused.push('paused'),
    });
    expect(failed).toMatchObject({
      type: 'PromotionBlocked',
      message: expect.stringMatching(
        /a commit on green was not answered within 5 s\. It waits for a synchronous standby .*'nobody'.* on green: ALTER SYSTEM/,
      ) as string,
    });
    expect(paused).toEqual([]);
    expect(await ours(pair, 'blue', isFenceOpen)).toBe(true);
    await pair.on('green', (client) =>
      untilRow(client, `SELECT WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')`),
    );
    await waitFor(pair, 'green', '');
  }, 60_000);

  it('as it is opened: it is said that it is open, by the doctor too; the next try opens it though nothing is answered yet', async () => {
    const tryIt = await prepared(pair);
    const proxy = await StatementProxy.start(pair.servers.green.port);
    try {
      const opening = proxy.stopWhere(({ text }) => text.includes('verdigris.open_fence'), 'before');
      const tried = tryIt(through(pair, 'green', proxy));
      const held = await opening;
      await waitFor(pair, 'green', 'nobody');
      held.release();
      const isOpen = {
        type: 'NotOpened',
        message: expect.stringMatching(
          /^the new side is open for epoch \d+, but commits there wait for a synchronous standby .*'nobody'/,
        ) as string,
      };
      expect(await tried).toMatchObject(isOpen);
      expect(await ours(pair, 'green', isFenceOpen)).toBe(true);

      const { verdict } = await whoIsPrimary(pair.databases);
      if (verdict.kind !== 'nobody') throw new Error(verdict.kind);
      await expect(openDecided(pair.databases, pair.migration, verdict)).rejects.toMatchObject(isOpen);

      expect(await tryIt()).toMatchObject({ holdMs: null });
      expect(await ours(pair, 'green', (session) => readRoute(session, pair.migration))).toMatchObject({
        writesOn: 'green',
      });
    } finally {
      await proxy.close();
      await waitFor(pair, 'green', '');
    }
  }, 120_000);
});

describe("blue's synchronous standby is gone as blue commits the decision", () => {
  let pair: CrashPair;

  beforeAll(async () => {
    pair = await CrashPair.start('sync-gone-blue');
  }, START_MS);

  afterAll(() => pair.stop());

  it('whoever gives a promotion up lets no pooler go to blue while the decision may be in that COMMIT', async () => {
    const { databases, migration } = pair;
    const released: string[] = [];
    const pools: Pools = { ...NO_POOLS, release: () => Promise.resolve((released.push('released'), [])) };
    await pair.on('blue', async (admin) => {
      await admin.query('SET synchronous_commit = local');
      await pair.on('blue', async (writer) => {
        await writer.query(`BEGIN; SELECT pg_advisory_xact_lock_shared(${FENCE_LOCK})`);
        expect(await ours(pair, 'blue', isFenceHeldAlone)).toBe(false);
        await writer.query('ROLLBACK');
      });
      await waitFor(pair, 'blue', 'nobody');
      await pair.on('blue', async (decides) => {
        await decides.query("SET application_name = 'decides'");
        await decides.query(`SELECT pg_advisory_lock(${ACTOR_LOCK})`);
        await decides.query(`BEGIN; SELECT pg_advisory_xact_lock(${FENCE_LOCK})`);
        await decides.query("UPDATE verdigris.route SET opening = 'green'");
        const committed = decides.query('COMMIT');
        await untilRow(
          admin,
          `SELECT FROM pg_stat_activity WHERE application_name = 'decides' AND wait_event = 'SyncRep'`,
        );
        await admin.query(`SELECT setval('verdigris.fence', ${FENCE_CLOSED})`);
        await ours(pair, 'blue', (session) => {
          const work = {
            ...{ databases, run: { runId: 'run', migration }, signal: new AbortController().signal },
            session: () => Promise.resolve(session),
          };
          const asked = { from: 'blue', epoch: 0, acceptLoss: false, redact: String };
          const attempt = { work, pools, session, ...asked } as unknown as Attempt;
          const tries = { runId: 'run', asked: { workflowRun: 'run', activity: 1, at: 1 } };
          return giveTriesUp(attempt, tries, new Error('given up'));
        });
        expect(released).toEqual([]);
        // Nor does the doctor take it for a step that will be over in a moment.
        const { settled, settling } = await ours(pair, 'blue', (session) => readRouteAndFlag(session, migration));
        expect({ settled, settling }).toMatchObject({ settled: false, settling: { awaitsStandby: true } });
        await admin.query(`SELECT setval('verdigris.fence', ${FENCE_OPEN})`);
        await waitFor(pair, 'blue', '');
        await committed;
      });
    });
  }, 120_000);

  it('the worker that has sent it knows the decision within half a minute, and lets no pooler go before', async () => {
    const tryIt = await prepared(pair);
    const steps: string[] = [];
    const step = (name: string): Promise<void> => Promise.resolve(void steps.push(name));
    const pools: Pools = {
      ...NO_POOLS,
      pause: () => step('pause'),
      point: () => step('point'),
      release: () => step('release').then(() => []),
    };
    const proxy = await StatementProxy.start(pair.servers.blue.port);
    try {
      const [isHere] = holdPoint('the decision is not known');
      const deciding = proxy.stopWhere(isHere, 'before');
      const tried = tryIt(through(pair, 'blue', proxy), pools);
      const held = await deciding;
      await waitFor(pair, 'blue', 'nobody');
      held.release();
      const late = sleep(30_000, 'late', { ref: false });
      expect(await Promise.race([tried, late])).toMatchObject({ epoch: expect.any(Number) as number, attempts: 1 });
      expect(steps).toEqual(['pause', 'point', 'release']);
      expect(await ours(pair, 'green', isFenceOpen)).toBe(true);
    } finally {
      await proxy.close();
      await waitFor(pair, 'blue', '');
    }
  }, 120_000);
});
