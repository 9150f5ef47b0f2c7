import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  BUILDER_LOCK,
  endParcels,
  HOLDER_LOCK,
  isHeld,
  STEP_LOCK,
  takeOver,
} from '../../src/postgres/bootstrap/copy/copy-lock.js';
import { examine } from '../../src/postgres/doctor/inventory.js';
import { diagnose } from '../../src/postgres/doctor/diagnose.js';
import { takeStepOver } from '../../src/postgres/migrate/step-lock.js';
import { openReplicationSession, withSession, type Database } from '../../src/postgres/session.js';
import { ACTOR_LOCK, FENCE_LOCK } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

/* Anybody who can log in may take an advisory lock, also as a role whose sessions the worker's may not end. */

const TAG = randomBytes(4).toString('hex');
const [WORKER, REPORTING] = [`worker_${TAG}`, `reporting_${TAG}`] as const;
/** First key of the locks of copies. */
const SPACE = 0x76_65_72_64;
const { signal } = new AbortController();

let own: TestDatabase;
let worker: Database;

beforeAll(async () => {
  own = await testDatabase('pg18', 'lock holders');
  worker = { ...asDatabase(own, 'blue'), config: { ...own.config, user: WORKER, password: 'x' } };
  await withClient(own.config, (client) =>
    client.query(
      `CREATE ROLE ${WORKER} LOGIN REPLICATION PASSWORD 'x'; CREATE ROLE ${REPORTING} LOGIN PASSWORD 'x'; GRANT pg_monitor TO ${WORKER}`,
    ),
  );
});

afterAll(async () => {
  await withClient(own.config, (client) => client.query(`DROP ROLE ${WORKER}, ${REPORTING}`));
  await own.drop();
});

/** While an ordinary session holds a lock. */
async function whileHeld<T>(lock: string, work: (pid: number) => Promise<T>): Promise<T> {
  return withClient({ ...own.config, user: REPORTING, password: 'x' }, async (client) => {
    const { rows } = await client.query<{ pid: number }>(`SELECT pg_backend_pid() AS pid, ${lock}`);
    return work(rows[0]?.pid ?? 0);
  });
}

const NAMED = (pid: number): object => ({
  type: 'LockNotHad',
  retryable: true,
  message: expect.stringMatching(
    new RegExp(`pid ${pid} \\(no application name, user ${REPORTING}, client[^]*pg_signal_backend`),
  ) as unknown,
});

it.each([
  {
    what: 'the lock of a step that changes the schema',
    lock: `pg_advisory_lock(${SPACE}, ${STEP_LOCK})`,
    take: () => withSession(worker, { purpose: 'test' }, (session) => takeStepOver(session, signal)),
  },
  {
    what: 'the lock of those that build for such a step',
    lock: `pg_advisory_lock_shared(${SPACE}, ${BUILDER_LOCK})`,
    take: () => withSession(worker, { purpose: 'test' }, (session) => takeStepOver(session, signal, 'ended')),
  },
  {
    what: 'the lock of a replication connection',
    lock: `pg_advisory_lock(${SPACE}, ${HOLDER_LOCK})`,
    take: async () => {
      const session = await openReplicationSession(worker, 'test');
      try {
        await takeOver(session, HOLDER_LOCK, signal);
      } finally {
        await session.end();
      }
    },
  },
])('$what, held by a role whose sessions ours may not end, is told with who holds it', async ({ lock, take }) => {
  await whileHeld(lock, (pid) => expect(take()).rejects.toMatchObject(NAMED(pid)));
  // Let go of, it is had.
  await take();
});

it('one that may not be ended keeps none of the others from it', async () => {
  const lock = `pg_advisory_lock_shared(${SPACE}, ${BUILDER_LOCK})`;
  const ours = [1, 2].map(() => new pg.Client({ ...worker.config, application_name: 'verdigris build' }));
  ours.forEach((client) => client.on('error', () => undefined));
  await ours[0]?.connect();
  await ours[0]?.query(`SELECT ${lock}`);
  await whileHeld(lock, async (pid) => {
    await ours[1]?.connect();
    await ours[1]?.query(`SELECT ${lock}`);
    await withSession(worker, { purpose: 'test' }, async (session) => {
      await expect(takeStepOver(session, signal, 'ended')).rejects.toMatchObject(NAMED(pid));
      const { rows } = await session.query(`SELECT l.pid FROM pg_locks l WHERE ${isHeld(BUILDER_LOCK)}`);
      expect(rows).toEqual([{ pid }]);
    });
  });
});

it('a session that only looks like one that copies keeps no copy from being ended', async () => {
  await whileHeld(`pg_advisory_lock(${SPACE}, 3)`, () => withSession(worker, { purpose: 'test' }, endParcels));
});

it.each([
  { lock: `pg_advisory_lock(${FENCE_LOCK})`, told: [/holds the fence's lock alone/] },
  { lock: `pg_advisory_lock(${ACTOR_LOCK})`, told: [/holds the lock of whoever acts for a run/] },
  // As each writer of an armed side does.
  { lock: `pg_advisory_lock_shared(${FENCE_LOCK})`, told: [] },
])('the doctor names who holds $lock', async ({ lock, told }) => {
  await whileHeld(lock, async (pid) => {
    const found = await examine({ blue: asDatabase(own, 'blue'), green: asDatabase(own, 'green') });
    const verdict = { kind: 'unknown', why: '', next: '' } as const;
    const asked = /holds a lock of Verdigris[^]*?```sql\n([^]*?)```/.exec(
      readFileSync(new URL('../../docs/what-if.md', import.meta.url), 'utf8'),
    )?.[1];
    const { rows } = await withClient(own.config, (client) => client.query(asked ?? ''));
    expect(rows).toMatchObject([
      { pid, usename: REPORTING, lock: lock.includes(String(FENCE_LOCK)) ? 'fence' : 'actor' },
    ]);
    const findings = diagnose(found, verdict, { state: 'unknown', why: '' }).filter(({ side }) => side === 'blue');
    expect(findings.map(({ what }) => what)).toEqual(
      told.map(
        (text) => expect.stringMatching(new RegExp(`pid ${pid} .*user ${REPORTING}\\) ${text.source}`)) as unknown,
      ),
    );
  });
});
