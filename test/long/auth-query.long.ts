import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { poolsBefore } from '../../src/pgbouncer/from-plan.js';
import { pgBouncerPools } from '../../src/pgbouncer/pgbouncer-pools.js';
import { compareLookups, type LookupTrouble, type UserLookup } from '../../src/pgbouncer/user-lookup.js';
import { ident, literal } from '../../src/postgres/identifier.js';
import type { Databases } from '../../src/postgres/session.js';
import type { Side } from '../../src/side.js';
import { PooledPair } from '../support/pooled-pair.js';
import { poolerAdmin, whatPreflightSays } from '../support/pooler-preflight.js';
import { withClient } from '../support/postgres.js';
import { verifierOf } from '../support/scram-verifier.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED users that PgBouncer looks up: pgbouncer is not installed\n');

const SIDES: readonly Side[] = ['blue', 'green'];

describe.skipIf(!isThere)('applications whose users PgBouncer looks up by auth_query', () => {
  const id = randomBytes(4).toString('hex');
  const [app, another, asks, filed] = [`app_${id}`, `jobs_${id}`, `lookup_${id}`, `filed_${id}`];
  const verifiers = {
    ...{ [app]: verifierOf('of the application'), [another]: verifierOf('of the application') },
    ...{ [asks]: verifierOf('of the lookup'), [filed]: verifierOf('of the application') },
  };
  const lookup: UserLookup = { authUser: asks, query: 'SELECT * FROM lookup.user_lookup($1);' };
  /** As it is usually made; PgBouncer is given what it returns. */
  const FUNCTION = `
    CREATE SCHEMA lookup;
    CREATE FUNCTION lookup.user_lookup(name text, OUT uname text, OUT phash text) RETURNS SETOF record
      LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
      AS $$ SELECT usename::text, passwd FROM pg_shadow WHERE usename = name AND usename <> '${asks}' $$;
    REVOKE ALL ON FUNCTION lookup.user_lookup(text) FROM PUBLIC;
    GRANT USAGE ON SCHEMA lookup TO ${ident(asks)}; GRANT EXECUTE ON FUNCTION lookup.user_lookup(text) TO ${ident(asks)};`;
  const GONE = 'DROP SCHEMA IF EXISTS lookup CASCADE;';
  let pair: PooledPair;
  let client: pg.Client | undefined;
  let entries: string;

  async function on(side: Side, sql: string): Promise<void> {
    await withClient(pair.databases[side].config, (session) => session.query(sql));
  }

  async function come(user = app): Promise<pg.Client> {
    const coming = new pg.Client({
      ...pair.clientOf(0),
      user,
      password: 'of the application',
      connectionTimeoutMillis: 5_000,
    });
    coming.on('error', () => undefined);
    await coming.connect();
    await coming.query('SELECT 1');
    return coming;
  }

  /** What the preflight says of it; none of it has a verifier of the user. */
  async function said(): Promise<string[]> {
    const found = await whatPreflightSays(pair);
    const words = found.map(({ severity, check, message, remedy }) => `${severity} ${check}: ${message}. ${remedy}`);
    expect(words.join()).not.toContain('SCRAM-SHA-256$4096');
    return words.filter((line) => line.includes(' pgbouncer-auth-query: '));
  }

  async function troubles(
    databases: Databases,
    users: readonly string[],
    authUser = asks,
  ): Promise<readonly LookupTrouble[]> {
    return (await compareLookups(databases, 'green', { ...lookup, authUser }, users)).troubles;
  }

  /** A function of that side that does so before it answers as the usual one. */
  const slowly = (first: string): string => `
    CREATE OR REPLACE FUNCTION lookup.user_lookup(name text, OUT uname text, OUT phash text) RETURNS SETOF record
      LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
      AS $$ BEGIN ${first}; RETURN QUERY SELECT usename::text, passwd FROM pg_shadow WHERE usename = name; END $$`;

  async function prepare(): Promise<string[]> {
    const told: string[] = [];
    const pools = poolsBefore(pair.setup, pair.databases, {
      mayBeRefused: (what) => void told.push(what),
      unserved: () => undefined,
      notTold: () => undefined,
    });
    try {
      await pools.prepare('blue', (await pair.whereWritesAre()).epoch);
      return told;
    } finally {
      await pools.release();
      await pools.close();
    }
  }

  beforeAll(async () => {
    pair = await PooledPair.create('pooled lookups', {
      ...{ poolers: 1, users: { [asks]: 'of the lookup', [filed]: 'of the application' } },
      settings: { auth_user: asks, auth_query: lookup.query, server_login_retry: '0' },
    });
    entries = readFileSync(pair.poolers[0]?.file ?? '', 'utf8');
    for (const side of SIDES)
      for (const [role, verifier] of Object.entries(verifiers))
        await on(side, `CREATE ROLE ${ident(role)} LOGIN PASSWORD ${literal(verifier)}`);
  });

  beforeEach(async () => {
    const own = [app, another].map(
      (name) => `ALTER ROLE ${ident(name)} LOGIN PASSWORD ${literal(verifiers[name] ?? '')}`,
    );
    for (const side of SIDES) await on(side, `${own.join('; ')}; ${GONE} ${FUNCTION}`);
    client = await come();
  });

  afterEach(async () => {
    await client?.end();
    writeFileSync(pair.poolers[0]?.file ?? '', entries);
    await poolerAdmin(pair, 'RELOAD');
  });

  afterAll(async () => {
    for (const side of SIDES)
      await on(side, `${GONE} DROP ROLE IF EXISTS ${[app, another, asks, filed].map(ident).join(', ')}`);
    await pair.close();
  });

  it('are found on both sides: nothing is said, and who is new gets in after the move, and back', async () => {
    expect(await said()).toEqual([]);
    expect(await prepare()).toEqual([]);
    const pools = pgBouncerPools(pair.setup);
    let { epoch } = await pair.whereWritesAre();
    for (const [from, to] of [
      ['blue', 'green'],
      ['green', 'blue'],
    ] as const) {
      await pools.pause(from, epoch);
      epoch += 1;
      await pools.point(to, epoch);
      expect(await pools.release()).toEqual([]);
      await (await come()).end();
    }
    await pools.close();
  });

  it('and a function that is on blue only is a warning as long as it may be copied, and ends the try before the pause', async () => {
    await on('green', GONE);
    const why = `auth_query of PgBouncer "pool" fails on green as "${asks}", and does not on blue: a schema that the query names is not there (3F000): new logins of "${app}" are refused after the move`;
    expect(await said()).toEqual([expect.stringContaining(`warning pgbouncer-auth-query: ${why}`)]);
    await expect(prepare()).rejects.toMatchObject({
      type: 'PromotionBlocked',
      message: expect.stringContaining(why.replace('"pool"', '"pgbouncer_1"')) as string,
    });
    // It is so: who comes anew is refused there.
    const pools = pgBouncerPools(pair.setup);
    const { epoch } = await pair.whereWritesAre();
    await pools.pause('blue', epoch);
    await pools.point('green', epoch + 1);
    await pools.release();
    await expect(come()).rejects.toThrow();
    await pools.pause('green', epoch + 1);
    await pools.point('blue', epoch + 2);
    await pools.release();
    await pools.close();
  });

  it('and one that may not be run, or does not find a user whom blue finds, ends the try, too', async () => {
    await on('green', `REVOKE EXECUTE ON FUNCTION lookup.user_lookup(text) FROM ${ident(asks)}`);
    await expect(prepare()).rejects.toThrow(
      /a privilege is missing that the query needs \(42501\): new logins of "app_/,
    );
    await on(
      'green',
      `GRANT EXECUTE ON FUNCTION lookup.user_lookup(text) TO ${ident(asks)}; ALTER ROLE ${ident(app)} NOLOGIN`,
    );
    await on(
      'green',
      `CREATE OR REPLACE FUNCTION lookup.user_lookup(name text, OUT uname text, OUT phash text) RETURNS SETOF record
         LANGUAGE sql AS $$ SELECT NULL::text, 'md5x' $$`,
    );
    expect(await said()).toEqual([
      expect.stringContaining(
        `error pgbouncer-auth-query: auth_query of PgBouncer "pool" finds "${app}" on blue, and not on green: new logins`,
      ),
    ]);
    await expect(prepare()).rejects.toThrow(/and not on green/);
  });

  it('is a warning without clients, where another password is found, and where it can not be tried', async () => {
    await client?.end();
    client = undefined;
    await on('green', GONE);
    expect((await compareLookups(pair.databases, 'green', lookup, [asks, app])).known).toEqual([app]);
    await on('green', FUNCTION);
    await on('green', `ALTER ROLE ${ident(app)} PASSWORD 'of the application'`);
    expect(await troubles(pair.databases, [app, asks])).toEqual([
      { user: app, kind: 'other password', why: ', or the same one with another salt' },
    ]);
    const { user } = pair;
    const green = { ...pair.databases.green, config: { ...pair.databases.green.config, user, password: 'secret' } };
    expect(await troubles({ ...pair.databases, green }, [app])).toMatchObject([
      { kind: 'untried', why: `on green, the user of the connection may not become "${asks}" (SET ROLE)` },
    ]);
    expect(await troubles(pair.databases, [app], 'nobody')).toMatchObject([
      { kind: 'untried', why: 'on blue, there is no role "nobody"' },
    ]);
  });

  it('and a function that the query calls has the rights of auth_user, whatever it does to get back those of the worker', async () => {
    const lent = `
      CREATE OR REPLACE FUNCTION lookup.user_lookup(name text, OUT uname text, OUT phash text) RETURNS SETOF record
      LANGUAGE plpgsql AS $$ BEGIN
        BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN PERFORM set_config('role', 'none', true); EXCEPTION WHEN OTHERS THEN NULL; END;
        RETURN QUERY SELECT name, CASE WHEN current_user = '${asks}' THEN 'as it should be' ELSE 'lent' || current_setting('port') END;
      END $$`;
    for (const side of SIDES) await on(side, lent);
    expect(await troubles(pair.databases, [app])).toEqual([]);
    // And where the sides' own functions would not answer alike.
    await on('green', `ALTER FUNCTION lookup.user_lookup(text) SECURITY DEFINER`);
    expect(await troubles(pair.databases, [app])).toMatchObject([{ kind: 'other password' }]);
  });

  it('and is asked by a parameter of the type that it has beside a column of any type', async () => {
    for (const side of SIDES)
      await on(
        side,
        `CREATE TABLE lookup.users (number int, phash text); INSERT INTO lookup.users VALUES (7, 'x'); GRANT SELECT ON lookup.users TO ${ident(asks)}`,
      );
    const query = 'SELECT number::text, phash FROM lookup.users WHERE number = $1';
    const compared = await compareLookups(pair.databases, 'green', { ...lookup, query }, ['7', '8']);
    expect(compared).toMatchObject({ known: ['7'], troubles: [] });
  });

  it('and can not be tried where auth_user may make nothing temporary, and the worker is no superuser', async () => {
    const name = `worker_${id}`;
    const { database } = pair.databases.green.config;
    await on(
      'green',
      `CREATE ROLE ${name} LOGIN PASSWORD 'x'; GRANT ${ident(asks)} TO ${name}; GRANT TEMPORARY ON DATABASE ${ident(database ?? '')} TO ${name}`,
    );
    const green = { ...pair.databases.green, config: { ...pair.databases.green.config, user: name, password: 'x' } };
    try {
      expect(await troubles({ ...pair.databases, green }, [app])).toEqual([]);
      await on('green', `REVOKE TEMPORARY ON DATABASE ${ident(database ?? '')} FROM PUBLIC`);
      expect(await troubles({ ...pair.databases, green }, [app])).toMatchObject([
        { kind: 'untried', why: `on green, "${asks}" may make nothing temporary in this database (TEMPORARY)` },
      ]);
    } finally {
      await on(
        'green',
        `GRANT TEMPORARY ON DATABASE ${ident(database ?? '')} TO PUBLIC; DROP OWNED BY ${name}; DROP ROLE ${name}`,
      );
    }
  });

  it('and what a server says of the query is not repeated: it may hold what the query reads', async () => {
    await on(
      'green',
      `CREATE OR REPLACE FUNCTION lookup.user_lookup(name text, OUT uname text, OUT phash text) RETURNS SETOF record
         LANGUAGE plpgsql SECURITY DEFINER AS $$ DECLARE it text := (SELECT passwd FROM pg_shadow WHERE usename = name);
         BEGIN RAISE EXCEPTION 'no entry for %', it; END $$`,
    );
    const refused = await prepare().then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(refused).toMatchObject({ type: 'PromotionBlocked' });
    expect(String(refused)).toContain('the query fails (P0001)');
    expect(JSON.stringify([refused, String(refused), (refused as Error).stack])).not.toMatch(/SCRAM|no entry/);
    expect((await said()).join()).toContain('the query fails (P0001)');
  });

  it('and one of several whom green does not have is a warning: who is missed there is for people to say', async () => {
    const other = await come(another);
    await on('green', slowly(`IF name = '${another}' THEN name := 'nobody'; END IF`));
    const missed = `finds "${another}" on blue, and not on green: new logins of "${another}" are refused after the move`;
    expect(await said()).toEqual([expect.stringMatching(new RegExp(`^warning .*${missed}`))]);
    expect(await prepare()).toEqual([expect.stringContaining(missed)]);
    // Those who are in auth_file, and whom nobody looks up, don't count.
    const fromFile = await come(filed);
    await on('blue', slowly(`IF name = '${filed}' THEN name := 'nobody'; END IF`));
    await on('green', slowly(`name := 'nobody'`));
    expect(await said()).toEqual([expect.stringMatching(`^error .*finds "${app}", "${another}" on blue`)]);
    await expect(prepare()).rejects.toThrow(`finds "${app}", "${another}" on blue, and not on green`);
    await Promise.all([other.end(), fromFile.end()]);
  });

  describe('with another salt on green', () => {
    const why = (user: string): string =>
      `has another password for "${user}" on green than on blue, or the same one with another salt: clients that are connected get no connection to green until the user logs in to PgBouncer anew`;

    it('get no connection there when they are connected, until they log in anew', async () => {
      await on('green', `ALTER ROLE ${ident(app)} PASSWORD 'of the application'`);
      const pools = pgBouncerPools(pair.setup);
      const { epoch } = await pair.whereWritesAre();
      await pools.pause('blue', epoch);
      await pools.point('green', epoch + 1);
      await pools.release();
      const log = (): string => readFileSync(pair.poolers[0]?.logFile ?? '', 'utf8');
      const before = log().length;
      const answer = client?.query('SELECT 1').then(
        () => 'served',
        () => 'refused',
      );
      const refused = `server login failed: FATAL password authentication failed for user "${app}"`;
      await expect.poll(() => log().slice(before).split(refused).length).toBeGreaterThan(3);
      expect(await Promise.race([answer, sleep(100, 'waits')])).not.toBe('served');
      // A login that fails with the old one may still be under way.
      const anew = (): Promise<string> =>
        come().then(
          (coming) => coming.end().then(() => 'served'),
          () => 'refused',
        );
      await expect.poll(anew, { timeout: 10_000 }).toBe('served');
      await pools.pause('green', epoch + 1);
      await pools.point('blue', epoch + 2);
      await pools.release();
      await pools.close();
    });

    it('end the try when it is so of all who are connected, and are a warning else', async () => {
      const other = await come(another);
      await on('green', `ALTER ROLE ${ident(app)} PASSWORD 'of the application'`);
      expect((await prepare()).join()).toContain(`the role "${app}" has another password verifier on green`);
      await on('green', `ALTER ROLE ${ident(another)} PASSWORD 'of the application'`);
      const both = why(`${app}", "${another}`);
      expect((await said()).join()).toContain(`error pgbouncer-auth-query: auth_query of PgBouncer "pool" ${both}`);
      await expect(prepare()).rejects.toThrow(both);
      // A green that asks some for no password: what it is for them can't be told by their verifiers.
      const file = await withClient(pair.databases.green.config, async (session) => {
        const { rows } = await session.query<{ hba_file: string }>('SHOW hba_file');
        return rows[0]?.hba_file ?? '';
      });
      const before = readFileSync(file, 'utf8');
      try {
        writeFileSync(file, `${before}\nhost nowhere nobody 127.0.0.1/32 trust\n`);
        expect((await prepare()).join()).toContain(`the role "${app}" has another password verifier on green`);
      } finally {
        writeFileSync(file, before);
      }
      await other.end();
    });

    it('are a warning where PgBouncer logs in as a user of its own: who is connected goes on as before', async () => {
      await on('green', slowly("RETURN QUERY SELECT user_lookup.name, 'md5 of another'; RETURN"));
      const forced = `user=${pair.user} password=secret`;
      const anewWith = async (text: string): Promise<void> => {
        await client?.end().catch(() => undefined);
        writeFileSync(pair.poolers[0]?.file ?? '', text);
        await pair.poolers[0]?.restart();
        client = await come();
      };
      await anewWith(entries.replace(/^orders_green = .*$/m, `$& ${forced}`));
      try {
        const told = /^warning .*has another password .*Nothing for those who log in to PgBouncer after the move/;
        expect(await said()).toEqual([expect.stringMatching(told)]);
        // What is wrong with the role is said of the role.
        await on('green', `ALTER ROLE ${ident(app)} PASSWORD 'of the application'`);
        expect(await said()).toEqual([]);
        const found = await whatPreflightSays(pair);
        expect(found.map(({ severity, check }) => `${severity} ${check}`).sort()).toEqual([
          'warning pgbouncer-entries',
          'warning pgbouncer-logins',
        ]);
      } finally {
        await anewWith(entries);
      }
    });
  });

  it('are asked for as long as it takes seconds, and no longer when the first one waits in vain', async () => {
    const users = Array.from({ length: 100 }, (_, i) => (i === 0 ? app : `user_${i}`));
    const seconds = async (first: string): Promise<{ took: number; kinds: (string | undefined)[] }> => {
      await on('green', slowly(first));
      const began = performance.now();
      const found = await troubles(pair.databases, users);
      const kinds = users.map((name) => found.find(({ user }) => user === name)?.kind);
      return { took: (performance.now() - began) / 1_000, kinds };
    };
    const slow = await seconds('PERFORM pg_sleep(0.1)');
    expect(slow.kinds.slice(0, 3)).toEqual([undefined, undefined, undefined]);
    expect(slow.kinds.at(-1)).toBe('untried');
    // All of them would take 10 s, as would the one that waits in vain.
    expect(slow.took).toBeLessThan(9);
    const stuck = await seconds('PERFORM pg_sleep(10)');
    expect(new Set(stuck.kinds)).toEqual(new Set(['untried']));
    expect(stuck.took).toBeLessThan(9);
  });

  it('and nothing of one lookup is left for the next one: not a failure, not a setting', async () => {
    await on(
      'green',
      slowly(`IF name = 'user_1' THEN RAISE 'no'; END IF;
              IF current_setting('lookup.seen', true) = 'yes' THEN RAISE 'seen'; END IF;
              PERFORM set_config('lookup.seen', 'yes', true)`),
    );
    const found = await troubles(pair.databases, ['user_1', app, 'user_2', another]);
    expect(found.map(({ user, kind }) => [user, kind])).toEqual([['user_1', 'fails']]);
  });

  it('and what holds for all is told once, whoever of them is in auth_file', async () => {
    const others = await Promise.all([come(another), come(filed)]);
    await on('green', slowly('UPDATE public.accounts SET balance = 0 WHERE false'));
    expect(await prepare()).toEqual([expect.stringContaining("can't be tried: on green, the query fails (25006)")]);
    for (const other of others) await other.end();
  });

  it('and the way back waits for none of it, and tells of it when it knows', async () => {
    const told: string[] = [];
    const pools = poolsBefore(pair.setup, pair.databases, {
      mayBeRefused: (what) => void told.push(what),
      unserved: () => undefined,
      notTold: () => undefined,
    });
    const { epoch } = await pair.whereWritesAre();
    await pools.pause('blue', epoch);
    await pools.point('green', epoch + 1);
    await pools.release();
    await on('blue', slowly(`PERFORM pg_advisory_xact_lock(7); IF name = '${app}' THEN name := 'nobody'; END IF`));
    await withClient(pair.databases.blue.config, async (session) => {
      await session.query('SELECT pg_advisory_lock(7)');
      await pools.prepare('green', epoch + 1);
      expect(told).toEqual([]);
      await session.query('SELECT pg_advisory_unlock(7)');
      await expect.poll(() => told, { timeout: 10_000 }).toHaveLength(1);
      expect(told[0]).toContain(`finds "${app}" on green, and not on blue: new logins`);
      await session.query('SELECT pg_advisory_lock(7)');
      await pools.prepare('green', epoch + 1);
      await pools.release();
      // What is still asked for when all is over is broken off.
      await pools.close();
      const asking = `SELECT FROM pg_stat_activity WHERE application_name = 'verdigris user lookup'`;
      await expect.poll(async () => (await session.query(asking)).rowCount, { timeout: 10_000 }).toBe(0);
    });
    expect(told).toHaveLength(1);
    const after = pgBouncerPools(pair.setup);
    await after.pause('green', epoch + 1);
    await after.point('blue', epoch + 2);
    await after.release();
    await after.close();
  });
});
