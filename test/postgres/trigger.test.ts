import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backfillTable } from '../../src/postgres/migrate/backfill.js';
import { expandTable } from '../../src/postgres/migrate/expand-table.js';
import { tablesWithTrigger } from '../../src/postgres/migrate/install-trigger.js';
import type { Work } from '../../src/postgres/migrate/plan-work.js';
import { dropTriggers } from '../../src/postgres/migrate/revert.js';
import { NO_LAG, ReplicatedPair, workOf } from './replicated-pair.js';

const ODD = 'Größe "x"';
const TEXT = '{"b":1,"a":2}';

const DDL = `
  CREATE TYPE mood AS ENUM ('calm', 'wild');
  CREATE FUNCTION shout(value text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper(value) || ''!''';
  CREATE DOMAIN level AS int DEFAULT 5;
  CREATE TABLE sized (id int, area int, body text, n int, PRIMARY KEY (area, id));
  CREATE TABLE transactions (id bigint PRIMARY KEY, payload text, found int, note text, n int NOT NULL DEFAULT 0);
  CREATE SCHEMA shop;
  CREATE TABLE shop."Order Items" (
    "select" int, "Größe ""x""" json, state text DEFAULT 'calm', PRIMARY KEY ("select"));
  CREATE TABLE event (id int, at date, body text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
  CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2026-07-01') PARTITION BY RANGE (at);
  CREATE TABLE event_1_1 PARTITION OF event_1 FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
  CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');`;

const ROWS = `
  INSERT INTO sized SELECT n, 1, repeat('x', 10 + n) FROM generate_series(1, 3) n;
  INSERT INTO transactions (id, payload, note) VALUES (1, '${TEXT}', 'old'), (2, 'not json', NULL);
  INSERT INTO shop."Order Items" VALUES (1, '{"a": 1}', 'wild');
  INSERT INTO event VALUES (1, '2026-02-01', 'x'), (2, '2026-08-01', 'y');`;

const MIGRATIONS = [
  {
    changeType: {
      table: 'transactions',
      column: 'payload',
      newColumn: 'payload_json',
      type: 'jsonb',
      up: 'verdigris.try_jsonb(payload) -- a comment',
      down: 'payload_json::text',
    },
  },
  // Reads a column that is new itself, and one whose name is a variable of PL/pgSQL.
  {
    addColumn: {
      table: 'transactions',
      column: 'size',
      type: 'int',
      up: `coalesce((transactions.payload_json ->> 'a')::int, 0) + coalesce(found, 0)`,
    },
  },
  { addColumn: { table: 'transactions', column: 'metadata', type: 'jsonb', up: `jsonb_build_object('legacy', true)` } },
  { addColumn: { table: 'transactions', column: 'version', type: 'integer', default: '1' } },
  { setNotNull: { table: 'transactions', column: 'note', up: `shout('none')` } },
  {
    addColumn: {
      table: 'shop."Order Items"',
      column: ODD.replace('x', 'y'),
      type: 'json',
      up: `"${ODD.replaceAll('"', '""')}"`,
      down: `"${ODD.replaceAll('"', '""')}" = "${ODD.replace('x', 'y').replaceAll('"', '""')}"`,
    },
  },
  {
    addColumn: {
      table: 'shop."Order Items"',
      column: 'mood',
      type: 'mood',
      up: 'state::mood',
      down: 'state = mood::text',
      default: `'calm'`,
    },
  },
  { addColumn: { table: 'sized', column: 'size', type: 'int', default: '0', up: 'length(body)' } },
  { addColumn: { table: 'sized', column: 'level', type: 'level', up: 'length(body) * 2' } },
  { addColumn: { table: 'event', column: 'loud', type: 'text', up: 'shout(body)' } },
];

