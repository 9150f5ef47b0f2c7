import { describe, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { isNameInFunction, mendFunction } from '../../src/postgres/name-in-function.js';
import { schemaCopyFailed } from '../../src/postgres/schema-copy/schema-copy-failed.js';
import { withClient } from '../support/postgres.js';
import { contents, only, preflightPair, TAG } from '../support/preflight-pair.js';

const pair = preflightPair('code');
const { check, onBlue, onGreen, undo } = pair;

describe('preflight', () => {
  it('refuses rules that fire in every session where the backfill would set them off; others are for the record', async () => {
    await onBlue(`
      CREATE SCHEMA ruled;
      CREATE TABLE ruled.notes (id int PRIMARY KEY, body text);
      CREATE TABLE ruled.log (n int PRIMARY KEY);
      CREATE RULE always AS ON UPDATE TO ruled.notes DO ALSO INSERT INTO ruled.log VALUES (1);
      CREATE RULE ordinary AS ON UPDATE TO ruled.notes DO ALSO INSERT INTO ruled.log VALUES (1);
      CREATE RULE inserted AS ON INSERT TO ruled.notes DO ALSO INSERT INTO ruled.log VALUES (1);
      ALTER TABLE ruled.notes ENABLE ALWAYS RULE always, ENABLE REPLICA RULE inserted`);
    undo.push(() => onBlue('DROP SCHEMA ruled CASCADE'));
    const migrations = [{ addColumn: { table: 'ruled.notes', column: 'loud', type: 'text', up: 'upper(body)' } }];
    const found = async (plan: Partial<PlanInput>): Promise<string[]> =>
      only(await check(plan), 'rules').map(({ severity, object }) => `${severity} ${object}`);
    const all = 'info ruled.notes.always, ruled.notes.inserted, ruled.notes.ordinary';
    for (const method of ['tablesync', 'standby'] as const) {
      const bootstrap = { method };
      expect(await found({ migrations, bootstrap })).toEqual([
        'error ruled.notes.always',
        'info ruled.notes.inserted, ruled.notes.ordinary',
      ]);
      expect(await found({ bootstrap })).toEqual([all]);
    }
    expect(await found({ migrations })).toEqual([all]);
  });

  it('names what is computed by functions that read tables: a CHECK may refuse right rows, a stored column would hold other values', async () => {
    await onBlue(`
      CREATE SCHEMA lk;
      CREATE TABLE lk.currencies (code text PRIMARY KEY, rate numeric);
      CREATE FUNCTION lk.is_currency(text) RETURNS boolean LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM lk.currencies WHERE code = $1)';
      CREATE FUNCTION lk.rate_of(c text) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT rate FROM lk.currencies WHERE code = c); END';
      CREATE FUNCTION lk.parsed(c text) RETURNS boolean LANGUAGE sql BEGIN ATOMIC SELECT count(*) > 0 FROM lk.currencies WHERE code = c; END;
      CREATE FUNCTION lk.of_the_row(c text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT count(*) > 0 FROM unnest(ARRAY[c]) WHERE extract(year FROM date ''2000-01-01'') IS DISTINCT FROM 1';
      CREATE DOMAIN lk.currency AS text CHECK (lk.is_currency(VALUE));
      INSERT INTO lk.currencies VALUES ('EUR', 1);
      CREATE TABLE lk.orders (
        id int PRIMARY KEY, c text, d lk.currency, rate numeric GENERATED ALWAYS AS (lk.rate_of(c)) STORED,
        CONSTRAINT known CHECK (lk.is_currency(c)), CONSTRAINT parsed CHECK (lk.parsed(c)), CONSTRAINT of_row CHECK (lk.of_the_row(c)));
      CREATE INDEX by_rate ON lk.orders (lk.rate_of(c))`);
    undo.push(() => onBlue('DROP SCHEMA lk CASCADE'));
    const found = async (plan: Partial<PlanInput>): Promise<string[]> =>
      only(await check(plan), 'computed-from-tables').map(({ severity, object }) => `${severity} ${object}`);
    const all = [
      'error generated column lk.orders.rate',
      'warning constraint known of lk.orders',
      'warning constraint parsed of lk.orders',
      'warning domain lk.currency of lk.orders.d',
    ];
    for (const method of ['copy', 'tablesync'] as const) expect(await found({ bootstrap: { method } })).toEqual(all);
    expect(await found({ bootstrap: { method: 'standby' } })).toEqual([]);
    await onBlue(`
      ALTER TABLE lk.orders DROP CONSTRAINT known, ADD CONSTRAINT known CHECK (lk.is_currency(c)) NOT VALID, ALTER rate DROP EXPRESSION;
      ALTER DOMAIN lk.currency DROP CONSTRAINT currency_check; ALTER DOMAIN lk.currency ADD CHECK (lk.is_currency(VALUE)) NOT VALID`);
    expect(await found({})).toEqual(['warning constraint parsed of lk.orders']);
  });

  it('computes a view whose source on another server is away, and takes that for no lost connection', async () => {
    await onBlue(`
      CREATE SCHEMA away;
      CREATE FUNCTION away.customers() RETURNS int LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'could not connect to server "erp"' USING ERRCODE = '08001'; END $$;
      CREATE MATERIALIZED VIEW away.seen AS SELECT away.customers() AS n WITH NO DATA`);
    undo.push(() => onBlue('DROP SCHEMA away CASCADE'));
    const findings = await check();
    expect([...only(findings, 'check-failed'), ...only(findings, 'function-search-path')]).toEqual([]);
  });

  it('refuses triggers that fire in every session where the backfill would fire them', async () => {
    await onBlue(`
      CREATE SCHEMA audited;
      CREATE TABLE audited.parts (id int PRIMARY KEY, body text, note text) PARTITION BY RANGE (id);
      CREATE TABLE audited.part PARTITION OF audited.parts DEFAULT;
      CREATE TABLE audited.other (id int PRIMARY KEY, body text);
      CREATE FUNCTION audited.audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
      CREATE TRIGGER any_column AFTER UPDATE ON audited.parts FOR EACH ROW EXECUTE FUNCTION audited.audit();
      CREATE TRIGGER of_body AFTER UPDATE OF body ON audited.parts FOR EACH ROW EXECUTE FUNCTION audited.audit();
      CREATE TRIGGER of_note AFTER UPDATE OF note ON audited.part FOR EACH ROW EXECUTE FUNCTION audited.audit();
      CREATE TRIGGER inserted AFTER INSERT OR DELETE ON audited.parts FOR EACH ROW EXECUTE FUNCTION audited.audit();
      CREATE TRIGGER ordinary AFTER UPDATE ON audited.parts FOR EACH ROW EXECUTE FUNCTION audited.audit();
      CREATE TRIGGER elsewhere AFTER UPDATE ON audited.other FOR EACH ROW EXECUTE FUNCTION audited.audit();
      ALTER TABLE audited.parts ENABLE ALWAYS TRIGGER any_column, ENABLE REPLICA TRIGGER of_body, ENABLE ALWAYS TRIGGER inserted;
      ALTER TABLE audited.part ENABLE REPLICA TRIGGER of_note;
      ALTER TABLE audited.other ENABLE ALWAYS TRIGGER elsewhere`);
    undo.push(() => onBlue('DROP SCHEMA audited CASCADE'));
    const migrations = [
      { addColumn: { table: 'audited.parts', column: 'loud', type: 'text', up: 'upper(body)' } },
      { setNotNull: { table: 'audited.parts', column: 'note', up: `'none'` } },
    ];
    const found = async (plan: Partial<PlanInput>): Promise<string[]> =>
      only(await check(plan), 'replica-triggers').map(({ severity, object }) => `${severity} ${object}`);
    const all = ['audited.other.elsewhere', 'audited.part.of_note', 'audited.parts.any_column'];
    const fires = [all[1], all[2]];
    const named = [...all, 'audited.parts.inserted', 'audited.parts.of_body'];
    for (const method of ['tablesync', 'standby'] as const) {
      expect((await found({ migrations, bootstrap: { method } })).sort()).toEqual(
        named.map((object) => `${fires.includes(object) ? 'error' : 'warning'} ${object}`).sort(),
      );
    }
    const warnings = named.map((object) => `warning ${object}`);
    expect(await found({ migrations })).toEqual(warnings);
    expect(await found({ bootstrap: { method: 'tablesync' } })).toEqual(warnings);
  });

  it('names triggers that would not see what "down" writes, and no others', async () => {
    const trigger = (name: string, when: string, body = 'NULL'): string =>
      `CREATE FUNCTION ud.${name}() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN ${body}; RETURN NEW; END $x$;
       CREATE TRIGGER ${name} ${when} FOR EACH ROW EXECUTE FUNCTION ud.${name}();`;
    await onBlue(`
      CREATE SCHEMA ud;
      CREATE TABLE ud.articles (id int PRIMARY KEY, body text, title text, search tsvector) PARTITION BY RANGE (id);
      CREATE TABLE ud.part PARTITION OF ud.articles DEFAULT;
      CREATE TABLE ud.other (id int PRIMARY KEY, body text);
      CREATE TRIGGER indexed BEFORE INSERT OR UPDATE ON ud.articles
        FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger(search, 'pg_catalog.english', body);
      ${trigger('reads', 'BEFORE INSERT ON ud.part', 'NEW.title := NEW.body')}
      ${trigger('reads_title', 'BEFORE UPDATE ON ud.articles', 'NEW.title := upper(NEW.title)')}
      ${trigger('zz_reads', 'BEFORE UPDATE ON ud.articles', 'NEW.title := NEW.body')}
      ${trigger('after_reads', 'AFTER UPDATE ON ud.articles', 'PERFORM NEW.body')}
      ${trigger('of_body', 'AFTER UPDATE OF body, title ON ud.articles')}
      ${trigger('of_title', 'AFTER UPDATE OF title ON ud.articles')}
      ${trigger('off', 'AFTER UPDATE OF body ON ud.articles')}
      ALTER TABLE ud.articles DISABLE TRIGGER off;
      ${trigger('elsewhere', 'AFTER UPDATE OF body ON ud.other')}`);
    undo.push(() => onBlue('DROP SCHEMA ud CASCADE'));
    const changed = { table: 'ud.articles', column: 'body', newColumn: 'html', type: 'text', up: 'body', down: 'html' };
    const found = async (plan: Partial<PlanInput>): Promise<string[]> =>
      only(await check(plan), 'triggers-and-down').map(
        ({ severity, object, message }) =>
          `${severity} ${object}: ${/fires before|does not fire/.exec(message)?.[0] ?? ''}`,
      );
    expect(await found({ migrations: [{ changeType: changed }] })).toEqual([
      'warning ud.articles.indexed: fires before',
      'warning ud.articles.of_body: does not fire',
      'warning ud.part.reads: fires before',
    ]);
    const add = { addColumn: { table: 'ud.articles', column: 'html', type: 'text', up: 'body' } };
    expect(await found({ migrations: [add] })).toEqual([]);
  });

  it('refuses triggers that fire for applied rows where they would write, or make them other rows', async () => {
    const bodies: Readonly<Record<string, string>> = {
      audits: 'INSERT INTO applied.log (what) VALUES (NEW.body); RETURN NULL',
      stamps: 'NEW.at := now(); RETURN NEW',
      stamps_otherwise: 'IF TG_OP <> $$DELETE$$ THEN NEW.at = clock_timestamp(); END IF; RETURN NEW',
      counts: 'NEW.n := NEW.n + 1; RETURN NEW',
      selects: 'SELECT now() INTO NEW.at; RETURN NEW',
      tells: 'PERFORM pg_notify($$a$$, now()::text); RETURN NEW',
      compares: 'IF NEW.n = OLD.n THEN PERFORM pg_notify($$a$$, now()::text); END IF; RETURN NEW',
      normalizes: 'NEW.body := lower(NEW.body); RETURN NEW',
      knows:
        'IF current_setting($$session_replication_role$$) <> $$replica$$ THEN DELETE FROM applied.log; END IF; RETURN NEW',
      of_statements: 'INSERT INTO applied.log (what) VALUES ($$all$$); RETURN NULL',
    };
    const made = Object.entries(bodies).map(([name, body]) => {
      const each = name === 'of_statements' ? 'STATEMENT' : 'ROW';
      return `CREATE FUNCTION applied.${name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN ${body}; END';
        CREATE TRIGGER ${name} ${name === 'audits' ? 'AFTER' : 'BEFORE'} INSERT OR UPDATE ON applied.notes FOR EACH ${each} EXECUTE FUNCTION applied.${name}();
        ALTER TABLE applied.notes ENABLE ${name === 'stamps' ? 'REPLICA' : 'ALWAYS'} TRIGGER ${name};`;
    });
    await onBlue(`CREATE SCHEMA applied; CREATE TABLE applied.log (id serial PRIMARY KEY, what text);
      CREATE TABLE applied.notes (id int PRIMARY KEY, body text, at timestamptz, n int); ${made.join('\n')}`);
    undo.push(() => onBlue('DROP SCHEMA applied CASCADE'));
    for (const method of ['copy', 'tablesync'] as const) {
      const found = only(await check({ bootstrap: { method } }), 'replica-triggers').filter(({ object }) =>
        object?.startsWith('applied.'),
      );
      expect(found.map(({ severity, object }) => `${severity} ${object ?? ''}`).sort()).toEqual([
        ...['audits', 'counts', 'selects', 'stamps', 'stamps_otherwise'].map((name) => `error applied.notes.${name}`),
        ...['compares', 'knows', 'normalizes', 'of_statements', 'tells'].map((name) => `warning applied.notes.${name}`),
      ]);
    }
  });

  it('only warns of triggers that write nothing but tables which the plan leaves out and green has', async () => {
    const bodies: Readonly<Record<string, string>> = {
      audits:
        'INSERT INTO kept.audit (what) VALUES (NEW.body) ON CONFLICT (id) DO UPDATE SET what = NEW.body; RETURN NULL',
      of_any_schema: 'UPDATE ONLY Audit SET what = NEW.body; RETURN NULL',
      comments: '/* TRUNCATE kept.notes */ RETURN NULL -- DELETE FROM kept.notes\n',
      caches: 'DELETE FROM kept.cache; RETURN NULL',
      guards: "IF NEW.id < 0 THEN RAISE EXCEPTION 'cannot delete from %: posted', TG_TABLE_NAME; END IF; RETURN NULL",
      says: "RAISE NOTICE E'it''s so: \\'truncate is not allowed'; RAISE NOTICE $m$delete from x$m$; RETURN NULL",
      remote: "PERFORM dblink_exec('log', 'INSERT INTO log VALUES (1)'); RETURN NULL",
      stamps: 'DELETE FROM kept.cache; NEW.at := now(); RETURN NEW',
      and_moved: 'INSERT INTO kept.audit (what) VALUES (NEW.body); DELETE FROM kept."Moved" m; RETURN NULL',
      dynamic: 'EXECUTE format($$INSERT INTO kept.%I VALUES (1)$$, TG_ARGV[0]); RETURN NULL',
      pieces:
        'INSERT INTO kept.audit (what) VALUES (NEW.body); EXECUTE $$DELETE $$ || $$FROM kept.notes$$; RETURN NULL',
      through_view: 'INSERT INTO kept.seen VALUES (NEW.id); RETURN NULL',
      several: 'TRUNCATE kept.audit, kept."Moved"; RETURN NULL',
      not_there: 'INSERT INTO kept.later VALUES (1); RETURN NULL',
    };
    const made = Object.entries(bodies).map(
      ([name, body]) => `CREATE FUNCTION kept.${name}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN ${body}; END $f$;
        CREATE TRIGGER ${name} ${name === 'stamps' ? 'BEFORE' : 'AFTER'} INSERT ON kept.notes FOR EACH ROW EXECUTE FUNCTION kept.${name}();
        ALTER TABLE kept.notes ENABLE ALWAYS TRIGGER ${name};`,
    );
    await onBlue(`CREATE SCHEMA kept; CREATE TABLE kept.audit (id serial PRIMARY KEY, what text);
      CREATE TABLE kept."Moved" (id int PRIMARY KEY); CREATE UNLOGGED TABLE kept.cache (id int PRIMARY KEY);
      CREATE VIEW kept.seen AS SELECT id FROM kept."Moved";
      CREATE TABLE kept.notes (id int PRIMARY KEY, body text, at timestamptz); ${made.join('\n')}`);
    undo.push(() => onBlue('DROP SCHEMA kept CASCADE'));
    const severities = async (method: 'standby' | 'copy'): Promise<Record<string, string>> => {
      const found = only(
        await check({ bootstrap: { method }, tables: { exclude: ['kept.audit'] } }),
        'replica-triggers',
      ).filter(({ object }) => object?.startsWith('kept.'));
      return Object.fromEntries(found.map(({ severity, object = '' }) => [object.split('.')[2], severity]));
    };
    const errors = Object.fromEntries(
      ['and_moved', 'dynamic', 'not_there', 'pieces', 'remote', 'several', 'stamps', 'through_view'].map((name) => [
        name,
        'error',
      ]),
    );
    const copied = { ...errors, comments: 'warning', caches: 'warning', guards: 'warning', says: 'warning' };
    expect(await severities('standby')).toEqual({ ...copied, audits: 'warning', of_any_schema: 'warning' });
    expect(await severities('copy')).toEqual({ ...copied, audits: 'error', of_any_schema: 'error' });
  });

  it('computes what calls functions of users with an empty search_path, and refuses those that name something without its schema', async () => {
    await onBlue(`
      CREATE SCHEMA fx;
      CREATE FUNCTION fx.base(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper($1)';
      SET search_path = fx, pg_catalog;
      CREATE FUNCTION sql_body(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT base($1)';
      CREATE FUNCTION strict_body(text) RETURNS text IMMUTABLE STRICT LANGUAGE plpgsql AS 'BEGIN RETURN base($1); END';
      CREATE FUNCTION equal_to(text, text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN base($1) = base($2); END';
      CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = equal_to);
      CREATE FUNCTION own_path(text) RETURNS text IMMUTABLE LANGUAGE sql SET search_path = fx AS 'SELECT base($1)';
      CREATE FUNCTION qualified(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT fx.base($1)';
      CREATE FUNCTION slow(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.pg_sleep(60); RETURN base($1); END';
      CREATE FUNCTION refuses(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN IF $1 IS NULL THEN RAISE EXCEPTION $s$no$s$; END IF; RETURN true; END';
      CREATE DOMAIN loud AS text CHECK (sql_body(VALUE) = VALUE);
      CREATE TABLE empty (column1 text, t text, g text GENERATED ALWAYS AS (sql_body(t)) STORED, CHECK (refuses(t)));
      CREATE TABLE "Full" (id int PRIMARY KEY, t text, l loud, CONSTRAINT same CHECK (t === t));
      CREATE INDEX by_sql ON empty (sql_body(t), t);
      CREATE INDEX fine ON "Full" (own_path(t), qualified(t));
      CREATE TABLE parts (id int, t text) PARTITION BY LIST (sql_body(t));
      CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN ('A');
      CREATE INDEX on_parts ON parts (sql_body(t));
      CREATE STATISTICS counted ON sql_body(t), column1 FROM empty;
      INSERT INTO "Full" VALUES (1, NULL, NULL), (2, 'a', 'A');
      CREATE INDEX partial ON "Full" (id) WHERE strict_body(t) = 'A';
      CREATE MATERIALIZED VIEW seen AS SELECT strict_body(t) FROM "Full" WHERE id > 1;
      ALTER TABLE empty ADD CONSTRAINT takes_long CHECK (slow(t) = 'x') NOT VALID`);
    undo.push(() => onBlue('DROP SCHEMA fx CASCADE'));
    const found = only(await check(), 'function-search-path');
    expect(found.map(({ object }) => object)).toEqual([
      'constraint same of fx."Full"',
      'domain fx.loud of fx."Full".l',
      'generated column fx.empty.g',
      'index fx.by_sql',
      'index fx.on_parts',
      'index fx.partial',
      'materialized view fx.seen',
      'partition key of fx.parts',
      'statistics counted of fx.empty',
    ]);
    expect(found.find(({ object }) => object === 'index fx.partial')).toMatchObject({
      severity: 'error',
      message: expect.stringContaining('function base(text) does not exist') as string,
      remedy: expect.stringContaining(
        'ALTER FUNCTION fx.strict_body(text) SET search_path = pg_catalog, fx, public, pg_temp',
      ) as string,
    });
    for (const signature of ['sql_body(text)', 'strict_body(text)', 'equal_to(text, text)']) {
      await onBlue(`ALTER FUNCTION fx.${signature} SET search_path = pg_catalog, fx, public, pg_temp`);
    }
    expect(only(await check(), 'function-search-path')).toEqual([]);
  });

  it('computes functions of other roles with the rights of the owner of the table, never with those of a superuser', async () => {
    const role = `writer_${TAG}`;
    await onBlue(`
      CREATE ROLE ${role};
      CREATE SCHEMA fz;
      CREATE FUNCTION fz.hijacks(text) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
          BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN NULL; END;
          IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN PERFORM ran_as_superuser(); END IF;
          RETURN true;
        END $$;
      CREATE FUNCTION fz.forgets(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN base($1); END $$;
      GRANT USAGE ON SCHEMA fz TO ${role};
      CREATE TABLE fz.theirs (id int PRIMARY KEY, t text, CONSTRAINT hijacks CHECK (fz.hijacks(t)), CONSTRAINT forgets CHECK (fz.forgets(t) <> ''));
      CREATE TABLE fz.ours (id int PRIMARY KEY, t text, CONSTRAINT hijacks CHECK (fz.hijacks(t)));
      ALTER FUNCTION fz.hijacks(text) OWNER TO ${role};
      ALTER TABLE fz.theirs OWNER TO ${role}`);
    undo.push(() => onBlue(`DROP SCHEMA fz CASCADE; DROP ROLE ${role}`));
    // An event trigger that notes DDL, and finds its table by the path of the session.
    await onBlue(`
      CREATE TABLE public.ddl_log (tag text, PRIMARY KEY (tag));
      CREATE FUNCTION public.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO ddl_log VALUES (tg_tag); END $$;
      CREATE EVENT TRIGGER log_ddl_fz ON ddl_command_end EXECUTE FUNCTION public.log_ddl()`);
    undo.push(() => onBlue('DROP EVENT TRIGGER log_ddl_fz; DROP FUNCTION public.log_ddl(); DROP TABLE public.ddl_log'));
    const before = await contents(pair.blueDb);
    expect(only(await check(), 'function-search-path')).toMatchObject([
      { severity: 'error', object: 'constraint forgets of fz.theirs' },
      { severity: 'info', object: 'constraint hijacks of fz.ours' },
    ]);
    expect(await contents(pair.blueDb)).toEqual(before);
  });

  it('warns of schemas in which others may make what expressions of the plan would find', async () => {
    const role = `maker_${TAG}`;
    const plan = {
      migrations: [{ addColumn: { table: 'orders', column: 'doubled', type: 'numeric', up: 'total * 2' } }],
    };
    expect(only(await check(plan), 'open-schemas').filter(({ side }) => side === 'green')).toEqual([]);
    await onBlue(`CREATE ROLE ${role}; CREATE ROLE ${role}_too; ALTER TABLE public.orders OWNER TO ${role};
      REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT CREATE ON SCHEMA public TO ${role}`);
    undo.push(() =>
      onBlue(`ALTER TABLE public.orders OWNER TO CURRENT_USER; REVOKE ALL ON SCHEMA public FROM ${role}, ${role}_too, PUBLIC;
              GRANT USAGE ON SCHEMA public TO PUBLIC; DROP ROLE ${role}, ${role}_too`),
    );
    expect(only(await check(plan), 'open-schemas')).toEqual([]);
    await onBlue(`GRANT CREATE ON SCHEMA public TO ${role}_too, PUBLIC`);
    expect(only(await check(), 'open-schemas')).toEqual([]);
    expect(only(await check(plan), 'open-schemas')).toMatchObject([
      {
        ...{ severity: 'warning', side: 'blue', object: `public: everybody, ${role}_too` },
        remedy: expect.stringContaining(`REVOKE CREATE ON SCHEMA "public" FROM PUBLIC, "${role}_too"`) as string,
      },
    ]);
  });

  it('tells a setting that only the application makes from a name without its schema', async () => {
    await onBlue(`
      CREATE SCHEMA fy;
      CREATE FUNCTION fy.tenant() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN current_setting('app.tenant'); END $$;
      CREATE TABLE fy.t (id int PRIMARY KEY, name text, CONSTRAINT own CHECK (name = fy.tenant()))`);
    undo.push(() => onBlue('DROP SCHEMA fy CASCADE'));
    expect(only(await check(), 'function-search-path')).toMatchObject([
      {
        severity: 'error',
        object: 'constraint own of fy.t',
        remedy: expect.stringMatching(/^ALTER DATABASE /) as string,
      },
    ]);
    await withClient(pair.blueDb.config, async (client) => {
      const error: unknown = await client.query('SELECT fy.tenant()').catch((thrown: unknown) => thrown);
      expect(isNameInFunction(error)).toBe(true);
      expect(mendFunction(error)).toContain('ALTER DATABASE');
      expect(schemaCopyFailed('CREATE INDEX i ON fy.t (name)', error).nextStep).toContain('ALTER DATABASE');
    });
  });

  it('refuses event triggers that write rows where they would fire for DDL of a run', async () => {
    await onBlue(`
      CREATE TABLE public.ddl_log (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tag text);
      CREATE FUNCTION public.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS
        'BEGIN INSERT  INTO public.ddl_log (tag) VALUES (TG_TAG); END';
      CREATE FUNCTION public.tell_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN NOTIFY ddl; END';
      CREATE EVENT TRIGGER log_ddl ON ddl_command_end EXECUTE FUNCTION public.log_ddl();
      CREATE EVENT TRIGGER tell_ddl ON ddl_command_end EXECUTE FUNCTION public.tell_ddl();
      ALTER EVENT TRIGGER tell_ddl ENABLE ALWAYS`);
    undo.push(() =>
      onBlue(`DROP EVENT TRIGGER log_ddl; DROP EVENT TRIGGER tell_ddl;
              DROP TABLE public.ddl_log; DROP FUNCTION public.log_ddl(), public.tell_ddl()`),
    );
    const found = async (plan: Partial<PlanInput> = {}, databases = {}): Promise<string[]> =>
      only(await check(plan, databases), 'writing-event-triggers').map(
        ({ severity, side, object, remedy }) => `${severity} ${side} ${object}: ${remedy.split(';')[0] ?? ''}`,
      );
    const migrations: PlanInput['migrations'] = [{ sql: { name: 'more', up: 'SELECT 1', down: 'SELECT 1' } }];
    expect(await found({ migrations })).toEqual([]);

    const user = `preflight_event_${TAG}`;
    for (const run of [onBlue, onGreen]) await run(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'`);
    undo.push(
      () => onBlue(`DROP OWNED BY ${user}; DROP ROLE ${user}`),
      () => onGreen(`DROP OWNED BY ${user}; DROP ROLE ${user}`),
    );
    const as = { ...pair.green, config: { ...pair.green.config, user, password: 'secret-of-user' } };
    const grant = (parameter: string): string =>
      `error green log_ddl: As a superuser: GRANT SET ON PARAMETER ${parameter} TO "${user}"`;
    expect(await found({ migrations }, { green: as })).toEqual([grant('session_replication_role')]);
    await onGreen(`GRANT SET ON PARAMETER session_replication_role TO ${user}`);
    expect(await found({}, { green: as })).toEqual([]);
    expect(await found({ migrations }, { green: as })).toEqual([grant('event_triggers')]);

    await onBlue('ALTER EVENT TRIGGER log_ddl ENABLE ALWAYS');
    expect(await found()).toEqual([expect.stringMatching(/^error blue log_ddl: ALTER EVENT TRIGGER/)]);
  });
});
