import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readTables } from '../../src/postgres/catalog.js';
import {
  beginSchemaWatch,
  lookAtSchema,
  readNewTables,
  rememberClosedGreen,
  takeOverServing,
  type Watched,
} from '../../src/postgres/ddl/schema-watch.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { unmovedOnGreen } from '../../src/postgres/unmoved-contents.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { testedVersion } from '../support/tested-version.js';
import { untilRow } from '../support/wait-for-row.js';

const SCHEMA = `
  CREATE SCHEMA shop; CREATE SCHEMA audit;
  CREATE TABLE shop.orders (id int PRIMARY KEY);
  CREATE TABLE shop.log (at date NOT NULL) PARTITION BY RANGE (at)`;
/** What a plan's SQL, or somebody by hand, has made on green before writes move. */
const ONLY_ON_GREEN = `
  CREATE TABLE shop.log_1 PARTITION OF shop.log FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
  CREATE TABLE shop.coupons (id int PRIMARY KEY, code text);
  CREATE TABLE shop.countries (code text PRIMARY KEY); INSERT INTO shop.countries VALUES ('at'), ('ch');
  CREATE TABLE shop.events (at date NOT NULL) PARTITION BY RANGE (at);
  CREATE TABLE shop.events_1 PARTITION OF shop.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
  CREATE TABLE shop.base (id int); CREATE TABLE shop.heir () INHERITS (shop.base);
  CREATE TABLE audit.trail (id int)`;

const PATTERNS = { include: ['*.*'], exclude: ['audit.*'] };

