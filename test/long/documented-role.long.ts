import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from 'vitest';
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

/**
 * `public` is a superuser's, as in a database that began before PostgreSQL 15.
 *
 * @param owner of the sequence: a superuser keeps owners and grants from being copied
 */
function schemaOf(owner: string): string {
  return `GRANT CREATE ON SCHEMA public TO ${OWNER}; SET ROLE ${OWNER}; ${LEDGER_SCHEMA}; RESET ROLE;
    CREATE SEQUENCE public.invoice_no; ALTER SEQUENCE public.invoice_no OWNER TO ${owner}; SELECT nextval('public.invoice_no');
    GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean) TO ${OWNER};
    ALTER SCHEMA public OWNER TO postgres`;
}

beforeAll(async () => {
  const database = await testDatabase('pg18', 'role');
  await withClient(database.config, (client) => client.query(`CREATE ROLE ${ROLE} LOGIN; CREATE ROLE ${OWNER}`));
  await database.drop();
});

it.each([
  { sequenceOf: 'postgres', tablesOf: ROLE },
  { sequenceOf: OWNER, tablesOf: OWNER },
])(
  'the role of docs/connections.md carries a run to green and back, without being a superuser: $sequenceOf',
  async (owners) => {
    const asRole = (uri: string): string => uri.replace(/\/\/[^@]*@/, `//${ROLE}:x@`);
    const migration = await Migration.create({
      ...{ blue: 'pg18', green: 'pg18', purpose: 'role', schema: schemaOf(owners.sequenceOf) },
      plan: { migrations: LEDGER_MIGRATIONS, standby: { for: '10m' } },
      environment: (own) => Object.fromEntries(Object.entries(own).map(([name, uri]) => [name, asRole(uri)])),
    });
    try {
      for (const side of ['blue', 'green'] as const) {
        const { config, database } = migration[side];
        const all = statementsOfRole(side, { role: ROLE, password: 'x', owner: OWNER, database });
        const role = all.find((statement) => statement.startsWith('CREATE ROLE '))?.replace('CREATE', 'ALTER') ?? '';
        await withClient(config, (client) => client.query([role, ...ofDatabase(all)].join('; ')));
      }
      const application = await LedgerApplication.start(migration);
      const handle = await migration.start();
      const status = await until(handle, 'in standby', (s) => s.phase === 'standby' && s.writesOn === 'green', 200_000);
      // Only a superuser may repeat it: it is told, and ends no run.
      expect(status.warnings.join()).toContain('GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(');
      await withClient(migration.green.config, async (client) => {
        await client.query(`SELECT nextval('public.invoice_no')`);
        const { rows } = await client.query(
          `SELECT DISTINCT pg_get_userbyid(relowner)::text AS owner FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace`,
        );
        expect(rows).toEqual([{ owner: owners.tablesOf }]);
      });
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
  },
  300_000,
);
