import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { poolsBefore } from '../../src/pgbouncer/from-plan.js';
import { pgBouncerPools } from '../../src/pgbouncer/pgbouncer-pools.js';
import { checkPgBouncers } from '../../src/pgbouncer/preflight.js';
import { parsePlan } from '../../src/plan/parse.js';
import { ident, literal } from '../../src/postgres/identifier.js';
import { openSession } from '../../src/postgres/session.js';
import type { Side } from '../../src/side.js';
import { loginTroubles } from '../../src/pgbouncer/logins.js';
import { PooledPair } from '../support/pooled-pair.js';
import { withClient } from '../support/postgres.js';
import { verifierOf } from '../support/scram-verifier.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED logins of applications behind PgBouncer: pgbouncer is not installed\n');

describe.skipIf(!isThere)('applications whose users PgBouncer knows by their verifiers', () => {
  const app = `app_${randomBytes(4).toString('hex')}`;
  const verifier = verifierOf('of the application');
  let pair: PooledPair;

  async function on(side: Side, sql: string): Promise<void> {
    await withClient(pair.databases[side].config, (client) => client.query(sql));
  }

  async function clientOfApp(): Promise<pg.Client> {
    const client = new pg.Client({ ...pair.clientOf(0), user: app, password: 'of the application' });
    client.on('error', () => undefined);
    await client.connect();
    await client.query('SELECT 1');
    return client;
  }

  beforeAll(async () => {
    pair = await PooledPair.create('pooled app logins', { poolers: 1, users: { [app]: verifier } });
    for (const side of ['blue', 'green'] as const) await on(side, `CREATE ROLE ${ident(app)}`);
  });

  beforeEach(async () => {
    for (const side of ['blue', 'green'] as const)
      await on(side, `ALTER ROLE ${ident(app)} LOGIN VALID UNTIL 'infinity' PASSWORD ${literal(verifier)}`);
  });

  afterAll(async () => {
    for (const side of ['blue', 'green'] as const) await on(side, `DROP ROLE IF EXISTS ${ident(app)}`);
    await pair.close();
  });

  async function warnings(): Promise<string[]> {
    const { port, user, password } = pair.clientOf(0);
    const instances = [{ connection: 'pool', file: pair.poolers[0]?.file ?? '' }];
    const parsed = parsePlan({
      ...{ name: pair.migration, blue: { connection: 'a' }, green: { connection: 'b' } },
      traffic: { stages: [], pgbouncer: { databases: ['orders'], instances, pauseTimeout: '1s' } },
    });
    if (!('plan' in parsed)) throw new Error('the plan is not one');
    const environment = { VERDIGRIS_CONNECTION_POOL: `postgres://${user}:${password}@127.0.0.1:${port}/pgbouncer` };
    const found = await checkPgBouncers(parsed.plan, pair.databases, environment);
    const said = found.map(({ severity, check, message, remedy }) => `${severity} ${check}: ${message}. ${remedy}`);
    expect(said.join()).not.toContain(verifier);
    return said;
  }

  it('warns of one that green may refuse: another salt, no password, no LOGIN, VALID UNTIL', async () => {
    const client = await clientOfApp();
    expect(await warnings()).toEqual([]);
    for (const [change, why] of [
      [`PASSWORD 'of the application'`, `the role "${app}" has another password verifier on green than on blue`],
      ['PASSWORD NULL', `the role "${app}" has no password on green`],
      ['NOLOGIN', `green has no role "${app}" that may log in`],
      [`VALID UNTIL '2001-01-01'`, `the password of the role "${app}" is valid on green until a moment that is over`],
    ] as const) {
      await on('green', `ALTER ROLE ${ident(app)} LOGIN PASSWORD ${literal(verifier)}`);
      await on('green', `ALTER ROLE ${ident(app)} ${change}`);
      expect(await warnings(), change).toEqual([
        expect.stringContaining(`warning pgbouncer-logins: clients of PgBouncer "pool" may be refused: ${why}`),
      ]);
    }
    await client.end();
  });

  it("warns of one whom green's pg_hba.conf refuses from the address of the PgBouncer, and of nobody else", async () => {
    const file = await withClient(pair.databases.green.config, async (client) => {
      const { rows } = await client.query<{ hba_file: string }>('SHOW hba_file');
      return rows[0]?.hba_file ?? '';
    });
    const before = readFileSync(file, 'utf8');
    const [database, user] = [pair.databases.green.config.database ?? '', ident(app)];
    // The server goes on by what it has loaded: nobody is refused.
    const withRules = (...rules: string[]): void => writeFileSync(file, `${rules.join('\n')}\n${before}`);
    const client = await clientOfApp();
    const why = `warning pgbouncer-logins: clients of PgBouncer "pool" may be refused: pg_hba.conf of green does not let the role "${app}" into "${database}" from 127.0.0.1, as which it sees this PgBouncer (line 3: reject)`;
    try {
      const reject = `host ${database} ${user} 127.0.0.0/8 reject`;
      withRules(`host all ${user} 10.0.0.0/8 scram-sha-256`, `hostssl all ${user} all scram-sha-256`, reject);
      expect(await warnings()).toEqual([
        `${why}. In pg_hba.conf of green, before that line: host ${ident(database)} ${user} 127.0.0.1/32 scram-sha-256; then SELECT pg_reload_conf()`,
      ]);
      withRules(`host all ${user} samehost scram-sha-256`, reject);
      expect(await warnings()).toEqual([]);
      withRules(`host all ${user} 127.0.0.1/32 scram-sha-256`, reject);
      expect(await warnings()).toEqual([]);
      withRules(reject, 'host all all nonsense/99 reject');
      expect(await warnings()).toEqual([]);
    } finally {
      writeFileSync(file, before);
    }
    expect(await warnings()).toEqual([]);
    await client.end();
  });

  it('compares no passwords where one side does not let them be read', async () => {
    await on('green', `ALTER ROLE ${ident(app)} PASSWORD 'of the application'`);
    const { user } = pair;
    const green = { ...pair.databases.green, config: { ...pair.databases.green.config, user, password: 'secret' } };
    const sessions = {
      blue: await openSession(pair.databases.blue, { purpose: 'test' }),
      green: await openSession(green, { purpose: 'test' }),
    };
    expect(await loginTroubles(sessions, 'green', [app])).toEqual([]);
    await on('green', `ALTER ROLE ${ident(app)} NOLOGIN`);
    expect(await loginTroubles(sessions, 'green', [app])).toHaveLength(1);
    await Promise.all([sessions.blue.end(), sessions.green.end()]);
  });

  it('warns where green has less room for what may come than blue has, or than it takes now; with the numbers', async () => {
    const client = await clientOfApp();
    expect(await warnings()).toEqual([]);
    const role = (side: Side, limit: number): Promise<void> =>
      on(side, `ALTER ROLE ${ident(app)} CONNECTION LIMIT ${limit}`);
    const green = ident(pair.databases.green.config.database ?? '');
    try {
      await role('green', 3);
      expect(await warnings()).toEqual([
        expect.stringMatching(
          /^warning pgbouncer-room: green allows 3 connections at once, and the PgBouncers may open 8 there once writes have moved \(1 are open now; blue allows any number\).*On green: ALTER ROLE "?app_\w+"? CONNECTION LIMIT 8;/,
        ),
      ]);
      await role('blue', 3);
      expect(await warnings()).toEqual([]);
      await role('green', 8);
      await on('green', `ALTER DATABASE ${green} CONNECTION LIMIT 7`);
      expect(await warnings()).toEqual([
        expect.stringMatching(/^warning pgbouncer-room: green allows 7 connections.* On green: ALTER DATABASE /),
      ]);
      await on('green', `ALTER ROLE ${ident(app)} SUPERUSER`);
      expect(await warnings()).toEqual([]);
    } finally {
      await on('green', `ALTER ROLE ${ident(app)} NOSUPERUSER; ALTER DATABASE ${green} CONNECTION LIMIT -1`);
      await role('green', -1);
      await role('blue', -1);
      await client.end();
    }
  });

  describe("whose side has a user= of green's", () => {
    const other = `${app}_green`;
    const asOther = `user=${other} password=other`;

    beforeAll(async () => {
      for (const side of ['blue', 'green'] as const)
        await on(side, `CREATE ROLE ${ident(other)} LOGIN PASSWORD 'other'`);
    });

    afterAll(async () => {
      for (const side of ['blue', 'green'] as const) await on(side, `DROP ROLE ${ident(other)}`);
    });

    /** One whose password PgBouncer knows: with a verifier it would log in to servers by the keys of that one, whatever user= says. */
    async function anotherClient(): Promise<pg.Client> {
      const client = new pg.Client(pair.clientOf(0));
      client.on('error', () => undefined);
      await client.connect();
      return client;
    }

    /** Runs with these parameters more in the entries. A user= goes away by a restart only. */
    async function withUsers(more: Readonly<Record<string, string>>, work: () => Promise<void>): Promise<void> {
      const pooler = pair.poolers[0];
      if (pooler === undefined) throw new Error('there is no PgBouncer');
      const before = readFileSync(pooler.file, 'utf8');
      const restart = async (text: string): Promise<void> => {
        writeFileSync(pooler.file, text);
        await pooler.restart();
      };
      const added = Object.entries(more).reduce(
        (text, [entry, users]) => text.replace(new RegExp(`^${entry} = .*$`, 'm'), `$& ${users}`),
        before,
      );
      await restart(added);
      try {
        await work();
      } finally {
        await restart(before);
      }
    }

    async function whoIs(client: pg.Client): Promise<string> {
      const { rows } = await client.query<{ who: string }>('SELECT current_user::text AS who');
      return rows[0]?.who ?? '';
    }

    it('only: those who are connected go on as themselves, and new ones come back to blue as that user', async () => {
      await withUsers({ orders_green: asOther }, async () => {
        const client = await clientOfApp();
        const kept = expect.stringContaining(
          `warning pgbouncer-entries: "orders_green" of PgBouncer "pool" has a user= and "orders_blue" has none: new clients of "orders" would come to blue as "${other}" after a rollback`,
        ) as string;
        expect(await warnings()).toEqual([kept]);
        await on('green', `ALTER ROLE ${ident(app)} NOLOGIN`);
        const refused = expect.stringContaining(`may be refused: green has no role "${app}" that may log in`) as string;
        expect(await warnings()).toEqual([kept, refused]);
        await on('green', `ALTER ROLE ${ident(app)} LOGIN`);

        const pools = pgBouncerPools(pair.setup);
        const { epoch } = await pair.whereWritesAre();
        const move = async (from: Side, to: Side, since: number): Promise<void> => {
          await pools.pause(from, since);
          await pools.point(to, since + 1);
          expect(await pools.release()).toEqual([]);
        };
        await move('blue', 'green', epoch);
        expect(await whoIs(client)).toBe(app);
        const second = await anotherClient();
        expect(await whoIs(second)).toBe(other);
        await move('green', 'blue', epoch + 1);
        const third = await anotherClient();
        expect(await whoIs(third)).toBe(other);
        await Promise.all([client, second, third].map((one) => one.end()));
        await pools.close();
      });
    });

    it('and one of blue: who is connected gets it with the address, and nobody is warned of', async () => {
      const own = `user=${app} password='of the application'`;
      const more = { orders: own, orders_blue: own, orders_green: asOther };
      await withUsers(more, async () => {
        const client = await anotherClient();
        await on('green', `ALTER ROLE ${ident(app)} NOLOGIN`);
        expect(await warnings()).toEqual([]);
        const pools = pgBouncerPools(pair.setup);
        const { epoch } = await pair.whereWritesAre();
        expect(await whoIs(client)).toBe(app);
        await pools.pause('blue', epoch);
        await pools.point('green', epoch + 1);
        expect(await pools.release()).toEqual([]);
        expect(await whoIs(client)).toBe(other);
        await pools.pause('green', epoch + 1);
        await pools.point('blue', epoch + 2);
        expect(await pools.release()).toEqual([]);
        expect(await whoIs(client)).toBe(app);
        await client.end();
        await pools.close();
      });
    });
  });

  it('says so before the pause, too, and refuses nothing', async () => {
    const client = await clientOfApp();
    await on('green', `ALTER ROLE ${ident(app)} PASSWORD 'of the application'`);
    const told: string[] = [];
    const pools = poolsBefore(pair.setup, pair.databases, {
      mayBeRefused: (what) => void told.push(what),
      unserved: () => undefined,
      notTold: () => undefined,
    });
    await pools.prepare('blue', (await pair.whereWritesAre()).epoch);
    expect(told).toEqual([expect.stringContaining(`the role "${app}" has another password verifier on green`)]);
    await pools.release();
    await pools.close();
    await client.end();
  });

  it('tells of clients that get no connection after the pause, and of nobody else', async () => {
    const told: string[] = [];
    const pools = pgBouncerPools(pair.setup, { unserved: (what, side) => void told.push(`${side}: ${what}`) });
    let { epoch } = await pair.whereWritesAre();
    const move = async (from: Side, to: Side): Promise<string> => {
      const client = await clientOfApp();
      await pools.pause(from, epoch);
      const answer = client.query('SELECT 1').then(
        () => 'served',
        () => 'refused',
      );
      // It waits already when the pause ends.
      await pair.pgbouncerSees(0, app, 'cl_waiting');
      epoch += 1;
      await pools.point(to, epoch);
      expect(await pools.release()).toEqual([]);
      // A client that was there waits on; new ones are refused.
      const said = await Promise.race([answer, sleep(500, 'waits')]);
      await client.end().catch(() => undefined);
      return said;
    };
    expect(await move('blue', 'green')).toBe('served');
    expect(await move('green', 'blue')).toBe('served');
    expect(told).toEqual([]);
    await on('green', `ALTER ROLE ${ident(app)} PASSWORD 'of the application'`);
    expect(await move('blue', 'green')).not.toBe('served');
    expect(told).toEqual([
      `green: clients of "orders" (user "${app}") have got no connection to green through PgBouncer "pgbouncer_1"`,
    ]);
    await pools.close();
  });
});
