import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
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

describe.each([testedVersion('pg15')])('a table under FORCE ROW LEVEL SECURITY, from %s to 18', (server) => {
  it('is replicated there and back, although its owner is no superuser', async () => {
    pair = await ReplicatedPair.start(
      server,
      'forced',
      `DO $$ BEGIN CREATE ROLE ${ROLE}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
       CREATE TABLE public.tenants (id int PRIMARY KEY, body text);
       ALTER TABLE public.tenants OWNER TO ${ROLE};`,
      `INSERT INTO public.tenants VALUES (1, 'copied')`,
    );
    const force = `
      CREATE POLICY own ON public.tenants USING (body = current_setting('app.tenant', true));
      ALTER TABLE public.tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`;
    await pair.blue.query(force);
    // As the schema copy does it: policies come after the feed.
    await pair.green.query(force);
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
