import pg from 'pg';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { replicateActivities } from '../../activities/replicate.js';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { readTables } from '../../src/postgres/catalog.js';
import { tryPlan, type Trial } from '../../src/postgres/migrate/plan-trial.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { testedPairs, testedVersion } from '../support/tested-version.js';
import { workOf } from './replicated-pair.js';

type Migrations = NonNullable<PlanInput['migrations']>;

const TABLES = `
  CREATE TABLE users (id int, code int, doc json);
  CREATE TABLE orders (id bigint, user_id int, note text, total numeric, doubled numeric GENERATED ALWAYS AS (total * 2) STORED);
  CREATE TABLE part (id int, region text, day date, body text) PARTITION BY LIST (region);
  CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
  CREATE TABLE part_us PARTITION OF part FOR VALUES IN ('us') PARTITION BY RANGE (day);
  CREATE SCHEMA other;
  CREATE TABLE other.left_out (id int);
  CREATE VIEW taken_view AS SELECT 1 AS one;
  CREATE DOMAIN email AS text NOT NULL CHECK (VALUE ~ '@');
  CREATE DOMAIN given AS text CHECK (VALUE IS NOT NULL);
  CREATE DOMAIN positive AS int CHECK (VALUE > 0);
  CREATE DOMAIN named AS text NOT NULL DEFAULT 'none';
  CREATE TYPE level AS ENUM ('low', 'high');
  CREATE FUNCTION shout(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper(t)';
  CREATE FUNCTION right_total(o orders) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT o.total > 0';`;
/** What comes to green with the rows. */
const KEYS = `
  ALTER TABLE users ADD PRIMARY KEY (id); ALTER TABLE orders ADD PRIMARY KEY (id); ALTER TABLE part ADD PRIMARY KEY (id, region, day);
  ALTER TABLE orders ADD CONSTRAINT orders_user FOREIGN KEY (user_id) REFERENCES users (id);
  CREATE UNIQUE INDEX users_later ON users (code) WHERE code > 0;
  ALTER TABLE orders ADD CONSTRAINT orders_user_later FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE NOT VALID;
  CREATE INDEX orders_note ON orders (note);
  CREATE INDEX orders_shout ON orders (shout(note)) WHERE note <> '';
  CREATE INDEX left_out_id ON other.left_out (id);`;

const index = (more: object): Migrations[number] => ({
  createIndex: { table: 'orders', name: 'i', columns: ['note'], ...more },
});
const constraint = (more: object): Migrations[number] => ({ addConstraint: { table: 'orders', name: 'c', ...more } });
const refers = (columns: string[], table: string, to: string[]): object => ({
  foreignKey: { columns, references: { table, columns: to } },
});
const add = (more: object): Migrations[number] => ({
  addColumn: { table: 'orders', column: 'fresh', type: 'text', ...more },
});
const raw = (up: string): Migrations[number] => ({ sql: { name: 'raw', up, down: 'SELECT 1' } });

