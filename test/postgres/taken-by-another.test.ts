import { afterAll, beforeAll, expect, it } from 'vitest';
import { writeProgress } from '../../src/postgres/migrate/progress-row.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { whyTaken } from '../../src/postgres/taken-feed.js';
import { forgetLastPass, momentOf, writeLastPass } from '../../src/postgres/verify/last-pass.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';

const RUN = 'run';

let db: TestDatabase;
let green: Session;
beforeAll(async () => {
  db = await testDatabase('pg18', 'taken by another');
  green = await openSession(asDatabase(db, 'green'), { purpose: 'test' });
  await installState(green, 'green');
});
afterAll(async () => {
  await closeSession(green);
  await db.drop();
});

/** As whoever watches the way back writes it down. */
async function isTaken(): Promise<void> {
  const { lsn } = await momentOf(green);
  const taken = { slot: 'to_blue', at: '2026-01-01 00:00:00', lsn };
  await writeProgress(green, { runId: RUN, step: 'standby', object: 'taken' }, taken, false);
}

async function isComparedAsEqual(): Promise<void> {
  const now = await momentOf(green);
  await writeLastPass(green, RUN, { began: { blue: now, green: now }, tables: {} });
}

it('a slot that another subscriber has read from is told until a comparison finds no difference, and a later difference says nothing of it', async () => {
  expect(await whyTaken(green, RUN)).toBeUndefined();
  await isComparedAsEqual();
  await isTaken();
  expect(await whyTaken(green, RUN)).toMatch(/read by another subscriber/);
  await isComparedAsEqual();
  expect(await whyTaken(green, RUN)).toBeUndefined();
  await forgetLastPass(green, RUN);
  expect(await whyTaken(green, RUN)).toBeUndefined();
  await isTaken();
  expect(await whyTaken(green, RUN)).toMatch(/read by another subscriber/);
});
