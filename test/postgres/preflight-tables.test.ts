import { describe, expect, it } from 'vitest';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';
import { readTables } from '../../src/postgres/catalog.js';
import type { PreflightFinding } from '../../src/postgres/preflight/finding.js';
import { notValidChecks } from '../../src/postgres/preflight/not-valid-checks.js';
import { closeSession, openSession } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient } from '../support/postgres.js';
import { only, preflightPair, RUN, TAG } from '../support/preflight-pair.js';

const pair = preflightPair('tables');
const { check, onBlue, undo } = pair;

describe('preflight', () => {
  it('refuses to change columns of a table from which others inherit, partitions aside', async () => {
    await onBlue(`
      CREATE SCHEMA old;
      CREATE TABLE old.parent (id int PRIMARY KEY, body text);
      CREATE TABLE old.child (PRIMARY KEY (id)) INHERITS (old.parent);
      CREATE TABLE old.parted (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
      CREATE TABLE old.part PARTITION OF old.parted DEFAULT`);
    undo.push(() => onBlue('DROP SCHEMA old CASCADE'));
    const add = (table: string): PlanInput['migrations'] => [
      { addColumn: { table, column: 'loud', type: 'text', up: 'upper(body)' } },
    ];
    const findings = await check({ migrations: add('old.parent') });
    expect(only(findings, 'inherited-columns')).toMatchObject([
      { severity: 'error', object: 'old.parent', message: expect.stringContaining('old.child') as string },
    ]);
    const others = await check({ migrations: add('old.parted') });
    expect(only(others, 'inherited-columns')).toEqual([]);
    expect(only(others, 'partitions')).toMatchObject([
      { severity: 'info', object: expect.stringMatching(/\bold\.parted\b/) as string },
    ]);
  });

  it('refuses to give columns to a table of which others hold rows as values, in whatever type; where there are none yet it warns', async () => {
    await onBlue(`
      CREATE SCHEMA rt;
      CREATE TABLE rt."Order" (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
      CREATE TABLE rt.part PARTITION OF rt."Order" DEFAULT;
      CREATE TYPE rt.kept AS (at date, row rt."Order");
      CREATE DOMAIN rt.one AS rt.kept;
      CREATE TABLE rt.archive (id int PRIMARY KEY, rows rt.one[], n int);
      CREATE TABLE rt.parts (id int PRIMARY KEY, was rt.part) PARTITION BY RANGE (id);
      CREATE TABLE rt.parts_1 PARTITION OF rt.parts DEFAULT;
      CREATE TABLE rt.queue (id int PRIMARY KEY, item rt."Order");
      CREATE TABLE rt.left_out (id int PRIMARY KEY, item rt."Order");
      CREATE TABLE rt.unused (id int PRIMARY KEY, item rt."Order", items rt."Order"[]);
      INSERT INTO rt.archive VALUES (1, ARRAY[(NULL, NULL)::rt.kept]::rt.one[]); INSERT INTO rt.parts VALUES (1, (1, NULL)::rt.part);
      INSERT INTO rt.unused VALUES (1, NULL, '{}'); INSERT INTO rt.left_out VALUES (1, (1, NULL)::rt."Order")`);
    undo.push(() => onBlue('DROP SCHEMA rt CASCADE'));
    const tables = { exclude: ['rt.left_out'] };
    const add = { addColumn: { table: 'rt.Order', column: 'loud', type: 'text', up: 'upper(body)' } };
    const found = only(await check({ tables, migrations: [add] }), 'row-types');
    expect(found.map(({ severity, object }) => [severity, object])).toEqual([
      ['error', 'rt."Order"'],
      ['warning', 'rt."Order"'],
    ]);
    expect(found[0]?.message).toContain('rt.archive.rows, rt.parts.was hold rows of it');
    expect(found[1]?.message).toContain(
      'rt.queue.item, rt.unused.item, rt.unused.items hold rows of it as values, of which there are none now',
    );
    // It has as many as before.
    const fill = { setNotNull: { table: 'rt.Order', column: 'body', up: `''` } };
    expect(only(await check({ tables, migrations: [fill] }), 'row-types')).toEqual([]);
  });

  it.each(['tablesync', 'standby'] as const)(
    'refuses rows that break a constraint which is NOT VALID where the backfill would write them: %s',
    async (method) => {
      await onBlue(`
        CREATE SCHEMA nv;
        CREATE FUNCTION nv.is_even(int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN $1 % 2 = 0; END';
        CREATE TABLE nv.mails (id int PRIMARY KEY, mail text, n int) PARTITION BY RANGE (id);
        CREATE TABLE nv.part PARTITION OF nv.mails DEFAULT;
        CREATE TABLE nv.other (id int PRIMARY KEY, n int);
        INSERT INTO nv.mails VALUES (1, 'a@b', 2), (2, 'none', NULL); INSERT INTO nv.other VALUES (1, -1);
        ALTER TABLE nv.part ADD CONSTRAINT mail_ok CHECK (mail LIKE '%@%') NOT VALID;
        ALTER TABLE nv.part ADD CONSTRAINT positive CHECK (n > 0) NOT VALID;
        ALTER TABLE nv.part ADD CONSTRAINT even CHECK (nv.is_even(n)) NOT VALID;
        ALTER TABLE nv.other ADD CONSTRAINT positive CHECK (n > 0) NOT VALID`);
      undo.push(() => onBlue('DROP SCHEMA nv CASCADE'));
      const add = { addColumn: { table: 'nv.mails', column: 'loud', type: 'text', up: 'upper(mail)' } };
      const found = async (plan: Partial<PlanInput>): Promise<string[]> =>
        only(await check({ migrations: [add], ...plan }), 'not-valid-checks').map(
          ({ severity, object }) => `${severity} ${object}`,
        );
      expect(await found({ bootstrap: { method } })).toEqual(['error nv.part.mail_ok', 'warning nv.part.even']);
      expect(await found({ bootstrap: { method }, migrations: [] })).toEqual([]);
      // Only rows with a NULL in the column are written: there is none, and the one that breaks a constraint.
      const fill = (column: string): NonNullable<PlanInput['migrations']>[number] => ({
        setNotNull: { table: 'nv.mails', column, up: `'0'` },
      });
      expect(await found({ bootstrap: { method }, migrations: [fill('mail')] })).toEqual(['warning nv.part.even']);
      expect(await found({ bootstrap: { method }, migrations: [fill('n')] })).toContain('error nv.part.mail_ok');
      expect(await found({})).toEqual([]);
      await onBlue(`UPDATE nv.mails SET mail = 'c@d' WHERE id = 2; ALTER TABLE nv.part VALIDATE CONSTRAINT mail_ok`);
      expect(await found({ bootstrap: { method } })).toEqual(['warning nv.part.even']);
    },
  );

  it('warns of domains that have a table written anew, and of those that an INSERT meets before the trigger', async () => {
    await onBlue(`
      CREATE SCHEMA dm;
      CREATE DOMAIN dm.positive AS int CHECK (VALUE > 0);
      CREATE DOMAIN dm.small AS dm.positive;
      CREATE DOMAIN dm.plain AS int;
      CREATE DOMAIN dm.mail AS text NOT NULL;
      CREATE DOMAIN dm.named AS text NOT NULL DEFAULT 'none';
      CREATE TABLE dm.parts (id int PRIMARY KEY, old dm.mail, other dm.named) PARTITION BY RANGE (id);
      CREATE TABLE dm.part PARTITION OF dm.parts DEFAULT;
      CREATE TABLE dm.none (id int PRIMARY KEY);
      INSERT INTO dm.parts VALUES (1, 'a')`);
    undo.push(() => onBlue('DROP SCHEMA dm CASCADE'));
    const add = (column: string, type: string, table = 'dm.parts'): object => ({ addColumn: { table, column, type } });
    const changed = (column: string): object => ({
      changeType: { table: 'dm.parts', column, newColumn: `${column}2`, type: 'text', up: column, down: `${column}2` },
    });
    const migrations = [
      ...[add('a', 'small'), add('b', 'dm.plain'), add('c', 'dm.positive', 'dm.none'), add('d', 'small[]')],
      ...[changed('old'), changed('other')],
    ] as NonNullable<PlanInput['migrations']>;
    const found = async (method: 'copy' | 'tablesync'): Promise<string[]> =>
      only(await check({ migrations, bootstrap: { method } }), 'domain-columns').map(
        ({ severity, object, message }) => `${severity} ${object}: ${message.split(',')[0] ?? ''}`,
      );
    const unfilled = 'warning dm.parts.old: "old" is of the domain dm.mail';
    expect(await found('tablesync')).toEqual(['warning dm.parts: "a" is of the domain small', unfilled]);
    expect(await found('copy')).toEqual([unfilled]);
  });

  it('names functions that take rows by the position of their columns, of tables that the plan gives columns, and no others', async () => {
    const trigger = (name: string, body: string): string =>
      `CREATE FUNCTION bp.${name}() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN ${body}; RETURN NULL; END $x$;
       CREATE TRIGGER ${name} AFTER UPDATE OR DELETE ON bp."Order" FOR EACH ROW EXECUTE FUNCTION bp.${name}();`;
    const plain = (name: string, body: string): string =>
      `CREATE FUNCTION bp.${name}() RETURNS void LANGUAGE plpgsql AS $x$ BEGIN ${body}; END $x$;`;
    await onBlue(`
      CREATE SCHEMA bp;
      CREATE TABLE bp."Order" (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
      CREATE TABLE bp.part PARTITION OF bp."Order" DEFAULT;
      CREATE TABLE bp.other (id int PRIMARY KEY, body text);
      ${trigger('history', 'INSERT INTO bp.history SELECT OLD.*, now(), current_user')}
      ${trigger('listed', "INSERT INTO bp.history (id, body, at) VALUES (nextval('bp.s'), OLD.*, now())")}
      ${trigger('by_text', "EXECUTE 'INSERT INTO ' || quote_ident(TG_TABLE_NAME) || '_history SELECT ($1).*' USING OLD")}
      ${trigger('off', 'INSERT INTO bp.history SELECT OLD.*')}
      ALTER TABLE bp."Order" DISABLE TRIGGER off;
      ${trigger('compared', 'IF OLD.* IS DISTINCT FROM NEW.* THEN INSERT INTO bp.log SELECT OLD.id, NEW.* IS DISTINCT FROM OLD.*; END IF')}
      ${trigger('whole', 'INSERT INTO bp.log (data, more) VALUES (to_jsonb(OLD.*), hstore(NEW.*) - hstore(OLD.*))')}
      ${trigger('by_name', 'INSERT INTO bp.log SELECT row_to_json(n) FROM (SELECT NEW.*) n; /* INSERT INTO h SELECT OLD.* */ PERFORM 1')}
      CREATE FUNCTION bp.of_part() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN INSERT INTO bp.history SELECT * FROM gone; RETURN NULL; END $x$;
      CREATE TRIGGER of_part AFTER DELETE ON bp."Order" REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION bp.of_part();
      CREATE FUNCTION bp.elsewhere() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN INSERT INTO bp.history SELECT OLD.*; RETURN NULL; END $x$;
      CREATE TRIGGER elsewhere AFTER UPDATE ON bp.other FOR EACH ROW EXECUTE FUNCTION bp.elsewhere();
      ${plain('archive', 'INSERT INTO bp.archive SELECT o.*, now() FROM bp."Order" AS o WHERE id < 10')}
      ${plain('move', 'WITH moved AS (DELETE FROM bp."Order" WHERE id < 10 RETURNING *) INSERT INTO bp.archive SELECT * FROM moved')}
      ${plain('archive_other', 'INSERT INTO bp.archive SELECT * FROM bp.other WHERE id NOT IN (SELECT id FROM bp."Order")')}
      ${plain('named', 'INSERT INTO bp.archive (id, n) SELECT id, count(*) FROM bp."Order" GROUP BY id')}
      ${plain('as_json', 'INSERT INTO bp.archive SELECT to_jsonb(o) FROM (SELECT * FROM bp."Order") o')}
      ${plain('joined', 'INSERT INTO bp.archive SELECT x.* FROM bp."Order" o JOIN bp.other x USING (id)')}`);
    undo.push(() => onBlue('DROP SCHEMA bp CASCADE'));
    const add = { addColumn: { table: 'bp.Order', column: 'loud', type: 'text', up: 'upper(body)' } };
    const [found, ...others] = only(await check({ migrations: [add] }), 'rows-by-position');
    expect(others).toEqual([]);
    expect(found).toMatchObject({ severity: 'warning', side: 'blue', object: 'bp."Order"' });
    expect([...(found?.message ?? '').matchAll(/bp\.(\w+)\(\)/g)].map(([, name]) => name)).toEqual([
      ...['archive', 'by_text', 'history', 'listed', 'move', 'of_part'],
    ]);
    const index = { createIndex: { table: 'bp.Order', name: 'by_body', columns: ['body'] } };
    expect(only(await check({ migrations: [index] }), 'rows-by-position')).toEqual([]);
  });

  it('names functions that return rows of a table by a list of its columns, where the plan gives it more', async () => {
    const sql = (name: string, body: string, set = 'SETOF '): string =>
      `CREATE FUNCTION lr.${name}() RETURNS ${set}lr.orders LANGUAGE sql AS $x$ ${body} $x$;`;
    const plpgsql = (name: string, body: string, set = 'SETOF '): string =>
      `CREATE FUNCTION lr.${name}() RETURNS ${set}lr.orders LANGUAGE plpgsql AS $x$ DECLARE o lr.orders; BEGIN ${body}; END $x$;`;
    await onBlue(`
      CREATE SCHEMA lr; CREATE TABLE lr.orders (id int PRIMARY KEY, total int); CREATE TABLE lr.other (id int PRIMARY KEY, total int);
      ${sql('a_sql', 'SELECT id, total * 2 FROM lr.orders')}
      ${sql('b_with', 'SELECT 1; WITH x AS (SELECT * FROM lr.orders) SELECT x.id, x.total FROM x')}
      ${sql('c_returning', 'INSERT INTO lr.orders VALUES (1, 2) RETURNING id, total', '')}
      ${plpgsql('d_query', 'RETURN QUERY SELECT id, total FROM lr.orders')}
      ${plpgsql('e_row', 'RETURN ROW(1, 2)', '')}
      ${sql('star', 'SELECT o.* FROM lr.orders o')}
      ${sql('whole', 'SELECT o FROM lr.orders o')}
      ${sql('returning_star', 'DELETE FROM lr.orders RETURNING *')}
      ${plpgsql('variable', 'SELECT id, total INTO o FROM lr.orders; RETURN o', '')}
      ${plpgsql('star_query', 'RETURN QUERY SELECT * FROM lr.orders WHERE id IN (1, 2)')}
      CREATE FUNCTION lr.another() RETURNS SETOF lr.other LANGUAGE sql AS 'SELECT id, total FROM lr.other'`);
    undo.push(() => onBlue('DROP SCHEMA lr CASCADE'));
    const add = { addColumn: { table: 'lr.orders', column: 'more', type: 'int' } };
    const [found, ...others] = only(await check({ migrations: [add] }), 'rows-by-position');
    expect(others).toEqual([]);
    expect(found).toMatchObject({ severity: 'warning', object: 'lr.orders' });
    expect([...(found?.message ?? '').matchAll(/lr\.(\w+)\(\)/g)].map(([, name]) => name)).toEqual([
      ...['a_sql', 'b_with', 'c_returning', 'd_query', 'e_row'],
    ]);
  });

  it('refuses none that only rows break which the backfill leaves as they are; of those that it may write it warns', async () => {
    await onBlue(`
      CREATE SCHEMA kept;
      CREATE FUNCTION kept.loud(text) RETURNS text LANGUAGE sql AS 'SELECT upper($1)';
      CREATE TABLE kept.mails (id int PRIMARY KEY, mail text, n int);
      CREATE TABLE kept.parted (id int, mail text) PARTITION BY LIST (id);
      CREATE TABLE kept.part PARTITION OF kept.parted DEFAULT;
      INSERT INTO kept.mails VALUES (1, 'a@b', 1), (2, NULL, 2); INSERT INTO kept.parted VALUES (1, NULL);
      ALTER TABLE kept.mails ADD CONSTRAINT has_mail CHECK (mail IS NOT NULL) NOT VALID;
      ALTER TABLE kept.part ADD CONSTRAINT has_mail CHECK (mail IS NOT NULL) NOT VALID`);
    undo.push(() => onBlue('DROP SCHEMA kept CASCADE'));
    const session = await openSession(pair.blue, { purpose: 'test' });
    undo.push(() => closeSession(session));
    const found = async (...migrations: NonNullable<PlanInput['migrations']>): Promise<string[]> => {
      const sides = { blue: { connection: 'test_blue' }, green: { connection: 'test_green' } };
      const plan = planSchema.parse({ version: 1, name: 'kept', ...sides, migrations });
      const of = {
        side: 'blue',
        database: pair.blue,
        session,
        plan,
        runId: RUN,
        version: 15,
        isSuperuser: true,
      } as const;
      const told = await notValidChecks.run({
        ...of,
        tables: () => readTables(session, plan.tables),
        excluded: () => Promise.resolve([]),
      });
      return told.map(
        ({ severity, object, message }) =>
          `${severity} ${object}${message.includes('does not mend') ? ' of rows that may be written' : ''}`,
      );
    };
    const add = (up: string, more = {}): NonNullable<PlanInput['migrations']>[number] => ({
      addColumn: { table: 'kept.mails', column: 'loud', type: 'text', up, ...more },
    });
    const mayBe = ['warning kept.mails.has_mail of rows that may be written'];
    expect(await found(add('upper(mails.mail)'))).toEqual([]);
    expect(
      await found({ addColumn: { table: 'kept.parted', column: 'loud', type: 'text', up: 'upper(parted.mail)' } }),
    ).toEqual([]);
    expect(await found(add(`coalesce(mail, '')`))).toEqual(['error kept.mails.has_mail']);
    expect(await found(add('upper(mail)', { default: `''` }))).toEqual(mayBe);
    // Functions of users are not run.
    expect(await found(add('kept.loud(mail)'))).toEqual(mayBe);
    expect(await found(add(`(SELECT max(p.mail) FROM kept.parted p) || mail`))).toEqual(mayBe);
    expect(
      await found(add('upper(mail)'), { addColumn: { table: 'kept.mails', column: 'm', type: 'text', up: 'loud' } }),
    ).toEqual(mayBe);
    // It mends the rows itself; others that break the constraint it does not.
    const fill = { setNotNull: { table: 'kept.mails', column: 'mail', up: `''` } };
    expect(await found(fill)).toEqual(mayBe);
    expect(await found(fill, add('n'))).toEqual(mayBe);
    await onBlue(
      `ALTER TABLE kept.mails DROP CONSTRAINT has_mail, ADD CONSTRAINT has_mail CHECK (mail IS NOT NULL AND n > 1) NOT VALID`,
    );
    expect(await found(fill, add('n'))).toEqual(['error kept.mails.has_mail']);
  });

  it('takes a NOT NULL that is NOT VALID for such a constraint, and one that is NOT ENFORCED for none', async () => {
    const later = await testDatabase('pg18', 'preflight not valid');
    undo.push(() => later.drop());
    await withClient(later.config, (client) =>
      client.query(`
        CREATE TABLE notes (id int PRIMARY KEY, body text, CONSTRAINT never CHECK (id < 0) NOT ENFORCED);
        INSERT INTO notes VALUES (1); ALTER TABLE notes ADD CONSTRAINT has_body NOT NULL body NOT VALID`),
    );
    const plan: Partial<PlanInput> = {
      migrations: [{ addColumn: { table: 'notes', column: 'n', type: 'int', up: 'id' } }],
      bootstrap: { method: 'tablesync' },
    };
    expect(only(await check(plan, { blue: asDatabase(later, 'blue') }), 'not-valid-checks')).toMatchObject([
      { severity: 'error', object: 'public.notes.has_body' },
    ]);
  });

  it('warns of a foreign key of the plan that lets green refuse a TRUNCATE which blue allows', async () => {
    await onBlue(`
      CREATE SCHEMA keyed;
      CREATE TABLE keyed.states (id int PRIMARY KEY);
      CREATE TABLE keyed.kinds (id int PRIMARY KEY);
      CREATE TABLE keyed.things (id int PRIMARY KEY, state int, kind int REFERENCES keyed.kinds, part_of int);
      CREATE TABLE keyed.others (id int REFERENCES keyed.states)`);
    undo.push(() => onBlue('DROP SCHEMA keyed CASCADE'));
    const key = (column: string, table: string): NonNullable<PlanInput['migrations']>[number] => ({
      addConstraint: {
        ...{ table: 'keyed.things', name: `things_${column}` },
        foreignKey: { columns: [column], references: { table, columns: ['id'] } },
      },
    });
    // A key of another table on blue does not help: TRUNCATE of both leaves the plan's child out.
    const migrations = [key('state', 'keyed.states'), key('kind', 'keyed.kinds'), key('part_of', 'keyed.things')];
    expect(only(await check({ migrations }), 'refused-truncates')).toMatchObject([
      { severity: 'warning', object: 'keyed.states', remedy: expect.stringContaining('DELETE') as string },
    ]);
  });

  it('REPLICA IDENTITY FULL is refused only where the way back could not publish all columns, and says what other consumers lose', async () => {
    await onBlue(`
      CREATE SCHEMA whole;
      CREATE TABLE whole.as_it_is (id int PRIMARY KEY, a text);
      CREATE TABLE whole.widened (id int PRIMARY KEY, a text);
      CREATE TABLE whole.filled (id int PRIMARY KEY, a text);
      CREATE TABLE whole.by_hand (id int PRIMARY KEY, a text);
      CREATE TABLE whole.renamed (id int PRIMARY KEY, a text);
      CREATE TABLE whole.parts (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
      CREATE TABLE whole.part_1 PARTITION OF whole.parts FOR VALUES FROM (1) TO (9);
      CREATE TABLE whole.generated (id int PRIMARY KEY, a text, b text GENERATED ALWAYS AS (lower(a)) STORED);
      CREATE TABLE whole.keyless (id int);
      CREATE TABLE whole.ordinary (id int PRIMARY KEY, a text)`);
    undo.push(() => onBlue('DROP SCHEMA whole CASCADE'));
    const full = ['as_it_is', 'widened', 'filled', 'by_hand', 'renamed', 'part_1', 'generated', 'keyless'];
    for (const name of full) await onBlue(`ALTER TABLE whole.${name} REPLICA IDENTITY FULL`);
    const added = (table: string) => ({ addColumn: { table: `whole.${table}`, column: 'more', type: 'int' } });
    const found = only(
      await check({
        migrations: [
          ...['widened', 'parts', 'ordinary'].map(added),
          { setNotNull: { table: 'whole.filled', column: 'a', up: `''` } },
          {
            sql: {
              name: 'by hand',
              up: 'ALTER TABLE whole.by_hand ADD COLUMN c int; ALTER TABLE whole.renamed RENAME COLUMN a TO d',
              down: 'ALTER TABLE whole.by_hand DROP COLUMN c; ALTER TABLE whole.renamed RENAME COLUMN d TO a',
            },
          },
        ],
      }),
      'replica-identity',
    );
    const why = (name: string): string => found.find(({ object }) => object === `whole.${name}`)?.message ?? 'nothing';
    expect(found.map(({ object }) => object)).toEqual(
      ['by_hand', 'generated', 'keyless', 'part_1', 'renamed', 'widened'].map((name) => `whole.${name}`),
    );
    for (const name of ['by_hand', 'part_1', 'renamed', 'widened']) expect(why(name)).toContain('gives it columns');
    expect(why('generated')).toContain('generated columns (b)');
    expect(why('keyless')).toContain('no primary key');
    expect(found.find(({ object }) => object === 'whole.widened')?.remedy).toMatch(
      /REPLICA IDENTITY DEFAULT on blue.*other-consumers.*gets none from then on/,
    );
    expect(only(await check(), 'replica-identity').map(({ object }) => object)).toEqual([
      'whole.generated',
      'whole.keyless',
    ]);
  });

  it('a partitioned table without a key is one finding, and its partitions are told for what is their own', async () => {
    await onBlue(`
      CREATE SCHEMA daily;
      CREATE TABLE daily.log (day int, a int) PARTITION BY RANGE (day);
      CREATE TABLE daily.later PARTITION OF daily.log FOR VALUES FROM (1000) TO (2000) PARTITION BY RANGE (day);
      CREATE TABLE daily.leaf PARTITION OF daily.later FOR VALUES FROM (1000) TO (1500);
      DO $$ BEGIN
        FOR i IN 1..400 LOOP
          EXECUTE format('CREATE TABLE daily.log_%s PARTITION OF daily.log FOR VALUES FROM (%s) TO (%s)', i, i, i + 1);
        END LOOP;
      END $$;
      ALTER TABLE daily.log_7 REPLICA IDENTITY NOTHING;
      CREATE TABLE daily.keyed (day int PRIMARY KEY) PARTITION BY RANGE (day);
      CREATE TABLE daily.keyed_1 PARTITION OF daily.keyed FOR VALUES FROM (1) TO (9);
      ALTER TABLE daily.keyed_1 REPLICA IDENTITY NOTHING`);
    undo.push(() => onBlue('DROP SCHEMA daily CASCADE'));
    const found = only(await check(), 'replica-identity');
    expect(found.map(({ object }) => object)).toEqual(['daily.keyed_1', 'daily.log', 'daily.log_7']);
    const [, log, own] = found;
    expect(log?.remedy).toContain('"daily"."log" ADD PRIMARY KEY (..., with all columns that it is partitioned by)');
    expect(own?.remedy).toContain('put "daily.log" into "tables.exclude"');
  });

  it('warns of a table that was added to an extension, which green would not have', async () => {
    await onBlue('CREATE EXTENSION hstore');
    undo.push(() => onBlue('DROP EXTENSION hstore CASCADE; DROP TABLE IF EXISTS public.jobs'));
    await onBlue('CREATE TABLE public.jobs (id int PRIMARY KEY); ALTER EXTENSION hstore ADD TABLE public.jobs');
    const found = async (plan: Partial<PlanInput> = {}): Promise<PreflightFinding[]> =>
      only(await check(plan), 'unmoved-rows');
    const [added, ...others] = await found();
    expect(others).toEqual([]);
    expect(added).toMatchObject({ severity: 'warning', object: 'public.jobs' });
    expect(await found({ tables: { exclude: ['public.jobs'] } })).toEqual([]);
    await onBlue((added?.remedy ?? '').split(' on blue')[0] ?? '');
    expect(await found()).toEqual([]);
  });

  it('names what the dump leaves out: security labels by provider, tablespaces with what is in them', async () => {
    const space = `space_${TAG}`;
    await withClient(pair.blueDb.config, async (client) => {
      await client.query('SET allow_in_place_tablespaces = on; SET allow_system_table_mods = on');
      await client.query(`CREATE TABLESPACE ${space} LOCATION ''`);
      await client.query(`CREATE TABLE public.apart (id int PRIMARY KEY) TABLESPACE ${space}`);
      await client.query(
        `INSERT INTO pg_seclabel VALUES ('public.apart'::regclass, 'pg_class'::regclass, 0, 'anon', 'MASKED'),
                                        ('public.apart'::regclass, 'pg_class'::regclass, 1, 'anon', 'MASKED')`,
      );
    });
    undo.push(
      () => onBlue(`DROP TABLESPACE ${space}`),
      () => onBlue(`SET allow_system_table_mods = on; DELETE FROM pg_seclabel; DROP TABLE public.apart`),
    );
    const findings = await check();
    expect(only(findings, 'security-labels')).toEqual([
      expect.objectContaining({
        severity: 'warning',
        object: 'anon',
        message: expect.stringContaining('blue has 2 security labels of anon') as string,
      }),
    ]);
    expect(only(findings, 'tablespaces')).toEqual([
      expect.objectContaining({
        severity: 'info',
        object: space,
        message: expect.stringMatching(/^1 tables and indexes .*: (public\.)?apart\)/) as string,
      }),
    ]);
    expect(only(await check({ bootstrap: { method: 'standby' } }), 'security-labels')).toEqual([]);
  });

  it('refuses to move a table without the rows of those that inherit from it; empty ones are a warning', async () => {
    await onBlue(`
      CREATE SCHEMA heirs;
      CREATE TABLE heirs.event (id int PRIMARY KEY);
      CREATE TABLE heirs.event_1 (PRIMARY KEY (id)) INHERITS (heirs.event);
      CREATE TABLE heirs.event_1_a (PRIMARY KEY (id)) INHERITS (heirs.event_1);
      CREATE TABLE heirs.event_2 (PRIMARY KEY (id)) INHERITS (heirs.event);
      INSERT INTO heirs.event_1_a VALUES (1)`);
    undo.push(() => onBlue('DROP SCHEMA heirs CASCADE'));
    const torn = async (exclude: string[]): Promise<string[]> =>
      only(await check({ tables: { include: ['*.*'], exclude } }), 'torn-apart').map(
        ({ severity, object, message }) => `${severity} ${object}: ${message}`,
      );
    expect(await torn(['heirs.event_*'])).toEqual([
      expect.stringMatching(/^error heirs\.event: .* without heirs\.event_1_a, which inherit/),
      expect.stringMatching(/^warning heirs\.event: .* without heirs\.event_1, heirs\.event_2, .* empty now/),
    ]);
    await onBlue('ALTER TABLE heirs.event_1_a SET UNLOGGED');
    expect(await torn(['heirs.event_*'])).toContainEqual(
      expect.stringMatching(/^error heirs\.event: .* without heirs\.event_1_a, which inherit/),
    );
    await onBlue('TRUNCATE heirs.event_1_a; ALTER TABLE heirs.event_1_a SET LOGGED');
    expect(await torn(['heirs.event_*'])).toEqual([expect.stringMatching(/^warning heirs\.event: /)]);
    expect(await torn([])).toEqual([]);
    expect(await torn(['heirs.*'])).toEqual([]);
  });

  it('warns of columns whose values mean something on one server only', async () => {
    await onBlue(`
      CREATE SCHEMA outbox;
      CREATE DOMAIN outbox.place AS pg_lsn;
      CREATE TABLE outbox.event (id int PRIMARY KEY, at xid8, places outbox.place[], relation oid, named regclass,
        tx bigint DEFAULT (pg_current_xact_id()::text::bigint), made timestamptz DEFAULT now())`);
    undo.push(() => onBlue('DROP SCHEMA outbox CASCADE'));
    expect(only(await check({ tables: { include: ['outbox.*'] } }), 'server-values')).toEqual([
      expect.objectContaining({
        severity: 'warning',
        object: 'outbox.event.at, outbox.event.places, outbox.event.relation, outbox.event.tx',
      }),
    ]);
    const standby = await check({ tables: { include: ['outbox.*'] }, bootstrap: { method: 'standby' } });
    expect(only(standby, 'server-values')).toEqual([]);
  });

  it('names types that have other numbers on green: a warning where applications of any language are led there', async () => {
    await onBlue(`
      CREATE SCHEMA ty;
      CREATE TYPE ty.mood AS ENUM ('ok', 'sad');
      CREATE DOMAIN ty.short AS varchar(9);
      CREATE DOMAIN ty.good AS ty.mood;
      CREATE TABLE ty.plain (id int PRIMARY KEY, tags text[], at timestamptz, s ty.short, n numrange);
      CREATE TABLE ty.people (id int PRIMARY KEY, m ty.mood, ms ty.mood[], g ty.good) PARTITION BY RANGE (id);
      CREATE TABLE ty.part PARTITION OF ty.people DEFAULT`);
    undo.push(() => onBlue('DROP SCHEMA ty CASCADE'));
    const found = async (plan: Partial<PlanInput>): Promise<unknown[]> =>
      only(await check(plan), 'type-oids').map(({ severity, side, object }) => [severity, side, object]);
    const named = ['blue', 'ty.mood (ty.people.m, ty.people.g), ty.mood[] (ty.people.ms)'];
    const pgbouncer = { databases: ['orders'], instances: [{ connection: 'pool', file: '/nowhere' }] };
    expect(await found({ traffic: { stages: [], pgbouncer } })).toEqual([['warning', ...named]]);
    expect(await found({})).toEqual([['info', ...named]]);
    expect(await found({ tables: { exclude: ['ty.people'] } })).toEqual([]);
    expect(await found({ bootstrap: { method: 'standby' } })).toEqual([]);
  });

  it('refuses a default that takes values of a sequence of a table which the plan leaves out', async () => {
    await onBlue(`
      CREATE SCHEMA serial;
      CREATE TABLE serial.old (id serial PRIMARY KEY);
      CREATE TABLE serial.new (id int PRIMARY KEY DEFAULT nextval('serial.old_id_seq'))`);
    undo.push(() => onBlue('DROP SCHEMA serial CASCADE'));
    const torn = async (exclude: string[]): Promise<PreflightFinding[]> =>
      only(await check({ tables: { include: ['*.*'], exclude } }), 'torn-apart');
    expect(await torn(['serial.old'])).toEqual([
      expect.objectContaining({
        severity: 'error',
        object: 'serial.new.id (serial.old_id_seq)',
        remedy: 'Include serial.old in "tables", or ALTER SEQUENCE ... OWNED BY NONE on blue: it goes along then',
      }),
    ]);
    expect(await torn([])).toEqual([]);
    expect(await torn(['serial.*'])).toEqual([]);
    await onBlue('ALTER SEQUENCE serial.old_id_seq OWNED BY NONE');
    expect(await torn(['serial.old'])).toEqual([]);
  });

  it('refuses policies and rules that need a table which the plan leaves out; a standby brings it along', async () => {
    await onBlue(`
      CREATE SCHEMA tenancy;
      CREATE TABLE tenancy.members (id int PRIMARY KEY, name text);
      CREATE TABLE public.docs (id int PRIMARY KEY);
      CREATE POLICY "of members" ON public.docs
        USING (EXISTS (SELECT FROM tenancy.members m WHERE m.id = docs.id AND m.name = current_user));
      CREATE POLICY own ON public.docs USING (id = 1);
      CREATE RULE noted AS ON DELETE TO public.docs DO ALSO INSERT INTO tenancy.members VALUES (old.id)`);
    undo.push(() => onBlue('DROP TABLE public.docs; DROP SCHEMA tenancy CASCADE'));
    const tables = { include: ['public.*'], exclude: [] };
    const torn = async (plan: Partial<PlanInput>): Promise<string[]> =>
      only(await check({ tables, ...plan }), 'torn-apart').map(({ severity, message }) => `${severity}: ${message}`);
    expect(await torn({})).toEqual([
      expect.stringMatching(
        /^error: the policy "of members" on (public\.)?docs needs tenancy\.members, .* can't be made/,
      ),
      expect.stringMatching(/^error: the rule noted on (public\.)?docs needs tenancy\.members, .* can't be made/),
    ]);
    expect(await torn({ bootstrap: { method: 'standby' } })).toEqual([
      expect.stringMatching(/^warning: the policy "of members" .* stays as it is when green is promoted/),
      expect.stringMatching(/^warning: the rule noted .* stays as it is when green is promoted/),
    ]);
    expect(await torn({ tables: { include: ['*.*'], exclude: [] } })).toEqual([]);
  });

  it('refuses hypertables, as the catalog of TimescaleDB names them', async () => {
    await onBlue(`
      CREATE SCHEMA _timescaledb_catalog; CREATE SCHEMA _timescaledb_internal;
      CREATE TABLE _timescaledb_catalog.hypertable (id int PRIMARY KEY, schema_name name, table_name name);
      CREATE SCHEMA metric;
      CREATE TABLE metric."Cpu" (at timestamptz PRIMARY KEY);
      CREATE TABLE metric.host (id int PRIMARY KEY);
      CREATE TABLE _timescaledb_internal._hyper_1_1_chunk (PRIMARY KEY (at)) INHERITS (metric."Cpu");
      INSERT INTO _timescaledb_catalog.hypertable VALUES (1, 'metric', 'Cpu'), (2, 'metric', 'gone')`);
    undo.push(() => onBlue('DROP SCHEMA metric, _timescaledb_catalog, _timescaledb_internal CASCADE'));
    const found = async (exclude: string[]): Promise<string[]> =>
      only(await check({ tables: { include: ['*.*'], exclude } }), 'hypertables').map(
        ({ severity, object }) => `${severity} ${object}`,
      );
    expect(await found([])).toEqual(['error metric."Cpu"']);
    expect(await found(['metric."Cpu"', '_timescaledb_internal.*'])).toEqual([]);
  });
});