describe.each([['pg15' as const], ['pg18' as const]])('up/down triggers, %s to 18', (server) => {
  let pair: ReplicatedPair;
  let work: Work;

  const green = async (sql: string): Promise<unknown> => (await pair.green.query<Record<string, unknown>>(sql)).rows[0];
  const blue = async (sql: string): Promise<unknown> => (await pair.blue.query<Record<string, unknown>>(sql)).rows[0];
  const writeOnBlue = async (sql: string): Promise<void> => {
    await pair.blue.query(sql);
    await pair.caughtUp();
  };

  beforeAll(async () => {
    pair = await ReplicatedPair.start(server, 'trigger', DDL, ROWS);
    work = await workOf(MIGRATIONS);
    for (const table of work.tables) await expandTable(pair.context(), table);
    for (const table of work.tables) await backfillTable(pair.context(), table, NO_LAG);
  });
  afterAll(() => pair.stop());

  it('rows that were there are filled, and their old columns are left as they were', async () => {
    expect(
      await green('SELECT payload, payload_json, size, metadata, version, note FROM transactions WHERE id = 1'),
    ).toEqual({
      payload: TEXT,
      payload_json: { a: 2, b: 1 },
      size: 2,
      metadata: { legacy: true },
      version: 1,
      note: 'old',
    });
    expect(await green('SELECT payload, payload_json, size, note FROM transactions WHERE id = 2')).toEqual({
      payload: 'not json',
      payload_json: null,
      size: 0,
      note: 'NONE!',
    });
    expect(await green('SELECT mood FROM shop."Order Items"')).toEqual({ mood: 'wild' });
    expect((await pair.green.query('SELECT loud FROM event ORDER BY id')).rows).toEqual([
      { loud: 'X!' },
      { loud: 'Y!' },
    ]);
  });

  it('rows that arrive from blue are complete', async () => {
    await writeOnBlue(`INSERT INTO transactions (id, payload, found) VALUES (3, '{"a":5}', 2);
                       INSERT INTO event VALUES (3, '2026-03-01', 'z')`);
    expect(
      await green('SELECT payload, payload_json, size, metadata, version, note FROM transactions WHERE id = 3'),
    ).toEqual({
      payload: '{"a":5}',
      payload_json: { a: 5 },
      size: 7,
      metadata: { legacy: true },
      version: 1,
      note: 'NONE!',
    });
    expect(await green('SELECT loud FROM event WHERE id = 3')).toEqual({ loud: 'Z!' });
  });

  it('an update from blue recomputes what reads a changed column, and only that', async () => {
    await pair.green.query(
      `BEGIN; SET LOCAL session_replication_role = replica; ALTER TABLE transactions DISABLE TRIGGER verdigris_up_down;
       UPDATE transactions SET metadata = '{"x": 1}', size = 99 WHERE id = 3;
       ALTER TABLE transactions ENABLE ALWAYS TRIGGER verdigris_up_down; COMMIT`,
    );
    await writeOnBlue('UPDATE transactions SET n = n + 1 WHERE id = 3');
    expect(await green('SELECT n, metadata, size FROM transactions WHERE id = 3')).toEqual({
      n: 1,
      metadata: { x: 1 },
      size: 99,
    });
    await writeOnBlue(`UPDATE transactions SET payload = '{"a":6}' WHERE id = 3`);
    expect(await green('SELECT payload_json, metadata, size FROM transactions WHERE id = 3')).toEqual({
      payload_json: { a: 6 },
      metadata: { x: 1 },
      size: 8,
    });
  });

  it('an update from blue that leaves a value out of line alone, and so does not send it, leaves what was computed from it', async () => {
    await writeOnBlue(`ALTER TABLE sized ALTER COLUMN body SET STORAGE EXTERNAL;
                       INSERT INTO sized VALUES (9, 1, repeat('x', 100000))`);
    // Something else than "up" says shows whether it is computed again.
    await pair.green.query(
      `BEGIN; SET LOCAL session_replication_role = replica; ALTER TABLE sized DISABLE TRIGGER verdigris_up_down;
       UPDATE sized SET level = 7 WHERE id = 9;
       ALTER TABLE sized ENABLE ALWAYS TRIGGER verdigris_up_down; COMMIT`,
    );
    await writeOnBlue('UPDATE sized SET n = 5 WHERE id = 9');
    expect(await green('SELECT n, size, level, length(body) AS body FROM sized WHERE id = 9')).toEqual({
      ...{ n: 5, size: 100_000, level: 7, body: 100_000 },
    });
    await writeOnBlue(`UPDATE sized SET body = body || 'x' WHERE id = 9`);
    expect(await green('SELECT size, level FROM sized WHERE id = 9')).toEqual({ size: 100_001, level: 200_002 });
    await writeOnBlue('DELETE FROM sized WHERE id = 9');
  });

  it('a row that was not backfilled when blue changed its key is completed', async () => {
    await pair.green.query(
      `BEGIN; SET LOCAL session_replication_role = replica; ALTER TABLE transactions DISABLE TRIGGER verdigris_up_down;
       UPDATE transactions SET payload_json = NULL, size = NULL WHERE id = 3;
       ALTER TABLE transactions ENABLE ALWAYS TRIGGER verdigris_up_down; COMMIT`,
    );
    await writeOnBlue('UPDATE transactions SET id = -3 WHERE id = 3');
    expect(await green('SELECT payload_json, size FROM transactions WHERE id = -3')).toEqual({
      payload_json: { a: 6 },
      size: 8,
    });
    await writeOnBlue('UPDATE transactions SET id = 3 WHERE id = -3');
  });

  it('so is one whose new columns have their defaults still, and what has another value stays', async () => {
    await pair.green.query(
      `BEGIN; SET LOCAL session_replication_role = replica; ALTER TABLE sized DISABLE TRIGGER verdigris_up_down;
       UPDATE sized SET size = 0, level = 5 WHERE id < 3; UPDATE sized SET size = 77, level = 77 WHERE id = 3;
       ALTER TABLE sized ENABLE ALWAYS TRIGGER verdigris_up_down; COMMIT`,
    );
    await writeOnBlue('UPDATE sized SET n = 1; UPDATE sized SET area = 0 WHERE id IN (1, 3)');
    expect((await pair.green.query('SELECT id, size, level FROM sized ORDER BY id')).rows).toEqual([
      { id: 1, size: 11, level: 22 },
      { id: 2, size: 0, level: 5 },
      { id: 3, size: 77, level: 77 },
    ]);
    await writeOnBlue('UPDATE sized SET id = 20 WHERE id = 2; UPDATE sized SET area = 1, id = 2 WHERE id = 20');
    expect(await green('SELECT size, level FROM sized WHERE id = 2')).toEqual({ size: 12, level: 24 });
  });

  it('a second expand takes no lock and changes nothing', async () => {
    await pair.green.query('BEGIN; LOCK TABLE transactions IN ROW EXCLUSIVE MODE');
    const results = [];
    for (const table of work.tables) results.push(await expandTable(pair.context(), table));
    await pair.green.query('COMMIT');
    expect(results.flatMap(({ added }) => added)).toEqual([]);
  });

  it('the trigger is always on, on every level of a partitioned table', async () => {
    const { rows } = await pair.green.query(
      `SELECT tgrelid::regclass::text AS name, tgenabled FROM pg_trigger WHERE tgname = 'verdigris_up_down' ORDER BY 1`,
    );
    expect(rows).toEqual(
      ['event', 'event_1', 'event_1_1', 'event_2', 'shop."Order Items"', 'sized', 'transactions'].map((name) => ({
        name,
        tgenabled: 'A',
      })),
    );
    await pair.green.query(`CREATE TABLE event_3 PARTITION OF event FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')`);
    expect(await green(`SELECT tgenabled FROM pg_trigger WHERE tgrelid = 'event_3'::regclass`)).toEqual({
      tgenabled: 'A',
    });
    await pair.green.query('DROP TABLE event_3');
  });

  describe('after the promotion', () => {
    beforeAll(() => pair.promoteGreen());

    it('a write of the new column is carried back to the old one, and to blue', async () => {
      await pair.green.query(`INSERT INTO transactions (id, payload_json) VALUES (10, '{"z": 1}');
                              UPDATE transactions SET payload_json = '{"b": 9}' WHERE id = 1`);
      expect(await green('SELECT payload, size FROM transactions WHERE id = 10')).toEqual({
        payload: '{"z": 1}',
        size: 0,
      });
      await pair.caughtUpOnBlue();
      expect(await blue('SELECT payload, note FROM transactions WHERE id = 10')).toEqual({
        payload: '{"z": 1}',
        note: 'NONE!',
      });
      expect(await blue('SELECT payload FROM transactions WHERE id = 1')).toEqual({ payload: '{"b": 9}' });
    });

    it('a write of the old column sets the new one, and the text stays as it was written', async () => {
      await pair.green.query(`INSERT INTO transactions (id, payload) VALUES (11, '${TEXT}')`);
      await pair.green.query(`UPDATE transactions SET payload = '{"b":2,"a":3}' WHERE id = 3`);
      expect(await green('SELECT payload, payload_json FROM transactions WHERE id = 11')).toEqual({
        payload: TEXT,
        payload_json: { a: 2, b: 1 },
      });
      expect(await green('SELECT payload, size FROM transactions WHERE id = 3')).toEqual({
        payload: '{"b":2,"a":3}',
        size: 5,
      });
      await pair.caughtUpOnBlue();
      expect(await blue('SELECT payload FROM transactions WHERE id = 11')).toEqual({ payload: TEXT });
    });

    it('a write of neither leaves both alone', async () => {
      await pair.green.query('UPDATE transactions SET n = 7 WHERE id = 11');
      expect(await green('SELECT payload, n FROM transactions WHERE id = 11')).toEqual({ payload: TEXT, n: 7 });
    });

    it('a row that moves into another partition keeps what the application has written in its new columns', async () => {
      const loud = (id: number): Promise<unknown> => green(`SELECT loud FROM event WHERE id = ${id}`);
      await pair.green.query(`UPDATE event SET at = '2026-08-02', loud = NULL WHERE id = 1`);
      expect(await loud(1)).toEqual({ loud: null });
      await pair.green.query(`UPDATE event SET at = '2026-02-02' WHERE id = 1`);
      expect(await loud(1)).toEqual({ loud: null });
      await pair.green.query(`UPDATE event SET at = '2026-08-02', body = 'w' WHERE id = 1`);
      expect(await loud(1)).toEqual({ loud: 'W!' });
      // What is inserted beside it, or anew, is computed.
      await pair.green.query(`
        BEGIN;
        UPDATE event SET at = '2026-02-02', loud = NULL WHERE id = 1;
        INSERT INTO event VALUES (70, '2026-02-02', 'q');
        UPDATE event SET at = '2026-02-03', loud = NULL WHERE id = 70;
        DELETE FROM event WHERE id = 70;
        INSERT INTO event VALUES (70, '2026-02-03', 'r');
        COMMIT`);
      expect([await loud(1), await loud(70)]).toEqual([{ loud: null }, { loud: 'R!' }]);
    });

    it('both written and in agreement: neither is rewritten; in disagreement the new column counts', async () => {
      await pair.green.query(`INSERT INTO transactions (id, payload, payload_json) VALUES (12, '${TEXT}', '${TEXT}')`);
      expect(await green('SELECT payload FROM transactions WHERE id = 12')).toEqual({ payload: TEXT });
      await pair.green.query(`UPDATE transactions SET payload = '{}', payload_json = '[1]' WHERE id = 12`);
      expect(await green('SELECT payload FROM transactions WHERE id = 12')).toEqual({ payload: '[1]' });
    });

    it('a default does not count as written, and a fill takes the place of NULL', async () => {
      await pair.green.query(`INSERT INTO shop."Order Items" ("select", state) VALUES (5, 'wild');
                              INSERT INTO shop."Order Items" ("select", mood) VALUES (6, 'wild');
                              UPDATE transactions SET note = NULL WHERE id = 12`);
      expect((await pair.green.query('SELECT state, mood FROM shop."Order Items" WHERE "select" > 4')).rows).toEqual([
        { state: 'wild', mood: 'wild' },
        { state: 'wild', mood: 'wild' },
      ]);
      expect(await green('SELECT note FROM transactions WHERE id = 12')).toEqual({ note: 'NONE!' });
    });

    it('types without equality and odd names work in both directions', async () => {
      const [old, now] = [ODD, ODD.replace('x', 'y')].map((name) => `"${name.replaceAll('"', '""')}"`);
      await pair.green.query(`UPDATE shop."Order Items" SET ${now ?? ''} = '{"down": 1}' WHERE "select" = 1`);
      await pair.green.query(`UPDATE shop."Order Items" SET ${old ?? ''} = '{"up": 1}' WHERE "select" = 5`);
      expect(await green(`SELECT ${old ?? ''}::text AS v FROM shop."Order Items" WHERE "select" = 1`)).toEqual({
        v: '{"down": 1}',
      });
      expect(await green(`SELECT ${now ?? ''}::text AS v FROM shop."Order Items" WHERE "select" = 5`)).toEqual({
        v: '{"up": 1}',
      });
    });

    it('an application with an own search_path and no right in schema verdigris can write', async () => {
      await pair.green.query(
        `CREATE ROLE app_${server}; GRANT ALL ON transactions TO app_${server}; SET ROLE app_${server}; SET search_path = ''`,
      );
      await pair.green.query(`INSERT INTO public.transactions (id, payload_json) VALUES (20, '{"a": 4}')`);
      await pair.green.query(`RESET ROLE; RESET search_path; DROP OWNED BY app_${server}; DROP ROLE app_${server}`);
      expect(await green('SELECT payload, size, note FROM transactions WHERE id = 20')).toEqual({
        payload: '{"a": 4}',
        size: 4,
        note: 'NONE!',
      });
    });

    it('at the end the triggers go and the columns stay', async () => {
      const dropped = await dropTriggers(pair.context());
      expect(dropped).toHaveLength(4);
      expect(await dropTriggers(pair.context())).toEqual([]);
      expect(await tablesWithTrigger(pair.ourGreen)).toEqual([]);
      expect(await green(`SELECT count(*)::int AS n FROM pg_proc WHERE proname LIKE 'up\\_down\\_%'`)).toEqual({
        n: 0,
      });
      expect(await green('SELECT payload_json FROM transactions WHERE id = 20')).toEqual({ payload_json: { a: 4 } });
    });
  });
});

