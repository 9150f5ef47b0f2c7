import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { ident } from '../../src/postgres/identifier.js';
import { whoBlocksApply } from '../../src/postgres/locks.js';
import type { Promotion } from '../../src/postgres/promotion.js';
import { rehearseSlots } from '../../src/postgres/promotion-hold.js';
import { waitForShortLag } from '../../src/postgres/promotion-readiness.js';
import type { Sessions } from '../../src/postgres/promotion-sessions.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { unlessOthersWrite } from '../support/unless-others-write.js';
import { untilRow } from '../support/wait-for-row.js';
import { ReplicatedPair } from './replicated-pair.js';

it('nobody is asked to wait while the new side is behind: the hold would last until it has caught up', async () => {
  const pair = await ReplicatedPair.start('pg15', 'readiness', 'CREATE TABLE t (id int PRIMARY KEY)');
  try {
    const { rows } = await pair.green.query<{ name: string }>(
      `SELECT subname AS name FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`,
    );
    const name = ident(rows[0]?.name ?? '');
    await pair.green.query(`ALTER SUBSCRIPTION ${name} DISABLE`);
    let ready = false;
    const waiting = waitForShortLag({ aside: pair.ourBlue, to: pair.ourGreen }, {
      databases: {},
      from: 'blue',
    } as unknown as Promotion).then(() => (ready = true));
    await sleep(1_500);
    expect(ready).toBe(false);
    await pair.green.query(`ALTER SUBSCRIPTION ${name} ENABLE`);
    await waiting;
    expect(ready).toBe(true);

    // Of all that may keep its worker, a prepared transaction has no process.
    await pair.blue.query('INSERT INTO t VALUES (1)');
    await untilRow(pair.green, 'SELECT FROM t WHERE id = 1');
    await pair.green.query("BEGIN; SELECT FROM t FOR UPDATE; PREPARE TRANSACTION 'in_the_feeds_way'");
    await pair.blue.query('DELETE FROM t');
    const feed = rows[0]?.name ?? '';
    await vi.waitFor(
      async () =>
        expect(await whoBlocksApply(pair.green, feed)).toMatch(
          /^Its feed waits for prepared transaction in_the_feeds_way,/,
        ),
      { timeout: 10_000 },
    );
    await pair.green.query("ROLLBACK PREPARED 'in_the_feeds_way'");
    await untilRow(pair.green, 'SELECT WHERE NOT EXISTS (SELECT FROM t)');
    expect(await whoBlocksApply(pair.green, feed)).toBe('Its feed waits for nobody.');
  } finally {
    await pair.stop();
  }
});

describe('the slots of the way back, rehearsed', () => {
  let own: TestDatabase;
  let to: Session;
  const rehearse = (): Promise<void> =>
    rehearseSlots({ to, slots: [{ session: to, make: '' }] } as unknown as Sessions, { from: 'blue' } as Promotion);

  beforeAll(async () => {
    own = await testDatabase('pg18', 'slots rehearsed');
    to = await openSession(asDatabase(own, 'green'), { purpose: 'test' });
    await to.query('CREATE TABLE public.t (id int)');
  });

  afterAll(async () => {
    await closeSession(to);
    await own.drop();
  });

  it('pass beside transactions that never end all at once and commit asynchronously, as those of a feed', async () => {
    let isOver = false;
    const writers = [0, 1, 2].map(() =>
      withClient(own.config, async (client) => {
        await client.query('SET synchronous_commit = off');
        while (!isOver) {
          await client.query('BEGIN; INSERT INTO public.t VALUES (1); SELECT pg_sleep(0.01)');
          await client.query('COMMIT');
        }
      }),
    );
    await sleep(100);
    for (let i = 0; i < 3; i++) await unlessOthersWrite(rehearse);
    isOver = true;
    await Promise.all(writers);
    const { rows } = await to.query("SELECT FROM pg_replication_slots WHERE slot_name LIKE 'verdigris_rehearsal%'");
    expect(rows).toHaveLength(0);
  });

  it('say who writes for so long that they would not be made in a hold, and leave none behind', async () => {
    const writer = new pg.Client({ ...own.config, application_name: 'nightly job' });
    await writer.connect();
    await writer.query('BEGIN; INSERT INTO public.t VALUES (1)');
    await expect(rehearse()).rejects.toMatchObject({
      type: 'PromotionBlocked',
      message: expect.stringMatching(
        /the slot of the way back can't be made on green in time.*nightly job/,
      ) as unknown as string,
    });
    await writer.query('ROLLBACK');
    await writer.end();
    await unlessOthersWrite(rehearse);
    const { rows } = await to.query("SELECT FROM pg_replication_slots WHERE slot_name LIKE 'verdigris_rehearsal%'");
    expect(rows).toHaveLength(0);
  });
});
