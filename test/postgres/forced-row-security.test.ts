import { randomBytes } from 'node:crypto';
import type pg from 'pg';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { runSql } from '../../src/postgres/migrate/sql-step.js';
import { readSubscription } from '../../src/postgres/subscription.js';
import { testDatabase, withClient } from '../support/postgres.js';
import { testedVersion } from '../support/tested-version.js';
import { ReplicatedPair } from './replicated-pair.js';

const ROLE = `forced_owner_${randomBytes(4).toString('hex')}`;

let pair: ReplicatedPair | undefined;
afterEach(() => pair?.stop());
afterAll(async () => {
  for (const server of ['pg15', 'pg18'] as const) {
    const db = await testDatabase(server, 'role');
    await withClient(db.config, (client) => client.query(`DROP ROLE IF EXISTS ${ROLE}`));
    await db.drop();
  }
});

const FORCE = `
  CREATE POLICY own ON public.tenants USING (body = current_setting('app.tenant', true));
  ALTER TABLE public.tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`;

const OWNED = `
  DO $$ BEGIN CREATE ROLE ${ROLE}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
  CREATE TABLE public.tenants (id int PRIMARY KEY, body text);
  ALTER TABLE public.tenants OWNER TO ${ROLE};`;

async function runAsOwner(client: pg.Client): Promise<boolean[]> {
  const { rows } = await client.query<{ is: boolean }>(
    'SELECT subrunasowner AS is FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())',
  );
  return rows.map(({ is }) => is);
}

describe.each([testedVersion('pg15')])('a table under FORCE ROW LEVEL SECURITY, from %s to 18', (server) => {
  it('is replicated there and back, although its owner is no superuser', async () => {
    pair = await ReplicatedPair.start(server, 'forced', OWNED, `INSERT INTO public.tenants VALUES (1, 'copied')`, {
      blue: FORCE,
      green: '',
    });
    // As the schema copy does it: policies come after the feed.
    await pair.green.query(FORCE);
    await pair.blue.query(
      `INSERT INTO public.tenants VALUES (2, 'new'); UPDATE public.tenants SET body = 'changed' WHERE id = 1`,
    );
    await pair.caughtUp();
    const { rows } = await pair.green.query('SELECT id, body FROM public.tenants ORDER BY id');
    expect(rows).toEqual([
      { id: 1, body: 'changed' },
      { id: 2, body: 'new' },
    ]);
    const { rows: feeds } = await pair.green.query<{ subname: string }>(
      'SELECT subname FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())',
    );
    expect(await readSubscription(pair.ourGreen, feeds[0]?.subname ?? '')).toMatchObject({ errors: 0 });

    await pair.promoteGreen();
    await pair.green.query('DELETE FROM public.tenants WHERE id = 2');
    await pair.caughtUpOnBlue();
    expect((await pair.blue.query('SELECT id FROM public.tenants')).rows).toEqual([{ id: 1 }]);
  });
});

describe('rows of a table whose owner is no superuser', () => {
  const NOTES = `
    CREATE TABLE public.seen (who text);
    GRANT INSERT ON public.seen TO ${ROLE};
    CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN INSERT INTO public.seen VALUES (current_user); RETURN NULL; END';
    CREATE TRIGGER note AFTER INSERT ON public.tenants FOR EACH ROW EXECUTE FUNCTION public.note();
    ALTER TABLE public.tenants ENABLE ALWAYS TRIGGER note;`;

  it('are applied as the owner, so that code of its table has none of our rights', async () => {
    pair = await ReplicatedPair.start('pg18', 'as_owner', OWNED, '', { blue: '', green: NOTES });
    await pair.blue.query(`INSERT INTO public.tenants VALUES (1, 'a')`);
    await pair.caughtUp();
    expect((await pair.green.query('SELECT DISTINCT who FROM public.seen')).rows).toEqual([{ who: ROLE }]);
    await pair.promoteGreen();
    await pair.blue.query(NOTES);
    await pair.green.query(`INSERT INTO public.tenants VALUES (2, 'b')`);
    await pair.caughtUpOnBlue();
    expect((await pair.blue.query('SELECT DISTINCT who FROM public.seen')).rows).toEqual([{ who: ROLE }]);
  });

  it.each([
    ['a partition of which another role has made', 'ALTER TABLE public.tenants_1 OWNER TO CURRENT_USER'],
    ['who may not write it', `REVOKE INSERT ON public.tenants_1 FROM ${ROLE}`],
    [
      'a partition of which another role has put under policies',
      `ALTER TABLE public.tenants_1 OWNER TO CURRENT_USER; ALTER TABLE public.tenants_1 ENABLE ROW LEVEL SECURITY;
       GRANT ALL ON public.tenants_1 TO ${ROLE}`,
    ],
  ])('are applied there and back also where they belong to an owner %s', async (_, shut) => {
    const ddl = `${OWNED.replace('PRIMARY KEY, body text)', 'PRIMARY KEY, body text) PARTITION BY RANGE (id)')}
      CREATE TABLE public.tenants_1 PARTITION OF public.tenants FOR VALUES FROM (0) TO (10);
      ALTER TABLE public.tenants_1 OWNER TO ${ROLE}; ${shut}`;
    pair = await ReplicatedPair.start('pg18', 'shut', ddl);
    await pair.blue.query(`INSERT INTO public.tenants VALUES (1, 'a')`);
    await pair.caughtUp();
    expect((await pair.green.query('SELECT id FROM public.tenants')).rows).toEqual([{ id: 1 }]);
    await pair.promoteGreen();
    await pair.green.query('DELETE FROM public.tenants');
    await pair.caughtUpOnBlue();
    expect((await pair.blue.query('SELECT id FROM public.tenants')).rows).toEqual([]);
  });

  it('are applied on, although raw SQL of the plan has forced policies on the owner', async () => {
    pair = await ReplicatedPair.start('pg18', 'force_sql', OWNED);
    expect(await runAsOwner(pair.green)).toEqual([false]);
    await runSql(pair.context(), 0, { name: 'tenancy', up: FORCE, down: 'SELECT' }, 'up');
    expect(await runAsOwner(pair.green)).toEqual([true]);
    await pair.blue.query(`INSERT INTO public.tenants VALUES (1, 'a')`);
    await pair.caughtUp();
    expect((await pair.green.query('SELECT id FROM public.tenants')).rows).toEqual([{ id: 1 }]);
  });
});
