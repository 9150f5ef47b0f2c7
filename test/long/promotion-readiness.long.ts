import pg from 'pg';
import { expect, it } from 'vitest';
import type { Promotion } from '../../src/postgres/promotion.js';
import { TooFarBehind, waitForShortLag } from '../../src/postgres/promotion-readiness.js';
import { ReplicatedPair } from '../postgres/replicated-pair.js';

it('a try is over while the new side stands still, and says whom its feed waits for', async () => {
  const pair = await ReplicatedPair.start('pg15', 'readiness', 'CREATE TABLE t (id int PRIMARY KEY)');
  const holder = new pg.Client({ ...pair.greenDatabase.config, application_name: 'nightly report' });
  try {
    await holder.connect();
    await holder.query('BEGIN; LOCK TABLE t IN SHARE MODE');
    await pair.blue.query('INSERT INTO t VALUES (1)');
    const { rows } = await pair.green.query<{ name: string }>(
      `SELECT subname AS name FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`,
    );
    // The rest of the name is the direction.
    const migration = /^verdigris_(.*)_to_green$/.exec(rows[0]?.name ?? '')?.[1] ?? rows[0]?.name ?? '';
    const sessions = { aside: pair.ourBlue, to: pair.ourGreen };
    const promotion = { from: 'blue', migration } as unknown as Promotion;
    const began = performance.now();
    const waiting = waitForShortLag(sessions, promotion, 700);
    await expect(waiting).rejects.toBeInstanceOf(TooFarBehind);
    await expect(waiting).rejects.toMatchObject({
      type: 'PromotionBlocked',
      message: expect.stringMatching(/green is too far behind: a marker did not arrive, 20 ms are asked for/) as string,
    });
    expect(performance.now() - began).toBeLessThan(3_000);
  } finally {
    await holder.end();
    await pair.stop();
  }
});
