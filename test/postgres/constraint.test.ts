import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { addConstraint } from '../../src/postgres/migrate/add-constraint.js';
import { recheckForeignKeys } from '../../src/postgres/migrate/recheck-foreign-keys.js';
import { revertMigrations } from '../../src/postgres/migrate/revert.js';
import { runStep } from '../../src/postgres/migrate/run-step.js';
import type { StepContext } from '../../src/postgres/migrate/step-context.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { applyStatements } from '../../src/postgres/schema-copy/apply-post-data.js';
import { installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';
import { testedVersion } from '../support/tested-version.js';
import { contextOn, planOf, workOf } from './replicated-pair.js';

const T = { schema: 'public', name: 't' };

describe.each([testedVersion('pg15')])('constraints on %s', (server) => {
  let db: TestDatabase;
  let session: Session;
  let app: pg.Client;
  let context: StepContext;

  beforeAll(async () => {
    db = await testDatabase(server, 'constraint');
    const database = asDatabase(db, 'green');
    session = await openSession(database, { purpose: 'test' });
    await installState(session, 'green');
    context = contextOn(database, session);
    app = new pg.Client(db.config);
    await app.connect();
  });
  afterAll(async () => {
    await closeSession(session);
    await app.end();
    await db.drop();
  });
  beforeEach(async () => {
    await app.query(`
      CREATE TABLE parent (id int PRIMARY KEY, "Odd" int UNIQUE);
      CREATE TABLE t (no int, code text, "Order" int, parent int, big bigint GENERATED ALWAYS AS (no * 2) STORED);
      CREATE TABLE p (id int, region text) PARTITION BY LIST (region);
      INSERT INTO parent SELECT n, n FROM generate_series(1, 10) n;
      INSERT INTO t SELECT n, 'c' || n, n, n % 10 + 1 FROM generate_series(1, 1000) n;`);
  });
  afterEach(() => app.query('DROP TABLE t, parent, p; TRUNCATE verdigris.progress'));

  /** Constraints, indexes and NOT NULL of the table, as people would read them. */
  async function shape(): Promise<string[]> {
    const { rows } = await app.query<{ what: string }>(
      `SELECT conname || ' ' || pg_get_constraintdef(oid) AS what FROM pg_constraint
        WHERE conrelid = 't'::regclass AND contype <> 'n'
       UNION ALL SELECT relname || CASE WHEN indisvalid THEN ' valid' ELSE ' INVALID' END
         FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = 't'::regclass
       UNION ALL SELECT attname || ' NOT NULL' FROM pg_attribute WHERE attrelid = 't'::regclass AND attnotnull AND attnum > 0
       ORDER BY 1`,
    );
    return rows.map(({ what }) => what);
  }

  const online = async (): Promise<void> => {
    await app.query(
      `CREATE SUBSCRIPTION verdigris_test CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)`,
    );
  };
  const offline = (): Promise<unknown> => app.query('DROP SUBSCRIPTION IF EXISTS verdigris_test');
  const add = (constraint: object): Promise<void> =>
    addConstraint(context, T, { table: 't', ...constraint } as Parameters<typeof addConstraint>[2]);

  it.each(['offline', 'online'])('a unique constraint and a primary key are made, and taken back (%s)', async (how) => {
    if (how === 'online') await online();
    try {
      const before = await shape();
      const work = await workOf([
        { addConstraint: { table: 't', name: 't_code_key', unique: ['code', 'Order'] } },
        { addConstraint: { table: 't', name: 't_pkey', primaryKey: ['no', 'Order'] } },
        { setNotNull: { table: 't', column: 'Order', up: '0' } },
      ]);
      const made = [
        'Order NOT NULL',
        'no NOT NULL',
        't_code_key UNIQUE (code, "Order")',
        't_code_key valid',
        't_pkey PRIMARY KEY (no, "Order")',
        't_pkey valid',
      ];
      for (const step of work.steps) await runStep(context, step);
      expect((await shape()).sort()).toEqual(made.sort());
      for (const step of work.steps) await runStep(context, step);
      expect((await shape()).sort()).toEqual(made.sort());
      await revertMigrations(context, { ...work, tables: [] });
      expect(await shape()).toEqual(before);
      await revertMigrations(context, { ...work, tables: [] });
      expect(await shape()).toEqual(before);
    } finally {
      await offline();
    }
  });

  it('duplicates and NULLs are clear errors, and leave nothing that would stop the replication', async () => {
    await app.query(`INSERT INTO t (no, code) VALUES (1, 'c1'), (NULL, 'x')`);
    const before = await shape();
    const held = (message: RegExp): object => ({
      type: 'BackfillFailed',
      message: expect.stringMatching(message) as string,
    });
    await expect(add({ name: 't_no_key', unique: ['no'] })).rejects.toMatchObject(
      held(
        /unique index "t_no_key" on table public\.t can't be built: several rows have the same value of no\n.*HAVING count.*then resume/s,
      ),
    );
    await expect(add({ name: 't_pkey', primaryKey: ['code', 'no'] })).rejects.toMatchObject(
      held(/NOT NULL of column "no".*rows in which it is NULL: \(a row without a key\)/s),
    );
    expect(await shape()).toEqual(before);
    // What was told is corrected, and the same steps are done.
    await app.query(`DELETE FROM t WHERE no IS NULL OR ("Order" IS NULL AND code = 'c1')`);
    await add({ name: 't_no_key', unique: ['no'] });
    await add({ name: 't_pkey', primaryKey: ['code', 'no'] });
    expect(await shape()).toContain('t_pkey PRIMARY KEY (code, no)');
  });

  it('duplicates of columns with odd names are found by the query that is told, NULLs are none', async () => {
    await app.query(`INSERT INTO t ("Order", code) VALUES (NULL, 'a'), (NULL, 'b'), (7000, 'c'), (7000, 'd')`);
    const refused = await add({ name: 't_order', unique: ['Order'] }).then(String, String);
    const [, query = ''] = /find them by (SELECT .* HAVING count\(\*\) > 1);/s.exec(refused) ?? [];
    const { rows } = await app.query<{ Order: number; count: string }>(query);
    expect(rows.filter(({ Order }) => Order === 7000)).toEqual([{ Order: 7000, count: '2' }]);
    expect(rows.every(({ Order }) => Order !== null)).toBe(true);
  });

  it('what PostgreSQL can not do is refused with what to do instead', async () => {
    await app.query('ALTER TABLE t ADD CONSTRAINT own PRIMARY KEY (no); CREATE INDEX taken ON t (code)');
    await expect(add({ name: 'second', primaryKey: ['code'] })).rejects.toThrow(
      /has a primary key already, "own" PRIMARY KEY \(no\)\n.*"unique" instead/s,
    );
    await expect(add({ name: 'taken', unique: ['code'] })).rejects.toThrow(/there is an index "taken" already/);
    expect(await shape()).toContain('taken valid');
    const partitioned = { table: 'p', name: 'p_id_key', unique: ['id'] };
    await expect(addConstraint(context, { schema: 'public', name: 'p' }, partitioned)).rejects.toThrow(
      /not supported there.*unique createIndex on public\.p/s,
    );
  });

  it('what a dead worker left of a key is gone on with', async () => {
    const work = await workOf([{ addConstraint: { table: 't', name: 'k', primaryKey: ['no'] } }]);
    const [step] = work.steps;
    if (step === undefined) throw new Error('the plan has a step');
    // Died when the index was there and not the constraint; then when the index was INVALID.
    for (const left of ['', `UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'k'::regclass`]) {
      await runStep(context, step);
      await app.query('ALTER TABLE t DROP CONSTRAINT k; CREATE UNIQUE INDEX k ON t (no)');
      if (left !== '') await app.query(left);
      await runStep(context, step);
      expect(await shape()).toEqual(['k PRIMARY KEY (no)', 'k valid', 'no NOT NULL']);
    }
    await app.query('ALTER TABLE t DROP CONSTRAINT k; CREATE UNIQUE INDEX k ON t (no)');
    await revertMigrations(context, { ...work, tables: [] });
    expect(await shape()).toEqual([]);
  });

  it('one of that name that is there is taken when it is the same, and refused when it is another', async () => {
    const references = { table: 'parent', columns: ['id'] };
    await app.query(`
      ALTER TABLE t ADD CONSTRAINT c CHECK (no > 0 AND code IS NOT NULL), ADD CONSTRAINT u UNIQUE (code, no),
        ADD CONSTRAINT later CHECK (big > 0) NOT VALID,
        ADD CONSTRAINT f FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE SET NULL`);
    const before = await shape();
    await add({ name: 'c', check: 'no>0 and (code is not null)' });
    await add({ name: 'u', unique: ['code', 'no'] });
    await add({
      name: 'f',
      foreignKey: { columns: ['parent'], references, onDelete: 'SET NULL', onUpdate: 'NO ACTION' },
    });
    expect(await shape()).toEqual(before);
    await add({ name: 'later', check: 'big > 0' });
    expect(await shape()).toContain('later CHECK ((big > 0))');
    const another = /there is another constraint of that name: .*; the plan says .*\n.*another name/s;
    await expect(add({ name: 'c', check: 'no > 1' })).rejects.toThrow(another);
    await expect(add({ name: 'u', unique: ['no', 'code'] })).rejects.toThrow(another);
    await expect(add({ name: 'u', primaryKey: ['code', 'no'] })).rejects.toThrow(another);
    const foreignKey = { columns: ['parent'], references, onDelete: 'CASCADE', onUpdate: 'NO ACTION' };
    await expect(add({ name: 'f', foreignKey })).rejects.toThrow(another);
    await expect(
      add({ name: 'f', foreignKey: { ...foreignKey, references: { table: 'parent', columns: ['Odd'] } } }),
    ).rejects.toThrow(another);
    await revertMigrations(context, await workOf([{ addConstraint: { table: 't', name: 'c', check: 'no > 0' } }]));
    expect(await shape()).toEqual(before.map((what) => what.replace(' NOT VALID', '')));
  });

  it('on a server without room a step is tried again, says that room is needed, and is done when there is some', async () => {
    await app.query(`
      CREATE FUNCTION public.write_more() RETURNS void LANGUAGE plpgsql AS
        $$BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END$$;
      CREATE FUNCTION full_disk() RETURNS event_trigger LANGUAGE plpgsql AS
        $$BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END$$;
      CREATE EVENT TRIGGER full_disk ON ddl_command_start EXECUTE FUNCTION full_disk();
      -- An ordinary one does not fire for DDL of ours, nor any for SQL of the plan since 17.
      ALTER EVENT TRIGGER full_disk ENABLE ALWAYS`);
    const { steps } = await workOf([
      { createIndex: { table: 't', name: 't_code', columns: ['code'] } },
      { addConstraint: { table: 't', name: 't_positive', check: 'no > 0' } },
      { addConstraint: { table: 't', name: 't_code_key', unique: ['code'] } },
      { setNotNull: { table: 't', column: 'Order', up: '0' } },
      { sql: { name: 'comment', up: 'SELECT public.write_more()', down: 'SELECT 1' } },
    ]);
    const needsRoom = {
      retryable: true,
      message: expect.stringMatching(/No space left on device \(53100\)\nNext step: give green more/) as string,
    };
    try {
      for (const step of steps) await expect(runStep(context, step)).rejects.toMatchObject(needsRoom);
      await expect(
        applyStatements(context, 'rest', ['ALTER TABLE public.t ADD COLUMN blue int']),
      ).rejects.toMatchObject(needsRoom);
    } finally {
      await app.query('DROP EVENT TRIGGER full_disk; DROP FUNCTION full_disk; DROP FUNCTION public.write_more');
    }
    await app.query(`CREATE FUNCTION public.write_more() RETURNS void LANGUAGE sql AS 'SELECT'`);
    for (const step of steps) await runStep(context, step);
    expect(await shape()).toEqual([
      'Order NOT NULL',
      't_code valid',
      't_code_key UNIQUE (code)',
      't_code_key valid',
      't_positive CHECK ((no > 0))',
    ]);
  });

  it('orphans that came by replication after the validation are found', async () => {
    const migrations = [
      {
        addConstraint: {
          table: 't',
          name: 'f',
          foreignKey: { columns: ['parent'], references: { table: 'parent', columns: ['id'] } },
        },
      },
    ];
    const [step] = (await workOf(migrations)).steps;
    if (step === undefined) throw new Error('the plan has a step');
    await runStep(context, step);
    expect(await recheckForeignKeys(context, planOf(migrations))).toEqual([]);
    await app.query(
      `SET session_replication_role = replica; INSERT INTO t (no, parent) VALUES (2000, 99), (2001, NULL), (2002, 98);
       RESET session_replication_role`,
    );
    const [orphans, ...more] = await recheckForeignKeys(context, planOf(migrations));
    expect(more).toEqual([]);
    expect(orphans).toMatchObject({ table: T, constraint: 'f', rows: 2 });
    const { rows } = await app.query<{ no: number }>(orphans?.query ?? '');
    expect(rows.map(({ no }) => no).sort()).toEqual([2000, 2002]);
  });

  it('orphans are told by the operators and the collation of the key itself', async () => {
    await app.query(`
      CREATE SCHEMA other; CREATE EXTENSION citext SCHEMA other; CREATE EXTENSION ltree SCHEMA other;
      CREATE TABLE users (name other.citext, code char(3) COLLATE "C", path other.ltree, v varchar(9) COLLATE "POSIX",
                          UNIQUE (name, code, path, v));
      CREATE TABLE posts (id int, author other.citext, code char(3) COLLATE "en-x-icu", path other.ltree, v text COLLATE "C");
      INSERT INTO users VALUES ('bob', 'a', 'a.b', 'x'); INSERT INTO posts VALUES (1, 'Bob', 'a', 'a.b', 'x')`);
    const migrations = [
      {
        addConstraint: {
          table: 'posts',
          name: 'posts_f',
          foreignKey: {
            columns: ['author', 'code', 'path', 'v'],
            references: { table: 'users', columns: ['name', 'code', 'path', 'v'] },
          },
        },
      },
    ];
    try {
      for (const step of (await workOf(migrations)).steps) await runStep(context, step);
      expect(await recheckForeignKeys(context, planOf(migrations))).toEqual([]);
      await app.query(`SET session_replication_role = replica; INSERT INTO posts VALUES (2, 'eve', 'a', 'a.b', 'x');
                       RESET session_replication_role`);
      const [orphans] = await recheckForeignKeys(context, planOf(migrations));
      expect(orphans).toMatchObject({ constraint: 'posts_f', rows: 1 });
      expect((await app.query<{ id: number }>(orphans?.query ?? '')).rows).toMatchObject([{ id: 2 }]);
    } finally {
      await app.query('DROP TABLE users, posts; DROP SCHEMA other CASCADE');
    }
  });

  it('orphans are rows of the table itself, and only rows of the other one itself are referenced', async () => {
    await app.query(`
      CREATE TABLE heirs (own int) INHERITS (t); INSERT INTO heirs (no, parent) VALUES (3000, 97);
      CREATE TABLE heirs_of_parent () INHERITS (parent); INSERT INTO heirs_of_parent (id) VALUES (96);
      CREATE TABLE parted (no int, parent int) PARTITION BY LIST (no);
      CREATE TABLE parted_1 PARTITION OF parted DEFAULT`);
    const key = (table: string): object => ({
      addConstraint: {
        ...{ table, name: `${table}_f` },
        foreignKey: { columns: ['parent'], references: { table: 'parent', columns: ['id'] } },
      },
    });
    const migrations = [key('t'), key('parted')];
    try {
      for (const step of (await workOf(migrations)).steps) await runStep(context, step);
      expect(await recheckForeignKeys(context, planOf(migrations))).toEqual([]);
      await app.query(
        `SET session_replication_role = replica;
         INSERT INTO t (no, parent) VALUES (3001, 96); INSERT INTO parted VALUES (1, 96), (2, 96);
         RESET session_replication_role`,
      );
      expect(await recheckForeignKeys(context, planOf(migrations))).toMatchObject([
        { constraint: 't_f', rows: 1 },
        { constraint: 'parted_f', rows: 2 },
      ]);
    } finally {
      await app.query('DROP TABLE heirs, heirs_of_parent, parted');
    }
  });
});
