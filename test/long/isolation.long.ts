import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { changeCopyState, readCopyState, readPieces } from '../../src/postgres/bootstrap/copy/copy-state.js';
import { Hold } from '../../src/postgres/hold.js';
import { measureLag } from '../../src/postgres/marker.js';
import { readRouteAndFlag } from '../../src/postgres/doctor/read-state.js';
import { lockOutWriters } from '../../src/postgres/promotion-hold.js';
import { readDecision } from '../../src/postgres/promotion-decision.js';
import { closeSession, openSession, withSession, type Databases } from '../../src/postgres/session.js';
import { FENCE_LOCK, readRoute } from '../../src/postgres/state.js';
import { joinDatabases } from '../support/join-databases.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { carryOut } from '../support/promotion-steps.js';
import { CopyPair } from '../postgres/copy-pair.js';

const MIGRATION = 'isolation-test';
const TABLE = { schema: 'public', name: 'account' };
const LEVELS = ['repeatable read', 'serializable'] as const;

/** What a database asks of every session that says nothing itself. */
function defaults(level: (typeof LEVELS)[number]): string {
  return `DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = %L', current_database(), '${level}');
    EXECUTE format('ALTER DATABASE %I SET default_transaction_deferrable = on', current_database());
  END $$;`;
}

async function untilSomebodyWaits(client: pg.Client): Promise<void> {
  const waiting = `SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                    WHERE NOT l.granted AND a.datname = current_database()`;
  await expect.poll(async () => (await client.query(waiting)).rowCount, { interval: 5 }).toBeGreaterThan(0);
}

describe.each(LEVELS)('where %s is the default of both databases', (level) => {
  let own: readonly TestDatabase[];
  let databases: Databases;

  beforeAll(async () => {
    const [blue, green] = [await testDatabase('pg15', 'isolation'), await testDatabase('pg18', 'isolation')];
    own = [green, blue];
    databases = { blue: asDatabase(blue, 'blue'), green: asDatabase(green, 'green') };
    for (const { config } of own) {
      await withClient(config, (client) =>
        client.query(`${defaults(level)} CREATE TABLE account (id int PRIMARY KEY)`),
      );
    }
    await joinDatabases(databases, MIGRATION, [TABLE]);
  });

  afterAll(async () => {
    for (const database of own) await database.drop();
  });

  it("sessions of ours are READ COMMITTED, and the application's are not", async () => {
    const ask = 'SHOW transaction_isolation';
    for (const side of ['blue', 'green'] as const) {
      const ours = await withSession(databases[side], { purpose: 'test' }, (session) => session.query(ask));
      expect(ours.rows).toEqual([{ transaction_isolation: 'read committed' }]);
      const theirs = await withClient(databases[side].config, (client) => client.query(ask));
      expect(theirs.rows).toEqual([{ transaction_isolation: level }]);
    }
  });

  it('whoever waits for the lock of the fence sees what was decided meanwhile', async () => {
    const promotion = {
      ...{ databases, migration: MIGRATION, from: 'blue' as const, fenced: [], knownTables: [] },
      ...{ maxHoldMs: 5_000, lockTimeoutMs: 5_000, sequenceGap: 0, feedBack: false },
    };
    const epoch = (await withSession(databases.blue, { purpose: 'test' }, (s) => readRoute(s, MIGRATION)))?.epoch ?? 0;
    // As a decision that nobody has told us of; the route is put back below.
    const decided = `UPDATE verdigris.route SET writes_on = 'green', epoch = epoch + 1`;
    const waits = [
      await openSession(databases.blue, { purpose: 'a' }),
      await openSession(databases.blue, { purpose: 'b' }),
    ];
    try {
      await withClient(databases.blue.config, async (other) => {
        await other.query(`BEGIN; SELECT pg_advisory_xact_lock(${FENCE_LOCK}); ${decided}`);
        const [main, doctor] = waits as [pg.Client, pg.Client];
        const hold = lockOutWriters(main, promotion, new Hold(5_000), epoch);
        const seen = readRouteAndFlag(doctor, MIGRATION);
        hold.catch(() => undefined);
        await untilSomebodyWaits(other);
        await other.query('COMMIT');
        await expect(hold).rejects.toThrow('another worker has decided it meanwhile');
        await main.query('ROLLBACK');
        expect((await seen).route).toMatchObject({ writesOn: 'green', epoch: epoch + 1 });
        await other.query(`UPDATE verdigris.route SET writes_on = 'blue', epoch = ${epoch}`);
      });
    } finally {
      await Promise.all(waits.map(closeSession));
    }
  });

  it('writes move to green and back, and arrive', async () => {
    for (const [from, to] of [
      ['blue', 'green'],
      ['green', 'blue'],
    ] as const) {
      const move = { databases, migration: MIGRATION, from, tables: [TABLE], maxHoldMs: 2_000 };
      await carryOut('promote', move);
      await carryOut('finish', move);
      const { decided } = await withSession(databases[from], { purpose: 'test' }, (session) =>
        readDecision(session, MIGRATION, from),
      );
      expect(decided).toBe(true);
      await withClient(databases[to].config, (client) =>
        client.query('INSERT INTO account SELECT coalesce(max(id), 0) + 1 FROM account'),
      );
      await withSession(databases[to], { purpose: 'test' }, (source) =>
        withSession(databases[from], { purpose: 'test' }, async (target) => {
          expect(await measureLag(source, target, `to_${from}`, 20_000)).toBeLessThan(20_000);
          const counted = await target.query('SELECT count(*)::int AS n FROM public.account');
          expect(counted.rows).toEqual([{ n: to === 'green' ? 1 : 2 }]);
        }),
      );
    }
  });
});