describe.each([testedVersion('pg15')])('tables that green alone has, on %s', (server) => {
  const runId = 'only on green';
  const migration = 'only_on_green';
  let sides: [blue: TestDatabase, green: TestDatabase];
  let green: Session;
  let watched: Watched;

  const onGreen = (sql: string): Promise<unknown> => withClient(sides[1].config, (client) => client.query(sql));
  const serves = (side: 'blue' | 'green'): Promise<unknown> =>
    onGreen(`UPDATE verdigris.route SET writes_on = '${side}'`);
  const remember = async (): Promise<void> => {
    const blue = await openSession(asDatabase(sides[0], 'blue'), { purpose: 'test' });
    await rememberClosedGreen(watched, migration, await readTables(blue, PATTERNS));
    await closeSession(blue);
  };
  const unmoved = (): Promise<string[]> => unmovedOnGreen(green, runId);

  beforeAll(async () => {
    sides = [await testDatabase(server, 'only on green b'), await testDatabase(server, 'only on green g')];
    for (const { config } of sides) await withClient(config, (client) => client.query(SCHEMA));
    const databases = { blue: asDatabase(sides[0], 'blue'), green: asDatabase(sides[1], 'green') };
    await claimDatabases(databases, { runId, migration }, 'flag');
    green = await openSession(databases.green, { purpose: 'schema watch' });
    watched = { session: green, side: 'green', runId, patterns: PATTERNS };
    await onGreen(ONLY_ON_GREEN);
  });

  afterAll(async () => {
    await closeSession(green);
    for (const database of [...sides].reverse()) await database.drop();
  });

  it('are in no account of a run that an earlier version has promoted', async () => {
    await onGreen(`INSERT INTO shop.coupons VALUES (1, 'early')`);
    expect(await unmoved()).toEqual([]);
  });

  it('have no way back once rows are written there, and not before: what was there when green was closed is no loss', async () => {
    // Other tests have transactions on this server: what is no older than the oldest of them counts as written.
    const areOver = `SELECT FROM shop.coupons WHERE age(xmin) > age(pg_snapshot_xmin(pg_current_snapshot())::xid)`;
    await withClient(sides[1].config, (client) => untilRow(client, areOver));
    await remember();
    await serves('green');
    expect(await unmoved()).toEqual([]);
    for (const sql of ['VACUUM FULL shop.countries', 'ANALYZE', 'INSERT INTO audit.trail VALUES (1)'])
      await onGreen(sql);
    await onGreen(`INSERT INTO shop.log VALUES ('2026-05-01'); DELETE FROM shop.countries WHERE code = 'ch'`);
    expect(await unmoved()).toEqual([]);

    await onGreen(`UPDATE shop.coupons SET code = 'used'`);
    expect(await unmoved()).toEqual(['the rows of shop.coupons, which blue does not have']);
    await onGreen(`INSERT INTO shop.events VALUES ('2026-05-01'); INSERT INTO shop.heir VALUES (1)`);
    expect(await unmoved()).toEqual(['the rows of shop.coupons, shop.events, shop.heir, which blue does not have']);
    // A queue is empty now and then: a loss is accepted as it was named.
    await onGreen('TRUNCATE shop.coupons; DROP TABLE shop.events');
    expect(await unmoved()).toEqual(['the rows of shop.coupons, shop.heir, which blue does not have']);
  });

  it('that are locked are looked at later, and keep nobody waiting for long', async () => {
    await withClient(sides[1].config, async (client) => {
      await client.query('BEGIN; LOCK TABLE shop.countries');
      const began = performance.now();
      await expect(unmoved()).rejects.toMatchObject({ code: '55P03' });
      expect(performance.now() - began).toBeLessThan(5_000);
      await client.query('ROLLBACK');
    });
    await onGreen(`INSERT INTO shop.countries VALUES ('fr')`);
    expect(await unmoved()).toEqual(['the rows of shop.countries, shop.coupons, shop.heir, which blue does not have']);
  });

  it('and were made before any watch has begun are noticed, also by the way back itself; a late worker hides none', async () => {
    await serves('blue');
    // A try that was given up: what was made behind it was there before writes moved.
    await onGreen('CREATE TABLE shop.between (id int)');
    await remember();
    expect((await lookAtSchema(watched)).what).toBeNull();
    await serves('green');
    await onGreen('CREATE TABLE shop.late (id int)');
    await remember();
    await beginSchemaWatch(watched);
    expect((await lookAtSchema(watched)).what).toMatch(/table shop\.late is new/);

    const untold = await readNewTables(watched);
    expect(untold).toEqual([{ schema: 'shop', name: 'late' }]);
    expect((await unmovedOnGreen(green, runId, { untold })).join()).not.toMatch(/late/);
    await onGreen('INSERT INTO shop.late VALUES (1); INSERT INTO shop.between VALUES (1)');
    expect((await unmovedOnGreen(green, runId, { untold })).join()).toMatch(/shop\.between, .*shop\.late/);

    // What a look has no time for is left to the next one; a way back, which has none, takes it for written.
    await onGreen('CREATE TABLE shop.idle (id int)');
    const later = { untold: [...untold, { schema: 'shop', name: 'idle' }], withinMs: -1 };
    expect((await unmovedOnGreen(green, runId, later)).join()).not.toMatch(/idle/);
    expect((await unmovedOnGreen(green, runId, { ...later, rest: 'count' })).join()).toMatch(/shop\.idle, /);
    await onGreen('DROP TABLE shop.idle');

    expect(await takeOverServing(watched, 'told')).toEqual(['table shop.late']);
    expect(await readNewTables(watched)).toEqual([]);
  });

  it('are told of however many transactions ago writes moved: the last look through all of them takes its place', async () => {
    const oldest = 'pg_snapshot_xmin(pg_current_snapshot())';
    const noteStates = `UPDATE verdigris.progress SET state = state || jsonb_build_object('since', (${oldest}::text::int8 - 3000000000)::text)
                         WHERE step = 'tables of green alone'`;
    const named = async (): Promise<string> => (await unmoved()).join();
    await serves('blue');
    await onGreen(
      'CREATE TABLE shop.stock (id int); INSERT INTO shop.stock VALUES (1); CREATE TABLE shop.quiet (id int)',
    );
    const areOver = `SELECT FROM shop.stock WHERE age(xmin) > age(${oldest}::xid)`;
    await withClient(sides[1].config, (client) => untilRow(client, areOver));
    await remember();
    await serves('green');
    await onGreen(noteStates);
    await onGreen(`INSERT INTO verdigris.progress (run_id, step, object, state, done)
      SELECT run_id, 'tables of green alone looked through', object, jsonb_build_object('since', state ->> 'since', 'upTo', ${oldest}::text), false
        FROM verdigris.progress WHERE step = 'tables of green alone'`);
    expect(await named()).not.toMatch(/stock|quiet/);
    await onGreen('INSERT INTO shop.quiet VALUES (1)');
    expect(await named()).toMatch(/shop\.quiet(?!.*stock)/);

    // Where no look is written down that is young enough, each row counts; that look is written down itself.
    await onGreen(`DELETE FROM verdigris.progress WHERE step = 'tables of green alone looked through'`);
    expect(await named()).toMatch(/shop\.stock/);
    await onGreen('CREATE TABLE shop.calm (id int)');
    await serves('blue');
    await remember();
    await serves('green');
    await onGreen(noteStates);
    expect(await named()).not.toMatch(/calm/);
    await onGreen('INSERT INTO shop.calm VALUES (1)');
    expect(await named()).toMatch(/shop\.calm/);
  });
});
