import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { poolsBefore } from '../../src/pgbouncer/from-plan.js';
import { pgBouncerPools } from '../../src/pgbouncer/pgbouncer-pools.js';
import { lookupTroubles, type UserLookup } from '../../src/pgbouncer/user-lookup.js';
import { ident, literal } from '../../src/postgres/identifier.js';
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
  const [app, asks] = [`app_${id}`, `lookup_${id}`];
  const verifiers = { [app]: verifierOf('of the application'), [asks]: verifierOf('of the lookup') };
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

  async function come(): Promise<pg.Client> {
    const coming = new pg.Client({
      ...pair.clientOf(0),
      user: app,
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
    expect(words.join()).not.toContain('SCRAM');
    return words.filter((line) => line.includes(' pgbouncer-auth-query: '));
  }

  async function prepare(): Promise<string[]> {
    const told: string[] = [];
    const pools = poolsBefore(pair.setup, pair.databases, {
      mayBeRefused: (what) => void told.push(what),
      unserved: () => undefined,
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
      ...{ poolers: 1, users: { [asks]: 'of the lookup' } },
      settings: { auth_user: asks, auth_query: lookup.query, server_login_retry: '0' },
    });
    entries = readFileSync(pair.poolers[0]?.file ?? '', 'utf8');
    for (const side of SIDES)
      for (const [role, verifier] of Object.entries(verifiers))
        await on(side, `CREATE ROLE ${ident(role)} LOGIN PASSWORD ${literal(verifier)}`);
  });

  beforeEach(async () => {
    const own = `ALTER ROLE ${ident(app)} LOGIN PASSWORD ${literal(verifiers[app] ?? '')}`;
    for (const side of SIDES) await on(side, `${own}; ${GONE} ${FUNCTION}`);
    client = await come();
  });

  afterEach(async () => {
    await client?.end();
    writeFileSync(pair.poolers[0]?.file ?? '', entries);
    await poolerAdmin(pair, 'RELOAD');
  });

  afterAll(async () => {
    for (const side of SIDES) await on(side, `${GONE} DROP ROLE IF EXISTS ${ident(app)}, ${ident(asks)}`);
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
    const [role, other] = await lookupTroubles(pair.databases, 'green', lookup, [asks, app]);
    expect([role?.isKnown, other?.isKnown]).toEqual([false, true]);
    await on('green', FUNCTION);
    await on('green', `ALTER ROLE ${ident(app)} PASSWORD 'of the application'`);
    expect(await lookupTroubles(pair.databases, 'green', lookup, [app, asks])).toEqual([
      { user: app, kind: 'other password', isKnown: true, why: '' },
    ]);
    const { user } = pair;
    const green = { ...pair.databases.green, config: { ...pair.databases.green.config, user, password: 'secret' } };
    expect(await lookupTroubles({ ...pair.databases, green }, 'green', lookup, [app])).toMatchObject([
      { kind: 'untried', why: `on green, the user of the connection may not become "${asks}" (SET ROLE)` },
    ]);
    expect(await lookupTroubles(pair.databases, 'green', { ...lookup, authUser: 'nobody' }, [app])).toMatchObject([
      { kind: 'untried', why: 'on blue, there is no role "nobody"' },
    ]);
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
});
