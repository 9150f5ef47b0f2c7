import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compareFacts } from '../../src/postgres/ddl/compare-facts.js';
import { readTableFacts, type TableFacts } from '../../src/postgres/ddl/table-facts.js';
import { armFence, disarmFence, dropFence, isFenceOpen, TAKE_FENCE_LOCK } from '../../src/postgres/fence.js';
import { readFencedTables } from '../../src/postgres/fenced-tables.js';
import { ident } from '../../src/postgres/identifier.js';
import { refuseChangedSchema } from '../../src/postgres/prepare-promotion.js';
import { carriedPosition, gapAtItsRate, leastGap, positionWithGap } from '../../src/postgres/sequences.js';
import { closeSession, openSession, withSession, type Session } from '../../src/postgres/session.js';
import { FENCE_CLOSED, FENCE_OPEN, installState, readRoute } from '../../src/postgres/state.js';
import { otherSide, type Side } from '../../src/side.js';
import { AUDIT_TABLES } from '../support/audited-writers.js';
import { asDatabase, testDatabase, withClient } from '../support/postgres.js';
import { PromotionRig } from '../support/promotion-rig.js';
import { StatementProxy } from '../support/statement-proxy.js';
import { untilRow } from '../support/wait-for-row.js';

/*
 * Mistakes that fences, late workers and settings have made: see docs/mistakes.md. Each test fails when its rule is taken
 * out of the code (npm run test:mutations).
 */

const MIGRATION = 'mistakes-fence';
const FENCED = { code: '25006', constraint: 'verdigris_fence' };
const OVER = { code: 'VDEPO' };

