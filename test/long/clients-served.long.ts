import { randomBytes } from 'node:crypto';
import { MockActivityEnvironment } from '@temporalio/testing';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { standbyActivities } from '../../activities/standby.js';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { unservedOf, type ClientPool } from '../../src/pgbouncer/client-pools.js';
import { pgBouncerPools } from '../../src/pgbouncer/pgbouncer-pools.js';
import { parsePlan } from '../../src/plan/parse.js';
import { ident } from '../../src/postgres/identifier.js';
import { PooledPair } from '../support/pooled-pair.js';
import { withClient } from '../support/postgres.js';

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED clients of PgBouncer that are served late: pgbouncer is not installed\n');

describe.skipIf(!isThere)('clients that green refuses at the promotion', () => {
  const app = `app_${randomBytes(4).toString('hex')}`;
  const pool = { pooler: 'pgbouncer_1', database: 'orders', user: app };
  let pair: PooledPair;

  async function onGreen(sql: string): Promise<void> {
    await withClient(pair.databases.green.config, (client) => client.query(sql));
  }

  async function clientOfApp(): Promise<pg.Client> {
    const client = new pg.Client({ ...pair.clientOf(0), user: app, password: 'of the application' });
    client.on('error', () => undefined);
    await client.connect();
    return client;
  }

  /** PgBouncer refuses for as long as it does not try to log in again. */
  async function untilServed(): Promise<void> {
    const ask = async (): Promise<unknown> => {
      const client = await clientOfApp().catch(() => undefined);
      const answer = await client?.query('SELECT 1').catch(() => undefined);
      await client?.end().catch(() => undefined);
      return answer?.rowCount;
    };
    await expect.poll(ask, { timeout: 20_000, interval: 200 }).toBe(1);
  }

  beforeAll(async () => {
    pair = await PooledPair.create('pooled served', { poolers: 1, users: { [app]: 'of the application' } });
    for (const side of ['blue', 'green'] as const)
      await withClient(pair.databases[side].config, (client) =>
        client.query(`CREATE ROLE ${ident(app)} LOGIN PASSWORD 'of the application'`),
      );
  });

  afterAll(async () => {
    for (const side of ['blue', 'green'] as const)
      await withClient(pair.databases[side].config, (client) => client.query(`DROP ROLE IF EXISTS ${ident(app)}`));
    await pair.close();
  });

  it('are without a connection until green lets them in', async () => {
    const told: ClientPool[] = [];
    const pools = pgBouncerPools(pair.setup, { unserved: (_what, _side, of) => void told.push(...of) });
    const { epoch } = await pair.whereWritesAre();
    const client = await clientOfApp();
    await client.query('SELECT 1');
    await onGreen(`ALTER ROLE ${ident(app)} NOLOGIN`);
    await pools.pause('blue', epoch);
    client.query('SELECT 1').catch(() => undefined);
    await pair.pgbouncerSees(0, app, 'cl_waiting');
    await pools.point('green', epoch + 1);
    expect(await pools.release()).toEqual([]);
    await pools.close();
    await client.end().catch(() => undefined);
    expect(told).toEqual([pool]);

    // Nobody waits any more, which says nothing.
    expect(await unservedOf(pair.setup, told)).toEqual([pool]);
    const gone = { ...pair.setup, instances: pair.setup.instances.map((one) => ({ ...one, config: { port: 1 } })) };
    expect(await unservedOf(gone, told)).toEqual([pool]);
    await onGreen(`ALTER ROLE ${ident(app)} LOGIN`);
    expect(await unservedOf(pair.setup, told)).toEqual([pool]);

    const { port, user, password } = pair.clientOf(0);
    const instances = [{ connection: 'pgbouncer_1', file: pair.poolers[0]?.file ?? '' }];
    const parsed = parsePlan({
      ...{ name: pair.migration, blue: { connection: 'a' }, green: { connection: 'b' } },
      traffic: { stages: [], pgbouncer: { databases: ['orders'], instances } },
    });
    if (!('plan' in parsed)) throw new Error('the plan is not one');
    const { awaitServed } = standbyActivities({
      redact: (text) => text,
      environment: {
        VERDIGRIS_CONNECTION_A: 'postgres://u:p@127.0.0.1:1/blue',
        VERDIGRIS_CONNECTION_B: 'postgres://u:p@127.0.0.1:1/green',
        VERDIGRIS_CONNECTION_PGBOUNCER_1: `postgres://${user}:${password}@127.0.0.1:${port}/pgbouncer`,
      },
    });
    const environment = new MockActivityEnvironment();
    await untilServed();
    await environment.run(() => awaitServed({ runId: 'run', plan: parsed.plan }, told));
    expect(await unservedOf(pair.setup, told)).toEqual([]);
  });
});
