import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { watchSchemaActivities, type SchemaNews } from '../../activities/watch-schema.js';
import { planSchema } from '../../src/plan/schema.js';
import { armFence, dropFence } from '../../src/postgres/fence.js';
import { judgeCounts } from '../../src/postgres/ddl/attached-rows.js';
import { dropDdlTriggers, installDdlTriggers } from '../../src/postgres/ddl/event-trigger.js';
import {
  acceptSchema,
  beginSchemaWatch,
  lookAtSchema,
  takeOverFollowing,
  takeOverServing,
  type Watched,
} from '../../src/postgres/ddl/schema-watch.js';
import { readCatalogSignature } from '../../src/postgres/ddl/table-facts.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { closeSession, openSession, withSession, type Databases, type Session } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { testedVersion } from '../support/tested-version.js';

const SCHEMA = `
  CREATE SCHEMA shop; CREATE SCHEMA audit;
  CREATE TYPE shop.state AS ENUM ('new', 'paid');
  CREATE TYPE shop.unit AS ENUM ('kg', 't');
  CREATE TYPE shop.weight AS (amount numeric, unit shop.unit);
  CREATE DOMAIN shop.weights AS shop.weight[];
  CREATE TYPE shop.grade AS ENUM ('a', 'b');
  CREATE TYPE shop.grades AS RANGE (subtype = shop.grade);
  CREATE TABLE shop.orders (id int PRIMARY KEY, state shop.state NOT NULL, note varchar(20) DEFAULT 'x', total int, amount int,
    weights shop.weights, grades shop.grades[]);
  CREATE INDEX orders_total ON shop.orders (total);
  CREATE TABLE shop.lines (id int PRIMARY KEY, order_id int REFERENCES shop.orders);
  CREATE TABLE shop.log (at date NOT NULL, what text) PARTITION BY RANGE (at);
  CREATE TABLE shop.log_1 PARTITION OF shop.log FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
  CREATE TABLE audit.trail (id int PRIMARY KEY);
  CREATE MATERIALIZED VIEW shop.sums AS SELECT sum(total) FROM shop.orders`;

const PATTERNS = { include: ['*.*'], exclude: ['audit.*'] };

/** DDL, what is said about it, and what takes it back. */
const CHANGES: readonly [ddl: string, said: RegExp, undo?: string][] = [
  [
    'ALTER TABLE shop.orders ADD COLUMN extra text',
    /shop\.orders: column extra is new \(text\)/,
    'ALTER TABLE shop.orders DROP COLUMN extra',
  ],
  [
    'ALTER TABLE shop.orders ALTER COLUMN amount TYPE bigint',
    /column amount was \(integer\), is \(bigint\)/,
    'ALTER TABLE shop.orders ALTER COLUMN amount TYPE int',
  ],
  [
    "ALTER TABLE shop.orders ALTER COLUMN note SET DEFAULT 'y'",
    /default note was/,
    "ALTER TABLE shop.orders ALTER COLUMN note SET DEFAULT 'x'",
  ],
  [
    'ALTER TABLE shop.orders ALTER COLUMN total SET NOT NULL',
    /column total is now NOT NULL/,
    'ALTER TABLE shop.orders ALTER COLUMN total DROP NOT NULL',
  ],
  [
    'ALTER TABLE shop.orders ADD CONSTRAINT sane CHECK (total > 0)',
    /constraint sane is new/,
    'ALTER TABLE shop.orders DROP CONSTRAINT sane',
  ],
  ['CREATE UNIQUE INDEX orders_note ON shop.orders (note)', /index orders_note is new/, 'DROP INDEX shop.orders_note'],
  ['CREATE TABLE shop.coupons (id int PRIMARY KEY)', /table shop\.coupons is new/, 'DROP TABLE shop.coupons'],
  [
    "CREATE TABLE shop.log_2 PARTITION OF shop.log FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')",
    /table shop\.log_2 is new/,
    'DROP TABLE shop.log_2',
  ],
  [
    'ALTER TABLE shop.orders REPLICA IDENTITY FULL',
    /replica identity was \(default\), is \(full\)/,
    'ALTER TABLE shop.orders REPLICA IDENTITY DEFAULT',
  ],
  [
    'ALTER TABLE shop.lines RENAME TO items',
    /table shop\.items is new; table shop\.lines is gone/,
    'ALTER TABLE shop.items RENAME TO lines',
  ],
  [
    'ALTER TABLE shop.orders DROP COLUMN amount; ALTER TABLE shop.orders ADD COLUMN amount int',
    /column amount was dropped and made anew/,
  ],
  [
    "ALTER TYPE shop.state ADD VALUE 'sent'",
    /type shop\.state of a column was \('new', 'paid'\), is \('new', 'paid', 'sent'\)/,
  ],
  ["ALTER TYPE shop.unit ADD VALUE 'g'", /type shop\.unit of a column was \('kg', 't'\), is \('kg', 't', 'g'\)/],
  ["ALTER TYPE shop.grade ADD VALUE 'c'", /type shop\.grade of a column was \('a', 'b'\), is \('a', 'b', 'c'\)/],
  [
    'DROP TABLE shop.lines; CREATE TABLE shop.lines (id int PRIMARY KEY, order_id int REFERENCES shop.orders)',
    /table shop\.lines was dropped and made anew/,
  ],
];

