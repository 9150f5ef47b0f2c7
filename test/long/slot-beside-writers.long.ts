import pg from 'pg';
import { expect, it } from 'vitest';
import { setTimeout as sleep } from 'node:timers/promises';
import { ensureSlot, readSlot } from '../../src/postgres/replication-slot.js';
import { closeSession, openSession } from '../../src/postgres/session.js';
import { asDatabase, testDatabase } from '../support/postgres.js';

/** Of a transaction; two of them overlap by half. */
const SECONDS = 4;

it('a slot is made while transactions that write follow each other without a gap', async () => {
  const db = await testDatabase('pg15', 'slot writers');
  const session = await openSession(asDatabase(db, 'blue'), { purpose: 'test' });
  const name = `slot_${db.database}`.slice(0, 60);
  let stopped = false;
  const writers = [0, SECONDS / 2].map(async (after) => {
    await sleep(after * 1_000);
    const client = new pg.Client(db.config);
    await client.connect();
    while (!stopped) await client.query(`BEGIN; SELECT pg_current_xact_id(); SELECT pg_sleep(${SECONDS}); COMMIT`);
    await client.end();
  });
  await sleep((SECONDS * 1_000) / 2 + 500);
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new Error('never made')), 30_000);
  try {
    await ensureSlot(session, name, { signal: late.signal });
    expect(await readSlot(session, name)).toMatchObject({ complete: true });
  } finally {
    clearTimeout(timer);
    stopped = true;
    await Promise.all(writers);
    await closeSession(session);
    await db.drop();
  }
});