describe.each(LEVELS)('a copy between databases whose default is %s', (level) => {
  const KEYS = `ALTER TABLE big ADD PRIMARY KEY (id); ALTER TABLE small ADD PRIMARY KEY (id);`;
  let pair: CopyPair;

  beforeAll(async () => {
    pair = await CopyPair.start(
      ['pg15', 'pg18'],
      'copy_isolation',
      `${defaults(level)} CREATE TABLE big (id int, body text, n int DEFAULT 0); CREATE TABLE small (id int);`,
      `INSERT INTO big SELECT n, repeat(md5(n::text), 58) FROM generate_series(1, 22000) n;
       INSERT INTO small SELECT generate_series(1, 100); ${KEYS}`,
      [{ addColumn: { table: 'big', column: 'twice', type: 'int', up: 'n * 2' } }],
    );
  });

  afterAll(() => pair.stop());

  it('whoever closes it sees the piece that was copied while it waited', async () => {
    const { runId } = pair.run;
    await pair.planCopy();
    const { signal } = new AbortController();
    const copying = await openSession(pair.greenDatabase, { purpose: 'test' });
    try {
      await copying.query('BEGIN');
      await readCopyState(copying, runId, 'FOR SHARE');
      await copying.query(
        `INSERT INTO verdigris.progress (run_id, step, object, done) VALUES ($1, 'copy piece', 'test', true)`,
        [runId],
      );
      let seen: string[] = [];
      const changed = changeCopyState(
        pair.ourGreen,
        runId,
        async () => {
          seen = [...(await readPieces(pair.ourGreen, runId)).keys()];
          return undefined;
        },
        { signal, report: () => undefined },
      );
      await untilSomebodyWaits(pair.green);
      await copying.query('COMMIT');
      await changed;
      expect(seen).toEqual(['test']);
      await copying.query(`DELETE FROM verdigris.progress WHERE step = 'copy piece'`);
    } finally {
      await closeSession(copying);
    }
  });

  it('copies every table whole, several parcels at once, and green follows', async () => {
    const parcels = await pair.planCopy();
    pair.hold();
    await pair.phase('ready');
    await pair.copyAll(parcels);
    expect(await pair.finish()).toEqual({ tables: 2, left: [] });
    await pair.addKeys(KEYS);
    await pair.blue.query('UPDATE big SET n = n + 1 WHERE id <= 100; INSERT INTO small VALUES (5000)');
    await pair.follow();
    await pair.caughtUp();
    expect(await pair.differences()).toEqual([]);
  });
});