describe('the fence', () => {
  let rig: PromotionRig;
  /** Rows that the audit does not count: accounts with nothing in them. */
  let account = 10_000;

  beforeAll(async () => {
    rig = await PromotionRig.create('mistakes fence');
    await rig.writers.pause();
  });

  afterAll(() => rig.close());

  const write = (client: pg.Client): Promise<unknown> =>
    client.query('INSERT INTO public.accounts VALUES ($1, 0)', [++account]);
  const routeOn = (side: Side) => rig.ours(side, (session) => readRoute(session, MIGRATION));
  const armed = (side: Side) =>
    rig.ours(side, async (session) => {
      const { rowCount } = await session.query(
        "SELECT FROM pg_trigger WHERE tgname = '_verdigris_fence' AND tgenabled = 'A'",
      );
      return rowCount;
    });
  /** What passes to a side while a session of ours works there. */
  const statementsOf = async (side: Side, work: (session: Session) => Promise<unknown>): Promise<string[]> => {
    const database = rig.databases[side];
    const seen: string[] = [];
    const proxy = await StatementProxy.start(Number(database.config.port), ({ text }) => void seen.push(text));
    const through = { ...database, config: { ...database.config, port: proxy.port } };
    await withSession(through, { purpose: 'test' }, work);
    await proxy.close();
    return seen;
  };

  it('green takes no write before the promotion, whoever connects', async () => {
    await rig.on('green', async (superuser) => {
      await expect(write(superuser)).rejects.toMatchObject(FENCED);
      await expect(superuser.query('TRUNCATE public.notes')).rejects.toMatchObject(FENCED);
    });
  });

  it('is swallowed by no function where the plan has writes refused as cancelled', async () => {
    const refuseWith = (code: '25006' | '57014'): Promise<void> =>
      rig.ours('green', (session) => installState(session, 'green', { refuseWith: code }));
    await rig.on('green', async (client) => {
      await client.query(`
        CREATE FUNCTION public.log_quietly() RETURNS void LANGUAGE plpgsql AS $fn$
        BEGIN INSERT INTO public.notes VALUES (gen_random_uuid()); EXCEPTION WHEN OTHERS THEN NULL; END $fn$`);
      await client.query('SELECT public.log_quietly()');
      await refuseWith('57014');
      try {
        const refused = { code: '57014', constraint: FENCED.constraint };
        await expect(client.query('SELECT public.log_quietly()')).rejects.toMatchObject(refused);
        await expect(write(client)).rejects.toMatchObject(refused);
      } finally {
        await refuseWith('25006');
        await client.query('DROP FUNCTION public.log_quietly()');
      }
      await expect(write(client)).rejects.toMatchObject(FENCED);
    });
  });

  it('is closed to each way to write, by the name of a partition and of its parent', async () => {
    await rig.on('green', async (client) => {
      await client.query(`
        CREATE TABLE public.parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE public.parted_low PARTITION OF public.parted FOR VALUES FROM (0) TO (10);
        CREATE TABLE public.parted_high PARTITION OF public.parted FOR VALUES FROM (10) TO (20);
        INSERT INTO public.parted VALUES (1), (11)`);
      const patterns = { include: ['public.*'], exclude: [] };
      await rig.ours('green', async (session) => armFence(session, await readFencedTables(session, patterns)));
      try {
        for (const table of ['public.parted', 'public.parted_low']) {
          for (const statement of [
            `INSERT INTO ${table} VALUES (2)`,
            `INSERT INTO ${table} VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 3`,
            `WITH made AS (INSERT INTO ${table} VALUES (2) RETURNING id) SELECT id FROM made`,
            `UPDATE ${table} SET id = 2 WHERE id = 1`,
            `UPDATE ${table} SET id = id`,
            `DELETE FROM ${table}`,
            `TRUNCATE ${table}`,
            `COPY ${table} FROM PROGRAM 'echo 2'`,
            `MERGE INTO ${table} t USING (VALUES (2)) v (id) ON t.id = v.id WHEN NOT MATCHED THEN INSERT VALUES (v.id)`,
          ]) {
            await expect(client.query(statement), statement).rejects.toMatchObject(FENCED);
          }
        }
        // Its row would go to another partition.
        await expect(client.query('UPDATE public.parted SET id = 12 WHERE id = 1')).rejects.toMatchObject(FENCED);
        expect((await client.query('SELECT id FROM public.parted ORDER BY id')).rows).toEqual([{ id: 1 }, { id: 11 }]);
      } finally {
        await client.query('DROP TABLE public.parted');
      }
    });
  });

  it('a role without any right in schema verdigris writes where writes are, and is refused where they are not', async () => {
    const role = `fence_role_${Math.random().toString(36).slice(2)}`;
    await rig.on('blue', async (client) => {
      await rig.ours('blue', (session) => armFence(session, rig.move('blue').tables));
      await client.query(`CREATE ROLE ${ident(role)}; GRANT ALL ON ALL TABLES IN SCHEMA public TO ${ident(role)}`);
      try {
        await client.query(`SET ROLE ${ident(role)}`);
        await write(client);
        await client.query('RESET ROLE');
        await client.query(`SELECT setval('verdigris.fence', ${FENCE_CLOSED})`);
        await client.query(`SET ROLE ${ident(role)}`);
        await expect(write(client)).rejects.toMatchObject(FENCED);
      } finally {
        await client.query('RESET ROLE');
        await client.query(`SELECT setval('verdigris.fence', ${FENCE_OPEN})`);
        await client.query(`DROP OWNED BY ${ident(role)}; DROP ROLE ${ident(role)}`);
      }
    });
  });

  it('a session in replica mode is stopped like any other', async () => {
    await rig.on('green', async (client) => {
      await client.query('SET session_replication_role = replica');
      await expect(write(client)).rejects.toMatchObject(FENCED);
      await expect(client.query('TRUNCATE public.notes')).rejects.toMatchObject(FENCED);
    });
  });

  it('lets in a TRUNCATE that comes by replication', async () => {
    const onGreen = (): Promise<number | null> =>
      rig.on('green', async (green) => (await green.query('SELECT FROM public.notes')).rowCount);
    await rig.on('blue', async (blue) => {
      await blue.query('CREATE TEMP TABLE kept AS TABLE public.notes');
      await blue.query('INSERT INTO public.notes VALUES (gen_random_uuid())');
      await expect.poll(onGreen, { timeout: 10_000 }).toBeGreaterThan(0);
      await blue.query('TRUNCATE public.notes');
      await expect.poll(onGreen, { timeout: 10_000 }).toBe(0);
      await blue.query('INSERT INTO public.notes TABLE kept');
    });
  });

  it('lets in what a trigger of the application writes for an applied row', async () => {
    const green = <T>(work: (client: pg.Client) => Promise<T>): Promise<T> => rig.on('green', work);
    await green((client) =>
      client.query(`
        CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$
          BEGIN UPDATE public.accounts SET balance = balance WHERE id = 1; RETURN NULL; END $$;
        CREATE TRIGGER touches AFTER INSERT ON public.notes FOR EACH ROW EXECUTE FUNCTION public.touch();
        ALTER TABLE public.notes ENABLE ALWAYS TRIGGER touches`),
    );
    const id = randomUUID();
    const onGreen = (): Promise<number | null> =>
      green(async (client) => (await client.query('SELECT FROM public.notes WHERE reference = $1', [id])).rowCount);
    try {
      await rig.on('blue', (blue) => blue.query('INSERT INTO public.notes VALUES ($1)', [id]));
      await expect.poll(onGreen, { timeout: 10_000 }).toBe(1);
    } finally {
      await green((client) => client.query('DROP FUNCTION public.touch() CASCADE'));
      await rig.on('blue', (blue) => blue.query('DELETE FROM public.notes WHERE reference = $1', [id]));
      await expect.poll(onGreen, { timeout: 10_000 }).toBe(0);
    }
  });

  it('a writer that waited for the lock sees the flag as it is then', async () => {
    await rig.ours('blue', (session) => armFence(session, rig.move('blue').tables));
    await rig.on('blue', (decides) =>
      rig.on('blue', async (waits) => {
        const { rows } = await waits.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
        await decides.query(`BEGIN; ${TAKE_FENCE_LOCK}`);
        const written = write(waits).then(
          () => 'written',
          (error: unknown) => error,
        );
        await untilRow(
          decides,
          `SELECT FROM pg_locks WHERE pid = ${rows[0]?.pid} AND locktype = 'advisory' AND NOT granted`,
        );
        await decides.query(`SELECT setval('verdigris.fence', ${FENCE_CLOSED})`);
        await decides.query('COMMIT');
        expect(await written).toMatchObject(FENCED);
        await decides.query(`SELECT setval('verdigris.fence', ${FENCE_OPEN})`);
      }),
    );
  });

  it('a transaction that began before the promotion is refused at every level of isolation', async () => {
    const from = rig.primary;
    const open = await Promise.all(
      ['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'].map(async (level) => {
        const client = new pg.Client(rig.databases[from].config);
        await client.connect();
        await client.query(`BEGIN ISOLATION LEVEL ${level}`);
        await client.query('SELECT count(*) FROM public.accounts');
        return client;
      }),
    );
    await rig.moveOn();
    for (const client of open) {
      await expect(write(client)).rejects.toMatchObject(FENCED);
      await client.end();
    }
  });

  it('a worker that comes late opens, closes and decides nothing', async () => {
    const primary = rig.primary;
    const other = otherSide(primary);
    const epoch = (await routeOn(primary))?.epoch ?? 0;
    await rig.ours(other, async (session) => {
      await expect(session.query('SELECT verdigris.open_fence($1, $2)', [MIGRATION, epoch - 1])).rejects.toMatchObject(
        OVER,
      );
      await expect(session.query('SELECT verdigris.close_fence($1, $2)', [MIGRATION, epoch - 1])).rejects.toMatchObject(
        OVER,
      );
      expect(await isFenceOpen(session)).toBe(false);
    });
    await rig.ours(primary, async (session) => {
      for (const late of [epoch - 1, epoch]) {
        await expect(session.query('SELECT verdigris.close_fence($1, $2)', [MIGRATION, late])).rejects.toMatchObject(
          OVER,
        );
      }
      for (const [late, to] of [
        [epoch - 1, other],
        [epoch, primary],
      ] as const) {
        await expect(session.query('SELECT verdigris.decide($1, $2, $3)', [MIGRATION, late, to])).rejects.toMatchObject(
          OVER,
        );
      }
      await expect(
        session.query('SELECT verdigris.set_green_read_percent($1, $2, 5)', [MIGRATION, epoch - 1]),
      ).rejects.toMatchObject(OVER);
      expect(await isFenceOpen(session)).toBe(true);
    });
    expect(await routeOn(primary)).toMatchObject({ epoch, writesOn: primary });
  });

  it('a worker that comes late arms and disarms nothing', async () => {
    const primary = rig.primary;
    const other = otherSide(primary);
    const epoch = (await routeOn(primary))?.epoch ?? 0;
    const late = { migration: MIGRATION, epoch: epoch - 1, writesOn: other };
    const stale = expect.objectContaining({ type: 'StaleEpoch' }) as unknown;
    expect([await armed(primary), await armed(other)]).toEqual([0, AUDIT_TABLES.length]);
    // It has finished an earlier promotion to the side that is fenced now.
    await rig.ours(other, (session) => expect(disarmFence(session, late)).rejects.toEqual(stale));
    await rig.ours(primary, (session) =>
      expect(armFence(session, rig.move(primary).tables, { guard: late })).rejects.toEqual(stale),
    );
    expect([await armed(primary), await armed(other)]).toEqual([0, AUDIT_TABLES.length]);
  });

  it.each(['before', 'after'] as const)(
    'a worker that freezes while it arms a table, %s a statement, keeps no writer waiting: it is one message',
    async (when) => {
      const side = rig.primary;
      await rig.ours(side, (session) => dropFence(session));
      const database = rig.databases[side];
      const proxy = await StatementProxy.start(Number(database.config.port));
      const through = { ...database, config: { ...database.config, port: proxy.port } };
      const frozen = proxy.stopWhere(({ text }) => text.includes('ENABLE ALWAYS TRIGGER'), when);
      const arming = withSession(through, { purpose: 'test' }, (session) => armFence(session, rig.move(side).tables));
      const held = await frozen;
      try {
        await rig.on(side, async (writer) => {
          await writer.query("SET statement_timeout = '1s'");
          for (const table of AUDIT_TABLES) {
            await writer.query(`DELETE FROM public.${table} WHERE false`);
          }
        });
      } finally {
        held.release();
        await arming;
        await proxy.close();
      }
      expect(await armed(side)).toBe(AUDIT_TABLES.length);
    },
  );

  it('a table costs one round trip to arm and one to disarm, and what is armed is told on the way', async () => {
    const side = rig.primary;
    const { tables } = rig.move(side);
    const guard = { migration: MIGRATION, epoch: (await routeOn(side))?.epoch ?? 0, writesOn: side };
    await rig.ours(side, (session) => dropFence(session));
    const told: [number, number][] = [];
    const arm = (): Promise<string[]> =>
      statementsOf(side, (session) =>
        armFence(session, tables, { guard, onArmed: (done, of) => void told.push([done, of]) }),
      );
    const arming = await arm();
    const onTable = (text: string): boolean => text.includes('"public".');
    expect(arming.filter(onTable)).toHaveLength(tables.length);
    // What is said whatever their number, session and all.
    expect(arming.filter((text) => !onTable(text)).length).toBeLessThan(10);
    expect(told).toEqual(tables.map((_, i) => [i + 1, tables.length]));
    expect((await arm()).filter(onTable)).toEqual([]);
    // Those for which there is no time are named by their number, and stay for another time.
    await rig.ours(side, async (session) => {
      const late = `${tables.length} tables have not had their turn`;
      expect(await disarmFence(session, guard, { restAfterMs: -1 })).toBe(late);
    });
    expect(await armed(side)).toBe(tables.length);
    const disarming = await statementsOf(side, (session) => disarmFence(session, guard));
    expect(disarming.filter(onTable)).toHaveLength(tables.length);
    expect(await armed(side)).toBe(0);
    expect((await arm()).filter(onTable)).toHaveLength(tables.length);
    expect(await armed(side)).toBe(tables.length);
  });

  it('every key that the old side has given out stays behind: also those of no table, rolled back, or descending', async () => {
    const ddl = `CREATE SEQUENCE public.alone; CREATE SEQUENCE public.down INCREMENT -2 MAXVALUE -1 START -1;
                 CREATE SEQUENCE public.never_called START 7`;
    for (const side of ['blue', 'green'] as const) await rig.on(side, (client) => client.query(ddl));
    const next = `SELECT nextval('public.alone')::int AS alone, nextval('public.down')::int AS down`;
    const taken = await rig.on(rig.primary, async (client) => {
      await client.query('BEGIN');
      for (let i = 0; i < 20; i++) await client.query(next);
      const { rows } = await client.query<{ alone: number; down: number }>(next);
      await client.query('ROLLBACK');
      return rows[0];
    });
    expect(taken).toEqual({ alone: 21, down: -41 });
    await rig.moveOn();
    const { rows } = await rig.on(rig.primary, (client) =>
      client.query<{ alone: number; down: number; never: number }>(
        `${next}, nextval('public.never_called')::int AS never`,
      ),
    );
    expect(rows[0]).toEqual({ alone: 1_022, down: -2_043, never: 1_007 });
  });

  it('a sequence that cycles goes on where the old side stands, not where a try before its last round has left it', async () => {
    for (const side of ['blue', 'green'] as const) {
      await rig.on(side, (client) => client.query('CREATE SEQUENCE public.round MAXVALUE 9999 CYCLE'));
      await rig.on(side, (client) => client.query("SELECT setval('public.round', 9500)"));
    }
    await rig.on(rig.primary, (client) => client.query("SELECT setval('public.round', 200)"));
    await rig.moveOn();
    const { rows } = await rig.on(rig.primary, (client) => client.query("SELECT nextval('public.round')::int AS next"));
    expect(rows).toEqual([{ next: 1_201 }]);
  });

  it('values that sessions of the old side take by the cache are not given out by the new side, nor after the way back', async () => {
    for (const side of ['blue', 'green'] as const) {
      await rig.on(side, (client) => client.query('CREATE SEQUENCE public.cached CACHE 2000'));
    }
    const takes = `SELECT nextval('public.cached')::int AS id FROM generate_series(1, 1500)`;
    const ids = async (client: pg.Client): Promise<number[]> =>
      (await client.query<{ id: number }>(takes)).rows.map(({ id }) => id);
    const taken: number[] = [];
    await rig.on(rig.primary, async (late) => {
      taken.push(...(await ids(late)));
      await rig.moveOn();
      // It has not heard of the move. What it takes anew comes from where its side stands.
      for (let i = 0; i < 2; i++) {
        taken.push(...(await ids(late)));
        await rig.on(rig.primary, async (client) => taken.push(...(await ids(client))));
      }
      await rig.moveOn();
      await rig.on(rig.primary, async (client) => taken.push(...(await ids(client))));
      taken.push(...(await ids(late)));
    });
    expect(new Set(taken).size).toBe(taken.length);
  });

  it('nothing was lost in all this', async () => {
    await rig.audit();
  });
});