const MISTAKES: Record<string, [Migrations, RegExp]> = {
  'an unknown type': [[add({ type: 'jsonbb' })], /new columns of table public\.orders: .*42704/],
  'an unknown function in up': [[add({ up: 'uppper(note)' })], /"fresh" of table public\.orders: .*42883/],
  'a value of another type': [[add({ type: 'integer', up: 'note' })], /"fresh".*42804/],
  'a domain that refuses NULL, which INSERTs of today would meet': [
    [add({ type: 'email', up: "note || '@'", notNull: true })],
    /"fresh" of table public\.orders .* domain public\.email, which refuses NULL/,
  ],
  'a domain whose check refuses NULL': [[add({ type: 'given', up: 'note' })], /domain public\.given, which refuses/],
  'up that reads a generated column': [[add({ up: 'doubled::text' })], /generated column "doubled"/],
  'a type after an up with the function of the run': [
    [add({ type: 'int', up: 'verdigris.try_jsonb(note)' })],
    /"fresh".*42804/,
  ],
  'down that is no value of the old column': [
    [add({ up: 'note', down: 'total = length(fresh) > 1' })],
    /"down".*42804/,
  ],
  'GIN without an operator class': [[index({ method: 'gin' })], /index "i" on table public\.orders: .*42704/],
  'an operator class of an extension that is not there': [
    [index({ method: 'gin', columns: ['note gin_trgm_ops'] })],
    /index "i".*42704/,
  ],
  'an index on a function that is not immutable': [[index({ columns: ['(note || now())'] })], /index "i".*42P17/],
  'a unique index without the columns of the partitions': [
    [index({ table: 'part', columns: ['id'], unique: true })],
    /index "i" on table public\.part: .*0A000/,
  ],
  'a unique index without the columns of a lower level': [
    [index({ table: 'part', columns: ['id', 'region'], unique: true })],
    /index "i" on table public\.part: .*0A000/,
  ],
  'an index that names the partitioned table': [
    [index({ table: 'part', columns: ['lower(part.body)'] })],
    /index "i" on table public\.part: .*42P01/,
  ],
  'a check that is no condition': [[constraint({ check: 'note' })], /constraint "c".*42804/],
  'a foreign key without a unique key': [[constraint(refers(['user_id'], 'users', ['code']))], /constraint "c".*42830/],
  'a foreign key before the key that it needs': [
    [constraint(refers(['user_id'], 'users', ['code'])), constraint({ table: 'users', name: 'k', unique: ['code'] })],
    /constraint "c".*42830/,
  ],
  'a foreign key of another type': [[constraint(refers(['note'], 'users', ['id']))], /constraint "c".*42804/],
  'a key of a type without an order': [[constraint({ table: 'users', unique: ['doc'] })], /constraint "c".*42704/],
  'the name of an index of another table': [[index({ name: 'users_later' })], /index "users_later".*taken/],
  'the name of another index of the table': [
    [index({ name: 'orders_note', unique: true })],
    /index "orders_note".*and another one/,
  ],
  'the name of an index of the same table on an expression': [
    [index({ name: 'orders_note', columns: ['lower(note)'] })],
    /index "orders_note".*and another one/,
  ],
  'the name of an index of the same table with another condition': [
    [index({ name: 'orders_shout', columns: ['shout(note)'], where: "note <> 'a'" })],
    /index "orders_shout".*and another one/,
  ],
  'the name of an index of an old column for one of a new column': [
    [add({}), index({ name: 'orders_note', columns: ['fresh'] })],
    /index "orders_note".*and another one/,
  ],
  'the name of a view': [[index({ name: 'taken_view' })], /relation "taken_view"/],
  'the name of an index for a key': [[constraint({ name: 'orders_note', unique: ['id'] })], /"orders_note".*taken/],
  'the name of another constraint': [
    [constraint({ name: 'orders_user', ...refers(['id'], 'users', ['id']) })],
    /"orders_user".*FOREIGN KEY \(user_id\)/,
  ],
  'the name of a foreign key to another table': [
    [constraint({ name: 'orders_user', ...refers(['user_id'], 'orders', ['id']) })],
    /"orders_user".*REFERENCES public\.users\(id\)/,
  ],
  'the name of a foreign key with another action': [
    [constraint({ name: 'orders_user_later', ...refers(['user_id'], 'users', ['id']) })],
    /"orders_user_later".*ON DELETE CASCADE NOT VALID/,
  ],
};

const FINE: Record<string, Migrations> = {
  'columns, indexes and constraints that are right': [
    add({ up: 'shout(note)', down: 'note = lower(fresh)' }),
    add({ column: 'doc', type: 'jsonb', up: 'verdigris.try_jsonb(note)' }),
    add({ column: 'level', type: 'level', up: "'low'" }),
    add({ column: 'positive', type: 'positive', up: 'user_id' }),
    add({ column: 'named', type: 'named' }),
    add({ column: 'mail', type: 'email', default: "'a@b'" }),
    index({ columns: ['fresh DESC', 'lower(note)'], where: 'fresh IS NOT NULL' }),
    index({ name: 'g', method: 'gin', columns: ['doc jsonb_path_ops'] }),
    constraint({ check: "fresh <> ''" }),
    constraint({ name: 'k', unique: ['note', 'level'] }),
  ],
  "foreign keys: to blue's key, to the plan's own, to itself": [
    constraint(refers(['user_id'], 'users', ['id'])),
    constraint({ table: 'users', name: 'k', unique: ['code'] }),
    constraint({ name: 'd', ...refers(['user_id'], 'users', ['code']) }),
    constraint({ name: 'e', ...refers(['user_id'], 'orders', ['id']) }),
  ],
  'a partitioned table': [
    index({ table: 'part', columns: ['day', 'region', 'id'], unique: true }),
    index({ table: 'part', name: 'j', columns: ['lower(body)'] }),
    constraint({ table: 'part', ...refers(['id'], 'users', ['id']) }),
  ],
  'whatever raw SQL could have made': [
    raw('CREATE EXTENSION pg_trgm'),
    index({ method: 'gin', columns: ['note gin_trgm_ops'] }),
    constraint(refers(['user_id'], 'users', ['code'])),
    index({ name: 'users_later' }),
  ],
  'names of its own index and constraint, and of a table that is left out': [
    index({ name: 'orders_note' }),
    index({ name: 'orders_shout', columns: ['shout( note )'], where: "(note != '')" }),
    constraint({ name: 'orders_user', ...refers(['user_id'], 'users', ['id']) }),
    constraint({
      name: 'orders_user_later',
      foreignKey: { columns: ['user_id'], references: { table: 'users', columns: ['id'] }, onDelete: 'CASCADE' },
    }),
    index({ name: 'left_out_id' }),
  ],
  'a check of the whole row, whose type is not that of the copy': [constraint({ check: 'right_total(orders)' })],
};

