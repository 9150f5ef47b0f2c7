import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { PreflightFinding } from '../../src/postgres/preflight/finding.js';
import type { Database } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { errorsOf, MIGRATION, only, preflightPair, RUN, TAG } from '../support/preflight-pair.js';

const pair = preflightPair('green');
const { check, onBlue, onGreen, undo } = pair;

describe('green', () => {
  it('must be empty: what is there is listed', async () => {
    await onGreen('CREATE SCHEMA theirs; CREATE TABLE theirs."Old Orders" (id int)');
    undo.push(() => onGreen('DROP SCHEMA theirs CASCADE'));
    const [finding] = only(await check(), 'green-empty');
    expect(finding).toMatchObject({ severity: 'error', side: 'green', object: 'table theirs."Old Orders"' });
  });

  it('is told to look exchanged with blue where only green has tables, before anything is said of dropping', async () => {
    const exchanged = { blue: asDatabase(pair.greenDb, 'blue'), green: asDatabase(pair.blueDb, 'green') };
    const [found] = only(await check({}, exchanged), 'green-empty');
    expect(found?.message).toMatch(/^green is not empty: .*Blue has no table, and green has: the two look exchanged$/);
    expect(found?.remedy).toMatch(/^See first which of the two the application uses.* drop nothing, and exchange/);
    await onGreen('CREATE SCHEMA theirs; CREATE TABLE theirs.t (id int)');
    undo.push(() => onGreen('DROP SCHEMA theirs CASCADE'));
    const [both] = only(await check(), 'green-empty');
    expect(`${both?.message} ${both?.remedy}`).not.toMatch(/exchange/);
  });

  it('may have functions that blue has not: the template of a managed service', async () => {
    await onGreen('CREATE SCHEMA tools; CREATE FUNCTION tools.f() RETURNS int LANGUAGE sql RETURN 1');
    undo.push(() => onGreen('DROP SCHEMA tools CASCADE'));
    expect(only(await check(), 'green-empty')).toEqual([]);
    await onBlue('CREATE SCHEMA tools; CREATE FUNCTION tools.f() RETURNS int LANGUAGE sql RETURN 1');
    undo.push(() => onBlue('DROP SCHEMA tools CASCADE'));
    expect(only(await check(), 'green-empty')).toMatchObject([{ object: 'function tools.f()' }]);
  });

  it('has an extension in the schema in which blue has it', async () => {
    await onBlue('CREATE SCHEMA "Ext"; CREATE EXTENSION btree_gist SCHEMA "Ext"');
    undo.push(() => onBlue('DROP SCHEMA "Ext" CASCADE'));
    expect(only(await check(), 'extensions').filter(({ severity }) => severity === 'error')).toEqual([]);
    await onGreen('CREATE EXTENSION btree_gist SCHEMA public');
    undo.push(() => onGreen('DROP EXTENSION btree_gist; DROP SCHEMA IF EXISTS "Ext"'));
    const [found] = only(await check(), 'extensions');
    expect(found).toMatchObject({ severity: 'error', side: 'green', object: 'btree_gist' });
    const statements = (found?.remedy ?? '').slice('On green: '.length).split('; or ')[0] ?? '';
    await onGreen(statements);
    expect(only(await check(), 'extensions').filter(({ severity }) => severity === 'error')).toEqual([]);
  });

  it('is given what only a superuser may install by the administrator of a managed service', async () => {
    await onBlue('CREATE EXTENSION pageinspect');
    undo.push(() => onBlue('DROP EXTENSION pageinspect'));
    const user = `preflight_admin_${TAG}`;
    await onGreen(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'`);
    undo.push(() => onGreen(`DROP ROLE ${user}`));
    const as = { ...pair.green, config: { ...pair.green.config, user, password: 'secret-of-user' } };
    const found = async (): Promise<PreflightFinding[]> => only(await check({}, { green: as }), 'extensions');
    expect(await found()).toMatchObject([
      { severity: 'error', object: 'pageinspect', remedy: expect.stringContaining('CREATE EXTENSION') as string },
    ]);
    await onGreen(`CREATE ROLE alloydbsuperuser; GRANT alloydbsuperuser TO ${user}`);
    undo.push(() => onGreen('DROP ROLE alloydbsuperuser'));
    expect(await found()).toMatchObject([
      { severity: 'info', object: 'pageinspect', message: expect.stringContaining('alloydbsuperuser') as string },
    ]);
  });

  it('has what needs no superuser installed by whoever may CREATE in the database', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'verdigris-extensions-'));
    undo.push(() => rm(folder, { recursive: true }));
    await chmod(folder, 0o755);
    await mkdir(join(folder, 'extension'));
    const control = (superuser: boolean): Promise<void> =>
      writeFile(join(folder, 'extension/pageinspect.control'), `default_version = '1'\nsuperuser = ${superuser}\n`);
    await writeFile(join(folder, 'extension/pageinspect--1.sql'), 'SELECT 1;');
    await onBlue('CREATE EXTENSION pageinspect');
    undo.push(() => onBlue('DROP EXTENSION pageinspect'));
    const user = `preflight_owner_${TAG}`;
    await onGreen(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user';
      ALTER ROLE ${user} SET extension_control_path = '${folder}:$system'`);
    undo.push(() => onGreen(`DROP ROLE ${user}`));
    const as = { ...pair.green, config: { ...pair.green.config, user, password: 'secret-of-user' } };
    const severities = async (): Promise<string[]> =>
      only(await check({}, { green: as }), 'extensions').map(({ severity }) => severity);
    await control(true);
    expect(await severities()).toEqual(['error']);
    await control(false);
    // Another version than blue's, and nothing else.
    expect(await severities()).toEqual(['info']);
  });

  it('can make the extensions of the plan: it has them, nobody has made them by then, and its user may', async () => {
    const user = `preflight_maker_${TAG}`;
    await onGreen(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'`);
    undo.push(() => onGreen(`DROP ROLE ${user}`));
    const as = { ...pair.green, config: { ...pair.green.config, user, password: 'secret-of-user' } };
    const found = async (by: Database, ...ups: string[]): Promise<string[]> => {
      const migrations = ups.map((up, i) => ({ sql: { name: `extension ${i}`, up, down: 'SELECT 1' } }));
      const said = only(await check({ migrations }, { green: by }), 'plan-extensions');
      return said.map(({ severity, object, message, remedy }) => `${severity} ${object}: ${message}. ${remedy}`);
    };
    const nobodyHas = 'CREATE EXTENSION nobody_has_it';
    const asAnother = 'SET LOCAL ROLE somebody; CREATE EXTENSION pageinspect';
    const fine = 'CREATE EXTENSION hstore; CREATE EXTENSION IF NOT EXISTS plpgsql';
    expect(await found(as, fine, asAnother, 'CREATE EXTENSION pageinspect', nobodyHas)).toEqual([
      expect.stringMatching(
        /^error pageinspect: migrations\[2\]\.sql\.up makes the extension pageinspect, and green's user may not.*On green, as one of them, before the run: CREATE EXTENSION "pageinspect", and IF NOT EXISTS in the plan$/,
      ),
      expect.stringContaining(
        "error nobody_has_it: migrations[3].sql.up makes the extension nobody_has_it, and green's",
      ),
    ]);
    expect(await found(pair.green, 'CREATE EXTENSION pageinspect')).toEqual([]);
    await onBlue('CREATE EXTENSION hstore');
    undo.push(() => onBlue('DROP EXTENSION hstore'));
    expect(await found(as, 'CREATE EXTENSION IF NOT EXISTS hstore', 'CREATE EXTENSION hstore')).toEqual([
      expect.stringContaining('error hstore: migrations[1].sql.up makes the extension hstore, which green has by then'),
    ]);
  });

  it('gets foreign servers as they are: those that lead to blue, mappings without their options and callers of dblink are named', async () => {
    const user = `preflight_sees_${TAG}`;
    const here = `host '127.0.0.1', port '${pair.blueDb.port}'`;
    await onBlue(`CREATE ROLE ${user} LOGIN PASSWORD 'secret-of-user'; CREATE SCHEMA audit;
      CREATE FOREIGN DATA WRAPPER elsewhere;
      CREATE SERVER loopback FOREIGN DATA WRAPPER elsewhere OPTIONS (${here}, dbname '${pair.blueDb.database}', key 'hidden-word');
      CREATE SERVER beside FOREIGN DATA WRAPPER elsewhere OPTIONS (${here}, dbname 'other');
      CREATE SERVER erp FOREIGN DATA WRAPPER elsewhere OPTIONS (host 'erp.internal', dbname '${pair.blueDb.database}');
      GRANT USAGE ON FOREIGN SERVER beside TO ${user};
      CREATE USER MAPPING FOR ${user} SERVER beside OPTIONS (password 'hidden-word');
      CREATE USER MAPPING FOR PUBLIC SERVER erp OPTIONS (password 'hidden-word');
      CREATE USER MAPPING FOR postgres SERVER erp OPTIONS (password 'hidden-word');
      CREATE FUNCTION audit.log() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM dblink_exec('loopback', 'SELECT 1'); END$$;
      CREATE FUNCTION audit.my_dblinks() RETURNS int LANGUAGE sql AS 'SELECT 1'`);
    undo.push(() =>
      onBlue(`DROP FOREIGN DATA WRAPPER elsewhere CASCADE; DROP SCHEMA audit CASCADE; DROP ROLE ${user}`),
    );
    const found = async (as: Database): Promise<string[]> => {
      const all = only(await check({}, { blue: as }), 'foreign-servers');
      expect(JSON.stringify(all)).not.toMatch(/hidden-word|erp\.internal/);
      return all.map(({ severity, object, message }) => `${severity} ${object}: ${message.split(' (')[0] ?? ''}`);
    };
    const servers = [
      'warning loopback: these foreign servers lead to blue itself',
      'warning beside, erp: green gets these foreign servers as they are, and reads and writes the same sources',
    ];
    const callers = 'info audit.log(): these functions call dblink: from green they connect to where they do from blue';
    expect(await found(pair.blue)).toEqual([...servers, callers]);
    const mappings = (
      await found({ ...pair.blue, config: { ...pair.blue.config, user, password: 'secret-of-user' } })
    ).slice(2, -1);
    expect(mappings.map((line) => line.split(':')[0])).toEqual(['warning PUBLIC on erp, postgres on erp']);
  });

  it('may hold what this very run has made, and the copy of a run that has ended is called so', async () => {
    await withClient(pair.greenDb.config, (client) => installState(client, 'green'));
    undo.push(() => onGreen('DROP SCHEMA verdigris CASCADE; DROP TABLE IF EXISTS public.orders'));
    await onGreen(`INSERT INTO verdigris.owner (run_id, migration, side) VALUES ('${RUN}', '${MIGRATION}', 'green');
                   CREATE TABLE public.orders (id bigint PRIMARY KEY)`);
    expect(errorsOf(await check())).toEqual([]);
    await onGreen(`UPDATE verdigris.owner SET run_id = 'earlier', outcome = 'rolled back'`);
    const [finding] = only(await check(), 'green-empty');
    expect(finding?.message).toContain(`an earlier run of "${MIGRATION}" ended (rolled back)`);
  });

  it('is never to be dropped while it has the writes, or before somebody has looked at what it had of them', async () => {
    await withClient(pair.greenDb.config, (client) => installState(client, 'green'));
    undo.push(() => onGreen('DROP SCHEMA verdigris CASCADE; DROP TABLE IF EXISTS public.orders'));
    await onGreen(`CREATE TABLE public.orders (id bigint PRIMARY KEY);
      INSERT INTO verdigris.owner (run_id, migration, side, outcome) VALUES ('earlier', 'f1', 'green', 'completed');
      INSERT INTO verdigris.event (run_id, what, detail) VALUES ('earlier', 'claimed green', '{"epoch": 7}');
      INSERT INTO verdigris.route (migration, epoch, writes_on) VALUES ('f1', 8, 'green')`);
    const told = async (sql = 'SELECT'): Promise<string> => {
      await onGreen(sql);
      const found = only(await check(), 'green-empty');
      return found.map(({ message, remedy }) => `${message}. ${remedy}`).join();
    };
    const HAS_THE_WRITES =
      /green is the database that has the writes.*"f1".* Drop nothing of it: it can only be "blue"/;
    expect(await told()).toMatch(HAS_THE_WRITES);
    expect(await told(`UPDATE verdigris.owner SET outcome = 'cleaned'`)).toMatch(HAS_THE_WRITES);
    const back = `UPDATE verdigris.route SET epoch = 9, writes_on = 'blue'; UPDATE verdigris.owner SET outcome = 'rolledBack'`;
    expect(await told(back)).toMatch(
      /had the writes for a while and was kept.* See first that nothing of it is missed/,
    );
    expect(await told(`UPDATE verdigris.route SET epoch = 7`)).toMatch(/its copy is still here\. Drop that copy/);
    // As blue of its last run, it has the writes unless it gave them away.
    expect(await told(`UPDATE verdigris.owner SET side = 'blue'; SELECT setval('verdigris.fence', 0)`)).toMatch(
      HAS_THE_WRITES,
    );
    expect(await told(`UPDATE verdigris.route SET writes_on = 'green'`)).toMatch(/has given its writes away/);
  });

  it('or blue may belong to another run that lives', async () => {
    await withClient(pair.greenDb.config, (client) => installState(client, 'green'));
    undo.push(() => onGreen('DROP SCHEMA verdigris CASCADE'));
    await onGreen(`INSERT INTO verdigris.owner (run_id, migration, side) VALUES ('other-run', 'other', 'green');
      CREATE FUNCTION verdigris.note() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RETURN; END';
      CREATE EVENT TRIGGER verdigris_ddl ON ddl_command_end EXECUTE FUNCTION verdigris.note();
      CREATE TABLE public.orders (id bigint PRIMARY KEY)`);
    undo.push(() => onGreen('DROP TABLE public.orders'));
    // Nobody is told to drop what that run needs.
    const found = await check();
    expect([...only(found, 'green-empty'), ...only(found, 'event-triggers')]).toEqual([]);
    expect(only(await check(), 'owned-by-another-run')).toMatchObject([
      {
        severity: 'error',
        side: 'green',
        message: expect.stringContaining('migration "other", run other-run') as string,
        remedy: expect.stringMatching(/--clean, with the plan of that migration; --drop-copy other in/) as string,
      },
    ]);
  });

  it('must not be blue', async () => {
    const findings = await check({}, { green: { ...asDatabase(pair.blueDb, 'green') } });
    expect(errorsOf(findings)).toContain('same-database both');
  });

  it('is told to order by another locale than blue, of ICU too', async () => {
    const icu = async (server: 'pg15' | 'pg18', locale: string): Promise<TestDatabase> => {
      const db = await testDatabase(server, 'icu', `LOCALE_PROVIDER icu ICU_LOCALE '${locale}'`);
      undo.push(() => db.drop());
      return db;
    };
    const german = asDatabase(await icu('pg18', 'de'), 'blue');
    const [english, same] = [await icu('pg18', 'en-US'), await icu('pg18', 'de')];
    const [found, ...more] = only(await check({}, { blue: german, green: asDatabase(english, 'green') }), 'collation');
    expect(more).toEqual([]);
    expect(found?.message).toMatch(/provider i, locale en-US.* than on blue \(.*provider i, locale de,/);
    expect(only(await check({}, { blue: german, green: asDatabase(same, 'green') }), 'collation')).toEqual([]);
  });

  it('must not be older than blue', async () => {
    const findings = await check(
      {},
      { blue: asDatabase(pair.greenDb, 'blue'), green: asDatabase(pair.blueDb, 'green') },
    );
    expect(errorsOf(findings)).toContain('version-order green');
  });
});