it('a sequence without room for the gap goes on where it stands, within its bounds', () => {
  const name = { schema: 's', name: 'n' };
  const shape = { name, increment: 1n, min: 1n, max: 1_000n, cycles: false, cache: 1 };
  expect(positionWithGap(shape, { name, lastValue: 10n, isCalled: true }, 100).lastValue).toBe(110n);
  expect(positionWithGap(shape, { name, lastValue: 950n, isCalled: true }, 100).lastValue).toBe(950n);
  const down = { name, increment: -5n, min: -1_000n, max: -1n, cycles: false, cache: 1 };
  expect(positionWithGap(down, { name, lastValue: -10n, isCalled: true }, 100).lastValue).toBe(-510n);
  expect(positionWithGap(down, { name, lastValue: -900n, isCalled: true }, 100).lastValue).toBe(-900n);
});

it('a sequence that cycles goes where the old side stands, and on beyond its end', () => {
  const name = { schema: 's', name: 'n' };
  const at = (lastValue: bigint) => ({ name, lastValue, isCalled: true });
  const shape = { name, increment: 1n, min: 1n, max: 9_999n, cycles: true, cache: 1 };
  expect(positionWithGap(shape, at(9_500n), 1_000).lastValue).toBe(501n);
  expect(positionWithGap(shape, at(8_999n), 1_000).lastValue).toBe(9_999n);
  // Its circle is shorter than the gap.
  expect(positionWithGap({ ...shape, max: 100n }, at(50n), 1_000).lastValue).toBe(50n);
  const down = { name, increment: -5n, min: -1_000n, max: -1n, cycles: true, cache: 1 };
  expect(positionWithGap(down, at(-996n), 100).lastValue).toBe(-496n);
  // Green stands where a try has left it; blue has begun its next round since.
  expect(carriedPosition(shape, at(1_200n), at(9_500n))).toEqual(at(1_200n));
  expect(carriedPosition({ ...shape, cycles: false }, at(1_200n), at(9_500n))).toEqual(at(9_500n));
  expect(gapAtItsRate(shape, at(9_900n), at(101n), 100, 100)).toBe(100);
  expect(gapAtItsRate({ ...shape, max: 99_999n }, at(99_900n), at(101n), 100, 100)).toBe(10_000);
});