describe('an expression that can not work', () => {
  let pair: ReplicatedPair;
  beforeAll(async () => {
    pair = await ReplicatedPair.start(
      'pg18',
      'trigger_bad',
      'CREATE TABLE t (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED)',
    );
  });
  afterAll(() => pair.stop());

  it.each([
    [
      { table: 't', column: 'b', type: 'int', up: 'nothing + 1' },
      /up of column "b" of table public\.t is refused.*"nothing"/s,
    ],
    [{ table: 't', column: 'b', type: 'int', up: 'now()' }, /is of type integer but expression is of type timestamp/],
    [{ table: 't', column: 'b', type: 'int', up: 'g' }, /reads the generated column "g"/],
    [{ table: 't', column: 'b', type: 'nonsense' }, /type "nonsense" does not exist/],
    [{ table: 't', column: 'a', type: 'text' }, /has a column "a" already, of type integer and not text/],
  ])('is refused before anything is changed', async (addColumn, message) => {
    const { tables } = await workOf([{ addColumn }]);
    for (const table of tables) await expect(expandTable(pair.context(), table)).rejects.toThrow(message);
    expect(
      (await pair.green.query(`SELECT attname FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'b'`))
        .rows,
    ).toEqual([]);
    expect(await tablesWithTrigger(pair.ourGreen)).toEqual([]);
  });
});