describe.each([testedVersion('pg15')])('DDL on %s', (server) => {
  let database: TestDatabase;
  let other: TestDatabase;
  let databases: Databases;
  let session: Session;
  let green: Session;
  let watched: Watched;
  const runId = 'ddl';

  beforeAll(async () => {
    [database, other] = [await testDatabase(server, 'ddl b'), await testDatabase(server, 'ddl g')];
    databases = { blue: asDatabase(database, 'blue'), green: asDatabase(other, 'green') };
    for (const one of [database, other]) await withClient(one.config, (client) => client.query(SCHEMA));
    await claimDatabases(databases, { runId, migration: 'ddl' }, 'flag');
    session = await openSession(databases.blue, { purpose: 'schema watch' });
    green = await openSession(databases.green, { purpose: 'schema watch' });
    watched = { session, side: 'blue', runId, patterns: PATTERNS };
    expect(await installDdlTriggers(session)).toBe(true);
    await beginSchemaWatch(watched);
  });

  afterAll(async () => {
    await Promise.all([session, green].map(closeSession));
    await other.drop();
    await database.drop();
  });

  const asApplication = (sql: string): Promise<unknown> =>
    withClient({ ...database.config, application_name: 'flyway' }, async (client) => {
      for (const statement of sql.split('; ')) await client.query(statement);
    });
  const what = async (): Promise<string | null> => (await lookAtSchema(watched)).what;
  const accept = () => acceptSchema(watched, green);

  it('is not what maintenance does, what the run does, or what is left out', async () => {
    await asApplication(
      `VACUUM (ANALYZE) shop.orders; VACUUM FULL shop.lines; ANALYZE; REINDEX INDEX CONCURRENTLY shop.orders_total; CLUSTER shop.orders USING orders_pkey; ` +
        `TRUNCATE shop.log; REFRESH MATERIALIZED VIEW shop.sums; GRANT SELECT ON shop.orders TO PUBLIC; COMMENT ON TABLE shop.orders IS 'x'; ` +
        `CREATE TEMP TABLE scratch (id serial PRIMARY KEY); DROP TABLE scratch; CREATE TABLE audit.more (id serial); CREATE UNLOGGED TABLE shop.cache (id int)`,
    );
    const quiet = await readCatalogSignature(session);
    await asApplication('VACUUM (ANALYZE) shop.orders; VACUUM; ANALYZE; CREATE TEMP TABLE scratch (id serial)');
    expect(await readCatalogSignature(session)).toBe(quiet);
    await armFence(session, [{ schema: 'shop', name: 'orders' }]);
    await session.query('CREATE PUBLICATION verdigris_ddl_to_green FOR TABLE shop.orders');
    expect(await what()).toBeNull();
    await dropFence(session);
    await session.query('DROP PUBLICATION verdigris_ddl_to_green');
    expect(await what()).toBeNull();
  });

  it('is told with what has changed and by whom; what was taken back is forgotten, what can harm is refused', async () => {
    for (const [ddl, said, undo] of CHANGES) {
      const before = await readCatalogSignature(session);
      await asApplication(ddl);
      expect(await readCatalogSignature(session), ddl).not.toBe(before);
      expect(await what(), ddl).toMatch(said);
      expect(await what(), ddl).toMatch(/by \w+, application "flyway"/);
      if (undo === undefined) continue;
      await asApplication(undo);
      expect((await lookAtSchema(watched)).differences, undo).toEqual([]);
      expect(await accept(), undo).toMatchObject({ refused: null });
    }
    const { refused } = await accept();
    expect(refused).toMatch(/table shop\.lines was dropped and made anew: its rows are not replicated any more/);
    expect(refused).toMatch(/column amount was dropped and made anew: its values are not those of green/);
    expect(refused).toMatch(/type shop\.state .*: green does not have that change/);
    expect(refused).toMatch(/type shop\.unit .*: green does not have that change/);
    expect(refused).toMatch(/type shop\.grade .*: green does not have that change/);
    await withSession(databases.blue, { purpose: 'test' }, (own) =>
      own.query(`DELETE FROM verdigris.progress WHERE step = 'schema baseline'`),
    );
    await beginSchemaWatch(watched);
    await withClient(other.config, (client) => client.query("ALTER TYPE shop.state ADD VALUE 'sent'"));
  });

  it('is accepted when it can harm neither feed, or was made on green as well', async () => {
    await asApplication('CREATE INDEX lines_order ON shop.lines (order_id); CREATE VIEW shop.v AS SELECT 1');
    expect(await what()).toMatch(/index lines_order is new.*; CREATE VIEW \(view shop\.v\)/);
    expect(await accept()).toMatchObject({ refused: null, accepted: expect.stringMatching(/lines_order/) as string });
    expect(await what()).toBeNull();

    await asApplication('ALTER TABLE shop.orders ADD COLUMN extra text NOT NULL DEFAULT 1');
    expect((await accept()).refused).toMatch(/column extra is new \(text\): green does not have that change/);
    await withClient(other.config, (client) => client.query('ALTER TABLE shop.orders ADD COLUMN extra text'));
    expect((await accept()).refused).toMatch(/column extra is now NOT NULL: green does not have that change/);
    await withClient(other.config, (client) => client.query('ALTER TABLE shop.orders ALTER COLUMN extra SET NOT NULL'));
    expect((await accept()).refused).toBeNull();

    await asApplication(
      "CREATE TABLE shop.log_2 PARTITION OF shop.log FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')",
    );
    expect((await accept()).refused).toMatch(/shop\.log_2 is new: it is not replicated/);
    await withClient(other.config, (client) =>
      client.query("CREATE TABLE shop.log_2 PARTITION OF shop.log FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')"),
    );
    expect((await accept()).refused).toBeNull();
    expect(await what()).toBeNull();
  });

  const onGreen = (sql: string): Promise<unknown> => withClient(other.config, (client) => client.query(sql));
  /** In place of a feed. @returns what ends it */
  const carryMarkers = (): (() => Promise<void>) => {
    const over = new AbortController();
    const carrying = (async () => {
      while (!over.signal.aborted) {
        const { rows } = await withClient(database.config, (client) =>
          client.query<{ all: string | null }>('SELECT json_agg(m)::text AS all FROM verdigris.marker_to_green m'),
        );
        const all = `'${rows[0]?.all ?? '[]'}'`;
        await onGreen(`
          DELETE FROM verdigris.marker_to_green;
          INSERT INTO verdigris.marker_to_green SELECT * FROM json_populate_recordset(NULL::verdigris.marker_to_green, ${all})`);
      }
    })();
    return async () => {
      over.abort();
      await carrying;
    };
  };
  const BOUNDS_3 = "FOR VALUES FROM ('2028-01-01') TO ('2029-01-01')";

  it('that attaches a partition with rows is refused while green lacks them, also where it was detached before', async () => {
    const resume = (markerMs = 5_000) => acceptSchema(watched, green, markerMs);
    const attach = `ALTER TABLE shop.log ATTACH PARTITION shop.log_3 ${BOUNDS_3}`;
    await asApplication(
      `CREATE TABLE shop.log_3 (LIKE shop.log); INSERT INTO shop.log_3 VALUES ('2028-02-01', 'x'); ${attach}`,
    );
    await asApplication("INSERT INTO shop.log VALUES ('2028-02-02', 'is replicated')");
    await onGreen(`CREATE TABLE shop.log_3 PARTITION OF shop.log ${BOUNDS_3}`);
    // As long as green does not follow, its rows are yet to come.
    expect((await lookAtSchema(watched)).what).toContain('log_3');
    await onGreen(`
      CREATE SUBSCRIPTION attached CONNECTION 'dbname=x' PUBLICATION none WITH (connect = false, slot_name = NONE);
      SET allow_system_table_mods = on;
      INSERT INTO pg_subscription_rel SELECT oid, 'shop.log'::regclass, 'r', '0/1' FROM pg_subscription WHERE subname = 'attached'`);
    const behind =
      /shop\.log_3 was attached, and .* can't be told while green is behind \(blue has 2, green 0\): resume again/;
    expect((await resume(50)).refused).toMatch(behind);
    const stop = carryMarkers();
    const { refused } = await resume();
    expect(refused).toMatch(
      /shop\.log_3 has rows from before it was attached.*\(blue has 2, green 0\): insert them on green/,
    );
    await onGreen("INSERT INTO shop.log VALUES ('2028-02-01', 'x')");
    expect((await resume()).refused).toMatch(/\(blue has 2, green 1\): insert them on green/);
    await onGreen("INSERT INTO shop.log VALUES ('2028-02-02', 'is replicated')");
    expect((await resume()).refused).toBeNull();

    // Nothing is another one afterwards.
    await asApplication(
      "ALTER TABLE shop.log DETACH PARTITION shop.log_3; INSERT INTO shop.log_3 VALUES ('2028-03-01', 'y')",
    );
    await asApplication(attach);
    expect((await lookAtSchema(watched)).differences).toEqual([]);
    expect((await resume()).refused).toMatch(/shop\.log_3 has rows from before it was attached/);
    await onGreen("INSERT INTO shop.log VALUES ('2028-03-01', 'y')");
    expect((await resume()).refused).toBeNull();
    // A table that green does not follow is left to the copy.
    await asApplication("INSERT INTO shop.log VALUES ('2028-03-02', 'z')");
    await asApplication(`ALTER TABLE shop.log DETACH PARTITION shop.log_3; ${attach}`);
    expect((await resume()).refused).toMatch(/\(blue has 4, green 3\)/);
    await onGreen(
      "SET allow_system_table_mods = on; UPDATE pg_subscription_rel SET srsubstate = 'd' WHERE srrelid = 'shop.log'::regclass",
    );
    expect((await resume()).refused).toBeNull();
    await stop();
    await onGreen("INSERT INTO shop.log VALUES ('2028-03-02', 'z'); DROP SUBSCRIPTION attached");
  });

  it('that attaches a partition says nothing of rows that are deleted while it is counted', () => {
    const judged = [
      [10, 10, 10],
      [10, 12, 14],
      [10, 7, 10],
      [10, 7, 8],
      [10, 7, 7],
      [10, 7, 5],
      [10, 0, 20],
    ] as const;
    expect(judged.map(([before, onGreen, after]) => judgeCounts(before, onGreen, after))).toEqual([
      'there',
      'there',
      'lacking',
      'lacking',
      'deleted',
      'deleted',
      'lacking',
    ]);
  });

  it('that detaches a partition on both sides is refused: it would not be replicated any more', async () => {
    const detach = 'ALTER TABLE shop.log DETACH PARTITION shop.log_3';
    await asApplication(detach);
    await onGreen(detach);
    expect((await accept()).refused).toMatch(/shop\.log_3: partition shop\.log is gone: it is not replicated any more/);
    for (const drop of [asApplication, onGreen]) await drop('DROP TABLE shop.log_3');
    expect((await accept()).refused).toBeNull();
    // In the old way each is a table by itself.
    for (const make of [asApplication, onGreen]) await make('CREATE TABLE shop.lines_old () INHERITS (shop.lines)');
    expect((await accept()).refused).toMatch(/shop\.lines_old is new: it is not replicated/);
    for (const drop of [asApplication, onGreen]) await drop('DROP TABLE shop.lines_old');
    expect((await accept()).refused).toBeNull();
  });

  it('that drops a unique index on blue is refused while green has it; one that renames it is not', async () => {
    const name = 'CREATE UNIQUE INDEX lines_once ON shop.lines (order_id)';
    await asApplication(name);
    await onGreen(name);
    expect((await accept()).refused).toBeNull();
    await asApplication('ALTER INDEX shop.lines_once RENAME TO lines_one');
    expect((await accept()).refused).toBeNull();
    await asApplication('ALTER INDEX shop.lines_one RENAME TO lines_once');
    expect((await accept()).refused).toBeNull();
    await asApplication('DROP INDEX shop.lines_once');
    expect((await accept()).refused).toMatch(/index lines_once is gone: green does not have that change/);
    await onGreen('DROP INDEX shop.lines_once');
    expect((await accept()).refused).toBeNull();
  });

  it('on a side that only follows is taken over with what it has lost there, whether or not that was made anew', async () => {
    await asApplication(
      'CREATE TABLE shop.archive (id int PRIMARY KEY); CREATE TABLE shop.rest (id int, a int, b int)',
    );
    expect(await takeOverFollowing(watched, 'made')).toEqual([]);
    await asApplication('ALTER TABLE shop.rest DROP COLUMN a; ALTER TABLE shop.rest ADD COLUMN c int');
    expect(await takeOverFollowing(watched, 'a column')).toEqual(['column shop.rest.a']);
    await asApplication('DROP TABLE shop.archive; CREATE TABLE shop.archive (id int PRIMARY KEY)');
    const dropped = ['column shop.rest.a', 'table shop.archive'];
    expect(await takeOverFollowing(watched, 'a table')).toEqual(dropped);
    expect(await what()).toBeNull();
    await asApplication('DROP TABLE shop.archive; DROP TABLE shop.rest');
    expect(await takeOverFollowing(watched, 'both')).toEqual([...dropped, 'table shop.rest']);
  });

  it('is taken over with the first twenty things that a rollback would lose, how many more there are, and a mark of those', async () => {
    const table = (n: number): string => `shop.made_${String(n).padStart(2, '0')}`;
    const numbers = Array.from({ length: 22 }, (_, n) => n);
    const first = numbers.slice(0, 20).map((n) => `table ${table(n)}`);
    const create = (n: number): string => `CREATE TABLE ${table(n)} (id int PRIMARY KEY)`;
    await asApplication(numbers.map(create).join('; '));
    const made = await takeOverServing(watched, 'made');
    expect(made).toEqual([...first, expect.stringMatching(/^and 2 more \(mark [\w-]{6}\)$/)]);
    expect(await takeOverServing(watched, 'nothing')).toEqual(made);
    // Whoever has accepted the loss of those has not accepted that of as many others.
    await asApplication(`DROP TABLE ${table(21)}; ${create(22)}`);
    const others = await takeOverServing(watched, 'another one');
    expect(others).toEqual([...first, expect.stringMatching(/^and 2 more /)]);
    expect(others).not.toEqual(made);
    await asApplication(`DROP TABLE ${[...numbers.slice(0, 21), 22].map(table).join(', ')}`);
    const dropped = await takeOverFollowing(watched, 'dropped');
    expect(dropped).toHaveLength(21);
    expect(dropped[20]).toMatch(/^and \d+ more \(mark/);
  });

  it('is told and accepted however much was noted before it, also of what is left out', async () => {
    const times = (n: number, ddl: string): Promise<unknown> =>
      asApplication(`DO $$ BEGIN FOR i IN 1..${n} LOOP\nEXECUTE format('${ddl}', i);\nEND LOOP;\nEND $$`);
    await times(250, 'CREATE VIEW shop.v_%s AS SELECT 1');
    expect(await what()).toMatch(/CREATE VIEW \(view shop\.v_1\).*; and 242 more/);
    expect((await accept()).refused).toBeNull();
    expect(await what()).toBeNull();

    await times(1_100, 'ALTER TABLE audit.trail ALTER id SET STATISTICS %s');
    expect(await what()).toBeNull();
    await asApplication("CREATE FUNCTION shop.f() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    expect(await what()).toMatch(/^blue's schema has changed: CREATE FUNCTION \(function shop\.f\(\)\) \(by/);

    const next = { ...watched, runId: 'next' };
    await beginSchemaWatch(next);
    expect((await lookAtSchema(next)).what).toBeNull();
    expect((await accept()).refused).toBeNull();
  });

  it('is told when its transaction ends, later than one whose DDL was noted after it', async () => {
    await withClient(database.config, async (client) => {
      await client.query('BEGIN; CREATE VIEW shop.late AS SELECT 1');
      await asApplication('CREATE VIEW shop.early AS SELECT 1');
      expect(await what()).toMatch(/view shop\.early/);
      expect((await accept()).refused).toBeNull();
      const quiet = await readCatalogSignature(session);
      expect(await what()).toBeNull();
      await client.query('COMMIT');
      expect(await readCatalogSignature(session)).not.toBe(quiet);
    });
    expect(await what()).toMatch(/: CREATE VIEW \(view shop\.late\) \(by/);
    expect((await accept()).refused).toBeNull();
    expect(await what()).toBeNull();
  });

  it('where the plan moves nothing does not hold the run: tables come and go, what green may need is told once', async () => {
    const tables = { include: ['shop.orders', 'shop.lines', 'shop.log'], exclude: [] };
    const narrow: Watched = { ...watched, runId: 'narrow', patterns: tables };
    const plan = planSchema.parse({ name: 'ddl', blue: { connection: 'b' }, green: { connection: 'g' }, tables });
    const environment = { VERDIGRIS_CONNECTION_B: database.uri, VERDIGRIS_CONNECTION_G: other.uri };
    const activities = watchSchemaActivities({ environment, redact: (text) => text });
    const noticed = (toldAside?: string): Promise<SchemaNews> =>
      new MockActivityEnvironment().run(() =>
        activities.watchSchema({ plan, runId: 'narrow' }, 'blue', undefined, toldAside),
      );
    await beginSchemaWatch(narrow);
    await asApplication(
      'CREATE TABLE shop.scratch (id serial, n int GENERATED ALWAYS AS IDENTITY); ALTER SEQUENCE shop.scratch_id_seq CACHE 5; ' +
        'CREATE TABLE audit."Staged" (id serial); CREATE TABLE audit.gone (id serial); DROP TABLE audit.gone; DROP TABLE shop.scratch',
    );
    expect(await lookAtSchema(narrow)).toEqual({ differences: [], what: null, aside: null });

    await asApplication('CREATE SCHEMA etl; CREATE VIEW etl.sums AS SELECT 1; CREATE SEQUENCE audit.alone');
    const { what: said, aside } = await noticed();
    expect(said).toBe(
      'DDL on blue where the plan moves nothing: CREATE SEQUENCE (sequence audit.alone); CREATE VIEW (view etl.sums); CREATE SCHEMA (schema etl)',
    );
    expect((await lookAtSchema(narrow)).what).toBeNull();
    const again = noticed(aside);
    await asApplication('DROP VIEW etl.sums; CREATE VIEW etl.sums AS SELECT 1');
    await asApplication('CREATE SEQUENCE shop.lines_no OWNED BY shop.lines.id');
    expect((await again).what).toMatch(
      /^blue's schema has changed: CREATE SEQUENCE \(sequence shop\.lines_no\).*DROP VIEW \(view etl\.sums\).* \(by/,
    );
    expect((await acceptSchema(narrow, green)).refused).toBeNull();
    await asApplication('DROP VIEW etl.sums');
    expect(await acceptSchema(narrow, green)).toEqual({
      refused: null,
      accepted: 'DDL on blue where the plan moves nothing: DROP VIEW (view etl.sums)',
    });
    expect(await lookAtSchema(narrow)).toEqual({ differences: [], what: null, aside: null });
    expect((await accept()).refused).toBeNull();
  });

  it('of a function that moved tables call holds the run, wherever the function is', async () => {
    const narrow: Watched = {
      ...watched,
      runId: 'called',
      patterns: { include: ['shop.orders'], exclude: [] },
    };
    await asApplication(
      `CREATE SCHEMA helper; CREATE FUNCTION helper."Touch"() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW;END'; 
       CREATE FUNCTION helper.next_no(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
       CREATE FUNCTION helper.unused() RETURNS int LANGUAGE sql AS 'SELECT 1';
       CREATE TRIGGER touch BEFORE UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION helper."Touch"();
       CREATE TRIGGER touch BEFORE UPDATE ON shop.lines FOR EACH ROW EXECUTE FUNCTION helper."Touch"();
       ALTER TABLE shop.orders ADD COLUMN no int DEFAULT helper.next_no(1)`,
    );
    await beginSchemaWatch(narrow);
    const news = async (): Promise<string | null> => (await lookAtSchema(narrow)).what;
    await asApplication(`CREATE OR REPLACE FUNCTION helper.unused() RETURNS int LANGUAGE sql AS 'SELECT 2'`);
    expect(await news()).toBeNull();
    await asApplication(
      `CREATE OR REPLACE FUNCTION helper."Touch"() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD;END'`,
    );
    expect(await news()).toMatch(/^blue's schema has changed: CREATE FUNCTION \(function helper\."Touch"\(\)\)/);
    await asApplication(`CREATE OR REPLACE FUNCTION helper.next_no(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1'`);
    expect(await news()).toMatch(/function helper\.next_no\((pg_catalog\.)?int(4|eger)\)/);
    await asApplication('ALTER TABLE shop.orders DROP COLUMN no; DROP SCHEMA helper CASCADE');
    expect((await accept()).refused).toBeNull();
  });

  it('never fails because of the event trigger, and is noticed without one', async () => {
    await asApplication('CREATE ROLE ddl_nobody_X'.replace('X', server)).catch(() => undefined);
    await asApplication(
      `GRANT CREATE, USAGE ON SCHEMA shop TO ddl_nobody_${server}; SET ROLE ddl_nobody_${server}; CREATE TABLE shop.theirs (id int); DROP TABLE shop.theirs`,
    );
    const { rows } = await session.query('SELECT FROM verdigris.ddl WHERE object = $1', ['shop.theirs']);
    expect(rows.length).toBeGreaterThan(0);
    await session.query('ALTER TABLE verdigris.ddl RENAME TO elsewhere');
    await asApplication('CREATE INDEX lines_id ON shop.lines (id, order_id)');
    await session.query('ALTER TABLE verdigris.elsewhere RENAME TO ddl');
    expect(await what()).toMatch(/index lines_id is new/);
    await dropDdlTriggers(session);
    await asApplication('DROP INDEX shop.lines_id; ALTER TABLE shop.lines ADD COLUMN more int');
    expect(await what()).toMatch(/column more is new/);
    const { rows: left } = await session.query('SELECT FROM pg_event_trigger');
    expect(left).toEqual([]);
    await asApplication(`DROP OWNED BY ddl_nobody_${server}; DROP ROLE ddl_nobody_${server}`);
  });

  it('is compared where the role may make no event trigger', async () => {
    await asApplication(
      `CREATE ROLE ddl_plain_${server} LOGIN PASSWORD 'x'; GRANT ALL ON SCHEMA verdigris TO ddl_plain_${server}; GRANT ALL ON ALL TABLES IN SCHEMA verdigris TO ddl_plain_${server}; GRANT ALL ON DATABASE ${JSON.stringify(database.config.database)} TO ddl_plain_${server}`,
    );
    try {
      await withClient(database.config, async (client) => {
        await client.query(`SET ROLE ddl_plain_${server}`);
        expect(await installDdlTriggers(client)).toBe(false);
      });
    } finally {
      await asApplication(`DROP OWNED BY ddl_plain_${server}; DROP ROLE ddl_plain_${server}`);
    }
  });
});
