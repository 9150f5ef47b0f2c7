import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { setTimeout as sleep } from 'node:timers/promises';
import { dropSlot, ensureSlot, readSlot } from '../../src/postgres/replication-slot.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';
import { testedVersion } from '../support/tested-version.js';

describe.each([testedVersion('pg15')])('a slot on %s that waits for a writer', (server) => {
  let db: TestDatabase;
  let session: Session;
  let writer: pg.Client;
  let name: string;

  beforeAll(async () => {
    db = await testDatabase(server, 'slot');
    name = `slot_${db.database}`.slice(0, 60);
    session = await openSession(asDatabase(db, 'blue'), { purpose: 'test' });
    writer = new pg.Client(db.config);
    await writer.connect();
  });
  afterAll(async () => {
    await closeSession(session);
    await writer.end();
    await db.drop();
  });
  beforeEach(() => writer.query('BEGIN; SELECT pg_current_xact_id()'));
  afterEach(async () => {
    await writer.query('ROLLBACK');
    await dropSlot(session, name);
  });

  /** Makes the slot until enough has been said of whom it waits for, and gives it up. @returns what was said */
  async function waitedFor(isEnough: (whom: string, looks: number) => boolean): Promise<string[]> {
    const abort = new AbortController();
    const seen: string[] = [];
    const making = ensureSlot(session, name, {
      signal: abort.signal,
      onWait: (whom) => {
        seen.push(whom);
        if (isEnough(whom, seen.length)) abort.abort(new Error('given up'));
      },
    });
    await expect(making).rejects.toThrow('given up');
    return seen;
  }

  it('says for whom, and leaves nothing when it is given up', async () => {
    const seen = await waitedFor(() => true);
    expect(seen).toEqual([expect.stringMatching(/^pid \d+ .*, transaction \d+\.\d s old/)]);
    expect(await readSlot(session, name)).toBeUndefined();
  });

  it('says that it waits for a prepared transaction, which has no session', async () => {
    const gid = `stuck ${name}`;
    await writer.query(`PREPARE TRANSACTION '${gid}'`);
    try {
      // Three are named, and other tests on this server may have written for longer.
      const seen = await waitedFor((whom, looks) => whom.includes(gid) || looks === 20);
      expect(seen.at(-1)).toMatch(new RegExp(`prepared transaction ${gid}.*ROLLBACK PREPARED`));
    } finally {
      await writer.query(`ROLLBACK PREPARED '${gid}'`);
    }
  });

  it('that a session of a dead worker still makes is there only when it is complete', async () => {
    const dead = new pg.Client(db.config);
    await dead.connect();
    const itsOwn = dead.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [name]);
    await expect.poll(() => readSlot(session, name)).toMatchObject({ complete: false });
    let made = false;
    const ensured = ensureSlot(session, name).then(() => (made = true));
    await sleep(300);
    expect(made).toBe(false);
    await writer.query('ROLLBACK');
    await Promise.all([ensured, itsOwn]);
    expect(await readSlot(session, name)).toMatchObject({ complete: true });
    await dead.end();
  });

  it("that another user's session holds is dropped when that lets go, and else names the GRANT", async () => {
    const [worker, holder] = ['worker', 'holder'].map((role) => `slot_${role}_${process.pid}`) as [string, string];
    for (const role of [worker, holder]) await session.query(`CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'x'`);
    const config = { ...db.config, password: 'x' };
    const ours = await openSession(
      { ...asDatabase(db, 'blue'), config: { ...config, user: worker } },
      { purpose: 'test' },
    );
    const held = new pg.Client({ ...config, user: holder });
    await held.connect();
    try {
      const making = held.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [name]);
      await expect.poll(() => readSlot(session, name)).toMatchObject({ active: true });
      await expect(dropSlot(ours, name, 0)).rejects.toMatchObject({
        ...{ type: 'SqlError', retryable: true },
        what: expect.stringMatching(new RegExp(`a session of "${holder}" \\(pid \\d+\\) holds it`)) as string,
        nextStep: expect.stringContaining(`GRANT pg_signal_backend TO "${worker}"`) as string,
      });
      const dropping = dropSlot(ours, name, 1);
      await sleep(700);
      await writer.query('ROLLBACK');
      await Promise.all([dropping, making]);
      expect(await readSlot(session, name)).toBeUndefined();
    } finally {
      await held.end();
      await closeSession(ours);
      await session.query(`DROP ROLE ${worker}, ${holder}`);
    }
  });
});

describe('a slot whose name the server has given to another one', () => {
  let db: TestDatabase;
  let other: TestDatabase;
  let session: Session;
  let elsewhere: Session;

  beforeAll(async () => {
    db = await testDatabase('pg15', 'slot_name');
    other = await testDatabase('pg15', 'slot_elsewhere');
    session = await openSession(asDatabase(db, 'blue'), { purpose: 'test' });
    elsewhere = await openSession(asDatabase(other, 'blue'), { purpose: 'test' });
  });
  afterAll(async () => {
    await closeSession(session);
    await closeSession(elsewhere);
    await db.drop();
    await other.drop();
  });

  it.each([
    [
      'of another database',
      `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`,
      /of its database ".*slot_else/,
    ],
    ['a physical one', 'SELECT pg_create_physical_replication_slot($1)', /a physical one/],
  ])('is refused: %s', async (_, make, whose) => {
    const name = `taken_${db.database}`.slice(0, 60);
    await elsewhere.query(make, [name]);
    try {
      const making = ensureSlot(session, name, { signal: AbortSignal.timeout(5_000) });
      await expect(making).rejects.toMatchObject({
        type: 'NameTaken',
        message: expect.stringMatching(whose) as string,
      });
    } finally {
      await elsewhere.query('SELECT pg_drop_replication_slot($1)', [name]);
    }
  });
});