describe('a column that is filled by a later step than the one that computes another from it', () => {
  let pair: ReplicatedPair;
  beforeAll(async () => {
    pair = await ReplicatedPair.start(
      'pg18',
      'trigger_filled',
      'CREATE TABLE notes (id int PRIMARY KEY, payload text, n int)',
      `INSERT INTO notes VALUES (1, '{"a": 1}'), (2, NULL)`,
    );
  });
  afterAll(() => pair.stop());

  it('has its value for NULL in both columns, whoever writes', async () => {
    const work = await workOf([
      {
        changeType: {
          ...{ table: 'notes', column: 'payload', newColumn: 'payload_json', type: 'jsonb' },
          ...{ up: 'verdigris.try_jsonb(payload)', down: 'payload_json::text', notNull: true },
        },
      },
      { setNotNull: { table: 'notes', column: 'payload', up: `coalesce(payload, '{}')` } },
    ]);
    for (const table of work.tables) await expandTable(pair.context(), table);
    for (const table of work.tables) await backfillTable(pair.context(), table, NO_LAG);
    await pair.blue.query('INSERT INTO notes VALUES (3, NULL); UPDATE notes SET n = 1 WHERE id = 2');
    await pair.caughtUp();
    expect(await pair.verify({ pass: 'filled', tables: ['notes'], work })).toMatchObject({ differing: [] });
    await pair.promoteGreen();
    await pair.green.query(`INSERT INTO notes VALUES (4, NULL); UPDATE notes SET payload = NULL WHERE id = 1`);
    const { rows } = await pair.green.query('SELECT payload, payload_json FROM notes');
    expect(rows).toEqual(Array.from({ length: 4 }, () => ({ payload: '{}', payload_json: {} })));
  });
});

