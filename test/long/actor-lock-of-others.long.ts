import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { openActorSession, whileOwned } from '../../src/postgres/ownership.js';
import { closeSession, withSession, type Database } from '../../src/postgres/session.js';
import { ACTOR_LOCK, installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

const TAG = randomBytes(4).toString('hex');
const [WORKER, REPORTING] = [`worker_${TAG}`, `reporting_${TAG}`] as const;
const RUN = { runId: 'run of shop', migration: 'shop' };

let own: TestDatabase;
let worker: Database;

beforeAll(async () => {
  own = await testDatabase('pg15', 'actor lock');
  worker = { ...asDatabase(own, 'blue'), config: { ...own.config, user: WORKER, password: 'x' } };
  await withClient(own.config, (client) =>
    client.query(
      `CREATE ROLE ${WORKER} LOGIN PASSWORD 'x'; CREATE ROLE ${REPORTING} LOGIN PASSWORD 'x';
       GRANT CREATE ON DATABASE ${own.database} TO ${WORKER}`,
    ),
  );
  await withSession(worker, { purpose: 'test' }, (session) => installState(session, 'blue'));
});

afterAll(async () => {
  await own.drop();
  const { port, config } = own;
  await withClient({ ...config, port, database: 'postgres' }, (client) =>
    client.query(`DROP ROLE ${WORKER}, ${REPORTING}`),
  );
});

it("the actor's lock, held by a role whose sessions ours may not end, is waited for, and then told with who holds it", async () => {
  const act = (): Promise<string | undefined> => whileOwned(worker, RUN, 'test', () => Promise.resolve('done'));
  await withClient({ ...own.config, user: REPORTING, password: 'x' }, async (client) => {
    const { rows } = await client.query<{ pid: number }>(
      `SELECT pg_backend_pid() AS pid, pg_advisory_lock(${ACTOR_LOCK})`,
    );
    const told = {
      type: 'LockNotHad',
      retryable: true,
      message: expect.stringMatching(
        new RegExp(`blue: [^]*pid ${rows[0]?.pid ?? 0} \\([^]*user ${REPORTING}[^]*pg_signal_backend`),
      ) as unknown,
    };
    // A claim or a promotion; an undoing.
    const tries = [openActorSession(worker, 'test'), act()].map((one) => expect(one).rejects.toMatchObject(told));
    await Promise.all(tries);

    const [later] = await Promise.all([
      openActorSession(worker, 'test'),
      sleep(4_000).then(() => client.query(`SELECT pg_advisory_unlock(${ACTOR_LOCK})`)),
    ]);
    await closeSession(later);
  });
  expect(await act()).toBe('done');
});