it('a sequence skips what is taken from it in five seconds, and what the plan says at least', () => {
  const name = { schema: 's', name: 'n' };
  const at = (lastValue: bigint) => ({ name, lastValue, isCalled: true });
  const shape = { name, increment: 1n, min: 1n, max: 1_000_000n, cycles: false, cache: 1 };
  expect(gapAtItsRate(shape, at(0n), at(800n), 100, 1_000)).toBe(40_000);
  expect(gapAtItsRate(shape, at(0n), at(10n), 100, 1_000)).toBe(1_000);
  expect(gapAtItsRate(shape, undefined, at(800n), 100, 1_000)).toBe(1_000);
  // Without room for it, the plan's gap.
  expect(gapAtItsRate(shape, at(990_000n), at(990_800n), 100, 1_000)).toBe(1_000);
  // Ten sessions may take as many at once; where there is no room for that, the plan's gap again.
  expect(leastGap(shape, at(5n), 1_000)).toBe(1_000);
  expect(leastGap({ ...shape, cache: 20 }, at(5n), 1_000)).toBe(1_000);
  expect(leastGap({ ...shape, cache: 5_000 }, at(5n), 1_000)).toBe(50_000);
  expect(leastGap({ ...shape, cache: 5_000 }, at(990_000n), 1_000)).toBe(1_000);
  const down = { name, increment: -5n, min: -1_000_000n, max: -1n, cycles: false, cache: 1 };
  expect(gapAtItsRate(down, at(-5n), at(-4_005n), 100, 1_000)).toBe(40_000);
});