describe('a database that writes values in another form than our sessions', () => {
  const SETTINGS = {
    IntervalStyle: 'iso_8601',
    bytea_output: 'escape',
    extra_float_digits: '0',
    DateStyle: 'German',
    TimeZone: 'Asia/Kolkata',
    standard_conforming_strings: 'off',
  };
  const SAID = '1 day 02:00:00 \\x00ff41 0.30000000000000004 2026-01-02 03:04:05+00 \\d';
  const row = (id: number): string =>
    `INSERT INTO forms VALUES (${id}, '1 day 2 hours', E'\\\\x00ff41', 0.1::float8 + 0.2, '2026-01-02 03:04:05+00')`;
  let pair: ReplicatedPair;
  let work: Work;

  beforeAll(async () => {
    const set = Object.entries(SETTINGS).map(
      ([name, value]) => `EXECUTE format('ALTER DATABASE %I SET ${name} = %L', current_database(), '${value}');`,
    );
    // Before green's apply worker begins, which has the settings of its database.
    pair = await ReplicatedPair.start(
      'pg15',
      'trigger_forms',
      'CREATE TABLE forms (id int PRIMARY KEY, lasts interval, raw bytea, ratio float8, at timestamptz)',
      row(1),
      { blue: '', green: `DO $$ BEGIN ${set.join(' ')} END $$` },
    );
    const up = `format('%s %s %s %s \\d', lasts, raw, ratio, at)`;
    work = await workOf([{ addColumn: { table: 'forms', column: 'said', type: 'text', up } }]);
    for (const table of work.tables) await expandTable(pair.context(), table);
    for (const table of work.tables) await backfillTable(pair.context(), table, NO_LAG);
  });
  afterAll(() => pair.stop());

  it('has the same derived values by the backfill, by the feed and by the application, and they are verified', async () => {
    await pair.blue.query(row(2));
    await pair.caughtUp();
    const verified = await pair.verify({ pass: 'forms', tables: ['forms'], work });
    expect(verified).toMatchObject({ derivedChecked: 2, differing: [] });
    const application = new pg.Client(pair.greenDatabase.config);
    await application.connect();
    try {
      await application.query(row(3));
      expect((await application.query('SELECT lasts::text FROM forms')).rows[0]).toEqual({ lasts: 'P1DT2H' });
    } finally {
      await application.end();
    }
    const { rows } = await pair.green.query('SELECT said FROM forms ORDER BY id');
    expect(rows).toEqual([{ said: SAID }, { said: SAID }, { said: SAID }]);
  });

  it('has the settings of our sessions in the function of the trigger; one that lacks them is made anew', async () => {
    const fixed = async (): Promise<{ version: string; name: string; settings: string[] } | undefined> =>
      (
        await pair.ourGreen.query<{ version: string; name: string; settings: string[] }>(
          `SELECT xmin::text AS version, proname AS name,
                  ARRAY(SELECT c FROM unnest(proconfig) c WHERE c = split_part(c, '=', 1) || '=' || current_setting(split_part(c, '=', 1))
                         ORDER BY c COLLATE "C") AS settings
             FROM pg_proc WHERE proname ~ '^up_down_'`,
        )
      ).rows[0];
    const expand = async (): Promise<void> => {
      for (const table of work.tables) await expandTable(pair.context(), table);
    };
    const before = await fixed();
    const all = ['DateStyle=ISO, YMD', 'IntervalStyle=postgres', 'TimeZone=UTC', 'bytea_output=hex'];
    expect(before?.settings).toEqual([...all, 'extra_float_digits=1', 'standard_conforming_strings=on']);
    await expand();
    expect(await fixed()).toEqual(before);
    await pair.green.query(`ALTER FUNCTION verdigris.${before?.name ?? ''}() RESET IntervalStyle`);
    await expand();
    expect((await fixed())?.settings).toEqual(before?.settings);
  });
});

