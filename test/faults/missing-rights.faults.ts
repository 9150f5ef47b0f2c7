import pg from 'pg';
import { expect, it } from 'vitest';
import { approveSignal } from '../../workflows/messages.js';
import { LedgerApplication } from '../support/ledger-application.js';
import { statusOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';
import { newMigration, WHO } from '../support/rolled-back-run.js';

it('a role of the application that may do less on green keeps writes on blue until it is granted the same', async () => {
  const migration = await newMigration();
  const role = `reports_${process.pid}`;
  await withClient(migration.blue.config, async (client) => {
    await client.query(`CREATE ROLE ${role} LOGIN PASSWORD 'x'`);
    // It may read each column of a table to which the plan gives more.
    const { rows } = await client.query<{ columns: string }>(
      `SELECT string_agg(quote_ident(attname), ', ') AS columns FROM pg_attribute
        WHERE attrelid = 'public.entries'::regclass AND attnum > 0 AND NOT attisdropped`,
    );
    await client.query(`GRANT SELECT (${rows[0]?.columns ?? ''}) ON public.entries TO ${role}`);
  });
  await withClient(migration.green.config, (client) => client.query(`CREATE ROLE ${role} LOGIN PASSWORD 'x'`));
  const reports = new pg.Client({ ...migration.blue.config, user: role, password: 'x' });
  await reports.connect();
  const application = await LedgerApplication.start(migration);
  const handle = await migration.start();
  try {
    await until(handle, 'in phase migrate', (s) => s.phase === 'migrate');
    // The schema has been copied: a GRANT from now on is on blue only.
    await withClient(migration.blue.config, (client) => client.query(`GRANT SELECT ON public.accounts TO ${role}`));
    await until(handle, 'asked again', (s) => s.waiting?.for === 'approval');
    const { waiting, writesOn, warnings } = await statusOf(handle);
    expect(writesOn).toBe('blue');
    expect(waiting?.why).toContain(`GRANT SELECT ON TABLE public.accounts TO "${role}"`);
    // Whether it is to read the new ones nobody knows: people are told, and nothing is held.
    const ofPlan = /GRANT SELECT \("\w+"(, "\w+")*\) ON "public"\."entries" TO/;
    expect(warnings.join('\n')).toMatch(ofPlan);
    expect(waiting?.why).not.toMatch(ofPlan);
    await withClient(migration.green.config, (client) => client.query(`GRANT SELECT ON public.accounts TO ${role}`));
    await handle.signal(approveSignal, { gate: 'promote', ...WHO });
    await until(handle, 'on green', (s) => s.writesOn === 'green');
    expect(application.failures).toEqual([]);
  } finally {
    await reports.end();
    await application.stop();
    await handle.terminate();
    for (const { config } of [migration.blue, migration.green]) {
      await withClient(config, (client) => client.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`));
    }
  }
});
