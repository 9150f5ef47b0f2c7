import { randomBytes } from 'node:crypto';
import { afterAll, expect, it } from 'vitest';
import { rollbackUpdate } from '../../workflows/messages.js';
import { ofDatabase, statementsOfRole } from '../support/documented-role.js';
import { LEDGER_MIGRATIONS, LEDGER_SCHEMA, LedgerApplication } from '../support/ledger-application.js';
import { Migration, until } from '../support/migration.js';
import { testDatabase, withClient } from '../support/postgres.js';

const TAG = randomBytes(4).toString('hex');
const [ROLE, OWNER] = [`role_${TAG}`, `app_${TAG}`] as const;

afterAll(async () => {
  const database = await testDatabase('pg18', 'role');
  await withClient(database.config, (client) => client.query(`DROP ROLE IF EXISTS ${ROLE}, ${OWNER}`));
  await database.drop();
});

const SCHEMA = `CREATE ROLE ${OWNER}; GRANT CREATE ON SCHEMA public TO ${OWNER}; SET ROLE ${OWNER}; ${LEDGER_SCHEMA};
  RESET ROLE; CREATE SEQUENCE public.invoice_no; SELECT nextval('public.invoice_no')`;

it('the role of docs/connections.md carries a run to green and back, without being a superuser', async () => {
  const asRole = (uri: string): string => uri.replace(/\/\/[^@]*@/, `//${ROLE}:x@`);
  const migration = await Migration.create({
    ...{ blue: 'pg18', green: 'pg18', purpose: 'role', schema: SCHEMA },
    plan: { migrations: LEDGER_MIGRATIONS, standby: { for: '10m' } },
    environment: (own) => Object.fromEntries(Object.entries(own).map(([name, uri]) => [name, asRole(uri)])),
  });
  try {
    for (const side of ['blue', 'green'] as const) {
      const { config, database } = migration[side];
      const all = statementsOfRole(side, { role: ROLE, password: 'x', owner: OWNER, database });
      await withClient(config, (client) => client.query((side === 'blue' ? all : ofDatabase(all)).join('; ')));
    }
    const application = await LedgerApplication.start(migration);
    const handle = await migration.start();
    await until(handle, 'in standby', (s) => s.phase === 'standby' && s.writesOn === 'green', 200_000);
    await withClient(migration.green.config, (client) => client.query(`SELECT nextval('public.invoice_no')`));
    await handle.executeUpdate(rollbackUpdate, { args: [{ by: 'ada', reason: 'the test says so' }] });
    expect(await handle.result()).toMatchObject({ outcome: 'rolledBack' });
    await application.stop();
    expect(application.failures).toEqual([]);
    expect(await application.audit(migration.blue)).toEqual({ lost: [], doubled: [], total: '0', odd: 0 });
    const last = await withClient(migration.blue.config, async (client) => {
      const { rows } = await client.query<{ last: string }>('SELECT last_value::text AS last FROM public.invoice_no');
      return Number(rows[0]?.last);
    });
    expect(last).toBeGreaterThan(1_000);
  } finally {
    await migration.close();
  }
}, 300_000);