describe('tables with unusual columns', () => {
  let pair: ReplicatedPair;
  beforeAll(async () => {
    pair = await ReplicatedPair.start(
      'pg18',
      'trigger_kinds',
      `CREATE DOMAIN positive AS int CHECK (VALUE > 0);
       CREATE TYPE mood AS ENUM ('calm', 'wild');
       CREATE TABLE kinds (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount positive, moods mood[], gone int,
                           twice int GENERATED ALWAYS AS ("new" * 2) VIRTUAL, thrice int GENERATED ALWAYS AS (amount * 3) STORED, "new" int, "old" point);
       ALTER TABLE kinds DROP COLUMN gone;
       CREATE TABLE dated (id int, at date, region text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
       CREATE TABLE dated_1 PARTITION OF dated FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
       CREATE TABLE dated_2 PARTITION OF dated FOR VALUES FROM ('2026-07-01') TO ('2027-01-01')`,
      `INSERT INTO kinds (amount, moods, "new") VALUES (1, '{calm}', 5)`,
    );
  });
  afterAll(() => pair.stop());

  it('identity, domain, enum, array, generated and dropped columns, and columns named like NEW and OLD', async () => {
    const { tables } = await workOf([
      {
        addColumn: {
          table: 'kinds',
          column: 'amount_2',
          type: 'positive',
          up: 'amount + 1',
          down: 'amount = amount_2 - 1',
        },
      },
      { addColumn: { table: 'kinds', column: 'mood', type: 'mood', up: 'moods[1]', down: 'moods = ARRAY[mood]' } },
      { addColumn: { table: 'kinds', column: 'next', type: 'int', up: '"new" + 1', down: '"new" = next - 1' } },
      { addColumn: { table: 'kinds', column: 'place', type: 'text', up: '"old"::text', down: '"old" = place::point' } },
    ]);
    for (const table of tables) await expandTable(pair.context(), table);
    for (const table of tables) await backfillTable(pair.context(), table, NO_LAG);
    await pair.blue.query(`INSERT INTO kinds (amount, moods, "new", "old") VALUES (3, '{wild}', 7, '(1,2)')`);
    await pair.promoteGreen();
    await pair.green
      .query(`SELECT setval('kinds_id_seq', 10); INSERT INTO kinds (amount_2, mood, next, place) VALUES (10, 'wild', 4, '(3,4)');
                            UPDATE kinds SET place = '(5,6)', mood = 'calm' WHERE id = 2`);
    const { rows } = await pair.green.query(
      'SELECT amount, amount_2, moods::text, mood, "new", next, "old"::text, place, twice, thrice FROM kinds ORDER BY id',
    );
    expect(rows).toEqual([
      {
        amount: 1,
        amount_2: 2,
        moods: '{calm}',
        mood: 'calm',
        new: 5,
        next: 6,
        old: null,
        place: null,
        twice: 10,
        thrice: 3,
      },
      {
        amount: 3,
        amount_2: 4,
        moods: '{calm}',
        mood: 'calm',
        new: 7,
        next: 8,
        old: '(5,6)',
        place: '(5,6)',
        twice: 14,
        thrice: 9,
      },
      {
        amount: 9,
        amount_2: 10,
        moods: '{wild}',
        mood: 'wild',
        new: 3,
        next: 4,
        old: '(3,4)',
        place: '(3,4)',
        twice: 6,
        thrice: 27,
      },
    ]);
    await pair.caughtUpOnBlue();
    expect(
      (await pair.blue.query('SELECT amount, moods::text, "new", "old"::text FROM kinds WHERE id = 11')).rows,
    ).toEqual([{ amount: 9, moods: '{wild}', new: 3, old: '(3,4)' }]);
  });

  it('a column by which a table is partitioned is filled by an UPDATE, and must be given by an INSERT', async () => {
    const { tables } = await workOf([
      {
        changeType: {
          ...{ table: 'dated', column: 'at', newColumn: 'at_time', type: 'timestamp' },
          ...{ up: 'at::timestamp', down: 'at_time::date' },
        },
      },
    ]);
    for (const table of tables) await expandTable(pair.context(), table);
    const { green } = pair;
    await expect(green.query(`INSERT INTO dated (id, at_time) VALUES (1, '2026-02-01')`)).rejects.toMatchObject({
      code: '23514',
    });
    await green.query(`INSERT INTO dated (id, at, at_time) VALUES (1, '2026-02-01', '2026-02-01 12:00');
                       UPDATE dated SET at_time = '2026-08-01 12:00' WHERE id = 1`);
    expect((await green.query('SELECT id, at::text, at_time::text FROM dated_2')).rows).toEqual([
      { id: 1, at: '2026-08-01', at_time: '2026-08-01 12:00:00' },
    ]);
  });
});
