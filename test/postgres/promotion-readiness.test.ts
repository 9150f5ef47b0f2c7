import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { ident } from '../../src/postgres/identifier.js';
import type { Promotion } from '../../src/postgres/promote.js';
import { waitForShortLag } from '../../src/postgres/promotion-readiness.js';
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
  } finally {
    await pair.stop();
  }
});