describe.each([testedVersion('pg15')])('a plan that is tried on %s', (server) => {
  let dbs: TestDatabase[];
  let blue: Session;
  let green: Session;
  let app: pg.Client;

  beforeAll(async () => {
    dbs = [await testDatabase(server, 'trial_b'), await testDatabase('pg18', 'trial_g')];
    const [blueDb, greenDb] = dbs as [TestDatabase, TestDatabase];
    for (const [db, ddl] of [[blueDb, TABLES + KEYS] as const, [greenDb, TABLES] as const]) {
      const client = new pg.Client(db.config);
      await client.connect();
      await client.query(ddl);
      await client.end();
    }
    app = new pg.Client(blueDb.config);
    await app.connect();
    blue = await openSession(asDatabase(blueDb, 'blue'), { purpose: 'test' });
    green = await openSession(asDatabase(greenDb, 'green'), { purpose: 'test' });
  });
  afterAll(async () => {
    await Promise.all([blue, green].map(closeSession));
    await app.end();
    for (const db of dbs) await db.drop();
  });

  async function tried(migrations: Migrations, session: Session): Promise<Trial> {
    const moved = await readTables(blue, { include: ['public.*'], exclude: [] });
    return tryPlan({ session, blue, moved, work: await workOf(migrations) });
  }

  const traces = async (session: Session): Promise<unknown> =>
    (
      await session.query(
        `SELECT (SELECT count(*)::int FROM pg_class) AS classes, (SELECT count(*)::int FROM pg_namespace) AS schemas,
                (SELECT count(*)::int FROM pg_constraint) AS constraints`,
      )
    ).rows[0];

  it.each(Object.keys(MISTAKES))('has a mistake, on blue and on a green without keys: %s', async (name) => {
    const [migrations, says] = MISTAKES[name] ?? [[], /./];
    for (const session of [blue, green]) {
      const before = await traces(session);
      const { mistakes } = await tried(migrations, session);
      expect(mistakes.map(({ object, message }) => `${object}: ${message}`)).toEqual([expect.stringMatching(says)]);
      expect(await traces(session)).toEqual(before);
    }
  });

  it.each(Object.keys(FINE))('has none: %s', async (name) => {
    for (const session of [blue, green]) expect((await tried(FINE[name] ?? [], session)).mistakes).toEqual([]);
  });

  it('waits for no lock of the application for long, and says then that it was not tried', async () => {
    await app.query('BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE');
    const trial = await tried([index({ method: 'gin' })], blue).finally(() => app.query('ROLLBACK'));
    expect(trial.mistakes).toEqual([]);
    expect(String(trial.untried)).toMatch(/lock timeout/);
  });

  it('is not tried by a role that may make no temporary tables', async () => {
    const role = `no_temp_${server}`;
    const database = dbs[0]?.database ?? '';
    await app.query(`REVOKE TEMPORARY ON DATABASE ${pg.escapeIdentifier(database)} FROM PUBLIC`);
    await app.query(
      `DROP ROLE IF EXISTS ${role}; CREATE ROLE ${role}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${role}`,
    );
    await blue.query(`SET ROLE ${role}`);
    const trial = await tried([add({ type: 'jsonbb' }), index({ method: 'gin' })], blue).finally(() =>
      blue.query('RESET ROLE'),
    );
    await app.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    expect(trial.mistakes).toEqual([]);
    expect(String(trial.untried)).toMatch(/permission denied/);
  });
});

describe.each(testedPairs([{ blue: 'pg15', green: 'pg18' }] as const))('bootstrap tablesync', ({ blue, green }) => {
  it('refuses on green what green would refuse behind the rows, before a slot is made', async () => {
    const dbs = [await testDatabase(blue, 'trial_sync_b'), await testDatabase(green, 'trial_sync_g')] as const;
    const databases = { blue: asDatabase(dbs[0], 'blue'), green: asDatabase(dbs[1], 'green') };
    const run = { runId: 'run', migration: dbs[0].database.slice(-30) };
    const plan = planSchema.parse({
      name: run.migration,
      blue: { connection: 'b' },
      green: { connection: 'g' },
      bootstrap: { method: 'tablesync' },
      // Blue has neither the function nor the new column.
      migrations: [
        add({ type: 'uuid', up: 'uuidv7()' }),
        index({ name: 'right', columns: ['fresh'] }),
        index({ method: 'gin' }),
      ],
    });
    try {
      for (const db of dbs) await withClient(db.config, (client) => client.query(TABLES + KEYS));
      await claimDatabases(databases, run, 'flag');
      const environment = { VERDIGRIS_CONNECTION_B: dbs[0].uri, VERDIGRIS_CONNECTION_G: dbs[1].uri };
      const { copyRows } = replicateActivities({ environment, redact: (text) => text });
      const error: unknown = await new MockActivityEnvironment()
        .run(() => copyRows({ plan, runId: run.runId }))
        .catch((e: unknown) => e);
      expect(error).toMatchObject({ type: 'MigrationStepFailed', nonRetryable: true });
      expect(String(error)).toMatch(/index "i" on table public\.orders: .*42704.*\n.*no row has been copied/);
      expect(String(error)).not.toMatch(/fresh|right/);
      const { rows } = await withClient(dbs[0].config, (client) =>
        client.query('SELECT FROM pg_replication_slots WHERE database = current_database()'),
      );
      expect(rows).toEqual([]);
    } finally {
      for (const db of [...dbs].reverse()) await db.drop();
    }
  });
});
