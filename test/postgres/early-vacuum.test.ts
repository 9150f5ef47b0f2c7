import { setTimeout as sleep } from 'node:timers/promises';
import { MockActivityEnvironment } from '@temporalio/testing';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { copySchemaActivities } from '../../activities/copy-schema.js';
import { planSchema, type Plan } from '../../src/plan/schema.js';
import { storeCopy } from '../../src/postgres/bootstrap/copy/copy-state.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { withSession, type Databases } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';
import { untilRow } from '../support/wait-for-row.js';

/* The largest table is vacuumed while blue's schema is read. Both servers of these tests are on one machine. */

const RUN = { runId: 'early-vacuum', migration: 'early-vacuum' };
const LARGE = { schema: 'public', name: 'large' };
/** What is asked when the dump has been read, before anything is built. */
const BUILDS = /^SELECT n\.nspname AS schema, c\.relname AS name, pg_relation_size\(c\.oid\)/;
const VACUUM = /^VACUUM/;
const KEY = /ADD CONSTRAINT/;

let own: readonly [TestDatabase, TestDatabase];
let databases: Databases;
const query = vi.spyOn(pg.Client.prototype, 'query');

/** What ours have sent, of these kinds, in this order. */
function sent(...kinds: readonly RegExp[]): RegExp[] {
  return query.mock.calls.flat().flatMap((text) => kinds.filter((kind) => typeof text === 'string' && kind.test(text)));
}

beforeEach(async () => {
  own = [await testDatabase('pg15', 'early vacuum blue'), await testDatabase('pg18', 'early vacuum green')];
  databases = { blue: asDatabase(own[0], 'blue'), green: asDatabase(own[1], 'green') };
});
afterEach(async () => {
  for (const database of own) await database.drop();
});

/** Green's keys and indexes are built by this, of the rows that it has got. */
async function copied(pace: Plan['bootstrap']['pace'], ddl: string): Promise<() => Promise<unknown>> {
  await withClient(own[0].config, (client) => client.query(ddl));
  await claimDatabases(databases, RUN, 'use-green-db');
  const plan = planSchema.parse({
    ...{ name: RUN.migration, blue: { connection: 'b' }, green: { connection: 'g' } },
    bootstrap: { method: 'copy', pace },
  });
  const environment = { VERDIGRIS_CONNECTION_B: own[0].uri, VERDIGRIS_CONNECTION_G: own[1].uri };
  const { copySchema, buildKeysAndIndexes } = copySchemaActivities({ environment, redact: String });
  const ref = { plan, runId: RUN.runId };
  await new MockActivityEnvironment().run(() => copySchema(ref));
  await withSession(databases.green, { purpose: 'test' }, async (green) => {
    await green.query('INSERT INTO public.large SELECT generate_series(1, 5000)');
    const piece = { key: 'large', source: LARGE, root: LARGE, target: LARGE, fileNode: 0, fromBlock: 0, toBlock: null };
    const pieces = [{ ...piece, bytes: 200_000, estimatedRows: 5_000 }];
    await storeCopy(green, RUN.runId, [{ id: 0, label: 'large', bytes: 200_000, stream: 'a', pieces }], {});
  });
  query.mockClear();
  return () => new MockActivityEnvironment().run(() => buildKeysAndIndexes(ref));
}

describe('the vacuum of the largest table', () => {
  it('is over before its key is asked for, which no index of its own is built for', async () => {
    const build = await copied('full', 'CREATE TABLE large (id int, PRIMARY KEY (id) WITH (fillfactor = 90))');
    await withClient(own[1].config, async (holder) => {
      await holder.query('BEGIN; LOCK TABLE public.large IN SHARE UPDATE EXCLUSIVE MODE');
      const built = build();
      await expect.poll(() => sent(BUILDS, VACUUM), { timeout: 20_000 }).toEqual([VACUUM, BUILDS]);
      await sleep(500);
      expect(sent(KEY)).toEqual([]);
      await holder.query('ROLLBACK');
      await built;
    });
    expect(sent(VACUUM, KEY)).toEqual([VACUUM, KEY]);
  });

  it('is not begun early beside an application on the same machine: one process at a time works on green', async () => {
    const build = await copied('auto', 'CREATE TABLE large (id int PRIMARY KEY)');
    await withClient(own[0].config, async (application) => {
      const busy = application.query('SELECT pg_sleep(60)').catch(() => undefined);
      await withClient(own[0].config, async (client) => {
        await untilRow(client, `SELECT ${ASLEEP}`);
        await build();
        await client.query(`SELECT pg_cancel_backend(pid) ${ASLEEP}`);
      });
      await busy;
    });
    expect(sent(BUILDS, VACUUM).slice(0, 2)).toEqual([BUILDS, VACUUM]);
  });
});

const ASLEEP = `FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND datname = current_database()`;
