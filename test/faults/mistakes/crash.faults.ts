import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dropSlots } from '../../../src/postgres/feed-objects.js';
import { feedName } from '../../../src/postgres/feed.js';
import { isFenceOpen } from '../../../src/postgres/fence.js';
import { measureLag } from '../../../src/postgres/marker.js';
import { askDecision, readDecision } from '../../../src/postgres/promotion-decision.js';
import { withSession, type Session } from '../../../src/postgres/session.js';
import { ACTOR_LOCK, FENCE_CLOSED, readRoute } from '../../../src/postgres/state.js';
import { readSubscription } from '../../../src/postgres/subscription.js';
import type { Side } from '../../../src/side.js';
import { carryOut, STEPS } from '../../support/promotion-steps.js';
import { StatementProxy } from '../../support/statement-proxy.js';
import { CrashPair } from './crash-pair.js';

/* Mistakes that only servers of one's own can show, since they crash or wait for a replica: see docs/mistakes.md. */

const START_MS = 120_000;

const ours = <T>(pair: CrashPair, side: Side, work: (session: Session) => Promise<T>): Promise<T> =>
  withSession(pair.databases[side], { purpose: 'test' }, work);

/** Ordinary writes of a side, a row each, until it is closed. */
const writes = (pair: CrashPair, side: Side): Promise<void> =>
  pair.on(side, async (client) => {
    for (let id = 1; ; id++) {
      try {
        await client.query('INSERT INTO public.kept VALUES ($1)', [id]);
      } catch (error) {
        if (error instanceof pg.DatabaseError && error.code === '25006') return;
        throw error;
      }
      await sleep(1);
    }
  });

const rows = (pair: CrashPair, side: Side): Promise<unknown[]> =>
  pair.on(side, async (client) => (await client.query('SELECT id FROM public.kept ORDER BY id')).rows);

describe('green is killed right after the promotion, before a checkpoint', () => {
  let pair: CrashPair;

  beforeAll(async () => {
    pair = await CrashPair.start('mistakes-crash-green');
  }, START_MS);

  afterAll(() => pair.stop());

  it('its first write reaches blue all the same, and no row that came from blue goes back', async () => {
    // Ordinary writes of blue, between the proof of the way back and the hold too.
    const writing = writes(pair, 'blue');
    await sleep(200);
    await carryOut('promote', pair.move);
    await writing;
    await pair.on('green', (client) => client.query('INSERT INTO public.kept VALUES (1000000)'));
    await pair.crash('green');
    await carryOut('finish', pair.move);

    const lag = await ours(pair, 'green', (green) =>
      ours(pair, 'blue', (blue) => measureLag(green, blue, 'to_blue', 15_000)),
    );
    expect(lag).toBeLessThan(15_000);
    expect(await rows(pair, 'blue')).toEqual(await rows(pair, 'green'));
    const feed = feedName(pair.migration, 'to_blue');
    expect((await ours(pair, 'blue', (session) => readSubscription(session, feed)))?.errors).toBe(0);
  }, 120_000);
});

describe('blue is killed in the way back, between the decision and its opening', () => {
  let pair: CrashPair;

  beforeAll(async () => {
    pair = await CrashPair.start('mistakes-crash-back');
  }, START_MS);

  afterAll(() => pair.stop());

  it('it has every row of green all the same, by what is on its own disk', async () => {
    await carryOut('promote', pair.move);
    await carryOut('finish', pair.move);
    const back = { ...pair.move, from: 'green', feedBack: false } as const;
    const proxy = await StatementProxy.start(pair.servers.blue.port);
    try {
      const blue = { ...pair.databases.blue, config: { ...pair.databases.blue.config, port: proxy.port } };
      const opening = proxy.stopWhere(({ text }) => text.includes('verdigris.open_fence'), 'before');
      const writing = writes(pair, 'green');
      await sleep(200);
      const tried = STEPS.promote({ ...back, databases: { ...pair.databases, blue } }).catch((error: unknown) => error);
      const held = await opening;
      await writing;
      // The feed would bring the rows once more.
      await ours(pair, 'green', (green) => dropSlots(green, feedName(pair.migration, 'to_blue'), 0));
      await pair.crash('blue');
      held.release();
      expect(await tried).toMatchObject({ type: 'NotOpened' });
    } finally {
      await proxy.close();
    }
    await carryOut('promote', back);
    expect(await ours(pair, 'blue', isFenceOpen)).toBe(true);
    expect(await rows(pair, 'blue')).toEqual(await rows(pair, 'green'));
  }, 120_000);
});

describe('blue is killed right after the decision, with synchronous_commit = off as its default', () => {
  let pair: CrashPair;

  beforeAll(async () => {
    pair = await CrashPair.start('mistakes-crash-blue', 'ALTER DATABASE postgres SET synchronous_commit = off');
  }, START_MS);

  afterAll(() => pair.stop());

  it('the decision is still there: blue stays closed while green has the writes', async () => {
    await carryOut('promote', pair.move);
    await pair.crash('blue');
    await ours(pair, 'blue', async (blue) => {
      expect(await readRoute(blue, pair.migration)).toMatchObject({ writesOn: 'green' });
      expect(await isFenceOpen(blue)).toBe(false);
    });
    expect(await ours(pair, 'green', isFenceOpen)).toBe(true);
  }, 60_000);
});

describe('blue waits for a replica that does not answer while it commits the decision', () => {
  let pair: CrashPair;

  beforeAll(async () => {
    pair = await CrashPair.start('mistakes-slow-commit');
  }, START_MS);

  afterAll(() => pair.stop());

  it('a plain read still says blue; the decision is found all the same', async () => {
    const { databases, migration } = pair;
    const epoch = (await ours(pair, 'blue', (session) => readRoute(session, migration)))?.epoch ?? 0;
    await pair.on('blue', async (admin) => {
      await admin.query('SET synchronous_commit = local');
      await admin.query("UPDATE verdigris.route SET opening = 'green'");
      await admin.query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
      await admin.query('SELECT pg_reload_conf()');
      await sleep(300);
      const decides = new pg.Client({ ...databases.blue.config, application_name: 'decides' });
      await decides.connect();
      await decides.query(`SELECT pg_advisory_lock(${ACTOR_LOCK})`);
      await decides.query(`BEGIN; SELECT verdigris.decide('${migration}', ${epoch}, 'green')`);
      const committed = decides.query(`SELECT setval('verdigris.fence', ${FENCE_CLOSED}); COMMIT`);
      const waits = "SELECT FROM pg_stat_activity WHERE application_name = 'decides' AND wait_event = 'SyncRep'";
      while ((await admin.query(waits)).rowCount === 0) await sleep(10);
      expect((await admin.query('SELECT writes_on FROM verdigris.route')).rows).toEqual([{ writes_on: 'blue' }]);

      let answer: unknown;
      const asked = ours(pair, 'blue', (session) => readDecision(session, migration, 'blue')).then(
        (decision) => (answer = decision),
      );
      // Whoever takes over does not end it after its two seconds: the decision would be on blue alone.
      const taken = askDecision(databases.blue, migration).then((decision) => (answer = decision));
      await sleep(4_000);
      expect(answer).toBeUndefined();
      expect((await admin.query(waits)).rowCount).toBe(1);
      await admin.query('ALTER SYSTEM RESET synchronous_standby_names');
      await admin.query('SELECT pg_reload_conf()');
      await committed;
      await decides.end();
      const decided = { decided: true, epoch: epoch + 1 };
      expect(await Promise.all([asked, taken])).toEqual([decided, decided]);
    });
  }, 60_000);
});