describe('a database with settings of its own', () => {
  it.each([
    ['off', 'on'],
    ['local', 'on'],
    ['remote_write', 'remote_write'],
  ])(
    'synchronous_commit = %s: our sessions have %s, since a decision must survive a crash',
    async (setting, expected) => {
      const own = await testDatabase('pg15', 'commit default');
      try {
        await withClient(own.config, (client) =>
          client.query(`ALTER DATABASE ${ident(own.database)} SET synchronous_commit = ${setting}`),
        );
        const session = await openSession(asDatabase(own, 'blue'), { purpose: 'test' });
        const { rows } = await session.query<{ synchronous_commit: string }>('SHOW synchronous_commit');
        expect(rows[0]?.synchronous_commit).toBe(expected);
        await closeSession(session);
      } finally {
        await own.drop();
      }
    },
  );

  it('DDL on blue during the run is noticed, table by table', async () => {
    const own = await testDatabase('pg15', 'ddl on blue');
    try {
      await withSession(asDatabase(own, 'blue'), { purpose: 'test' }, async (session) => {
        const look = (): Promise<TableFacts> => readTableFacts(session, { include: ['public.*'], exclude: [] });
        const refuse = (before: TableFacts, now: TableFacts): void =>
          refuseChangedSchema({ differences: compareFacts(before, now) });
        await session.query(
          'CREATE TABLE public.kept (id int PRIMARY KEY, n int); CREATE TABLE public.other (id int PRIMARY KEY)',
        );
        for (const ddl of [
          'ALTER TABLE public.kept ADD extra text',
          'ALTER TABLE public.kept ALTER n TYPE bigint',
          'ALTER TABLE public.kept ALTER n SET NOT NULL',
          'ALTER TABLE public.kept RENAME n TO m',
          'ALTER TABLE public.kept REPLICA IDENTITY FULL',
        ]) {
          const before = await look();
          expect(() => refuse(before, before)).not.toThrow();
          await session.query(ddl);
          const now = await look();
          expect(() => refuse(before, now), ddl).toThrow(/has changed: public\.kept: /m);
        }
      });
    } finally {
      await own.drop();
    }
  });
});
