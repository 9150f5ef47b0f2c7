import { expect, onTestFinished } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { retireUpdate } from '../../workflows/messages.js';
import { LEDGER_MIGRATIONS, LEDGER_SCHEMA, LedgerApplication } from './ledger-application.js';
import { Migration, rowsOf, statusOf, until } from './migration.js';
import { withClient, type TestServer } from './postgres.js';
import { recordHistory } from './record-history.js';

/**
 * A database is moved under load: no request fails, no write is lost, the schema is new, blue is fenced.
 *
 * @param windowEnds how the standby window does
 */
export async function movesUnderLoad(
  blueServer: TestServer,
  greenServer: TestServer,
  windowEnds: 'by itself' | 'by retire',
): Promise<void> {
  const migration = await Migration.create({
    blue: blueServer,
    green: greenServer,
    purpose: 'whole',
    schema: LEDGER_SCHEMA,
    plan: { migrations: LEDGER_MIGRATIONS, standby: { for: windowEnds === 'by itself' ? '8s' : '10m' } },
  });
  onTestFinished(() => migration.close());
  const application = await LedgerApplication.start(migration);
  const handle = await migration.start();
  const before = await until(handle, 'in the standby window', (s) => s.phase === 'standby' && s.writesOn === 'green');
  expect(before.rollback.safe).toBe(true);
  if (windowEnds === 'by retire') {
    const moved = application.acknowledged.length;
    await until(handle, 'writing on green', () => application.acknowledged.length > moved + 20);
    await handle.executeUpdate(retireUpdate, { args: [{ by: 'grace', reason: 'the test says so' }] });
  }
  const report = (await handle.result()) as MigrationReport;
  const retiredAt = application.acknowledged.length;
  await application.stop();
  await recordHistory(handle, `completed-${blueServer}-${greenServer}`);

  expect(report.outcome).toBe('completed');
  expect(report.phases.map((p) => p.phase)).toEqual([
    'preflight',
    'replicate',
    'migrate',
    'verify',
    'traffic',
    'promote',
    'standby',
    'retire',
  ]);
  expect(report.verification).toMatchObject({ differingRows: 0, tables: 2 });
  expect(report.verification?.rowsVerified).toBeGreaterThanOrEqual(5_200);
  expect(report.promotion?.holdMs).toBeGreaterThan(0);
  expect(report.promotion?.holdMs).toBeLessThan(2_500);
  expect(report.evidence.length).toBeGreaterThan(0);
  // Once it retires nobody fills the new NOT NULL column but the application, which does not: see docs/plan.md.
  const retires = Date.parse(report.phases.find(({ phase }) => phase === 'retire')?.startedAt ?? '');
  expect(retires).toBeGreaterThan(0);
  const isOfRetirement = (message: string, i: number): boolean =>
    message.includes('metadata') && (application.failedAt[i] ?? 0) >= retires;
  expect(application.failures.filter((message, i) => !isOfRetirement(message, i))).toEqual([]);
  expect(retiredAt).toBeGreaterThan(100);
  expect(application.reads).toBeGreaterThan(100);
  expect(await application.audit(migration.green)).toEqual({ lost: [], doubled: [], total: '0', odd: 0 });

  const [green] = await rowsOf(
    migration.green,
    `SELECT count(*) FILTER (WHERE metadata IS NULL)::int AS without_metadata,
            count(*) FILTER (WHERE payload_json IS DISTINCT FROM verdigris.try_jsonb(payload))::int AS wrong_json,
            (SELECT count(*)::int FROM pg_index WHERE indexrelid = 'entries_metadata'::regclass AND indisvalid) AS index,
            (SELECT is_nullable FROM information_schema.columns WHERE table_name = 'entries' AND column_name = 'metadata') AS nullable,
            (SELECT count(*)::int FROM pg_constraint WHERE conname = 'amount_sane' AND convalidated) AS constraint
       FROM entries`,
  );
  expect(green).toEqual({ without_metadata: 0, wrong_json: 0, index: 1, nullable: 'NO', constraint: 1 });
  // Without statistics the first plans after the promotion are guesses.
  const unknown = `SELECT c.oid::regclass::text AS table FROM pg_class c
                    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
                      AND NOT EXISTS (SELECT FROM pg_stats s WHERE s.schemaname = 'public' AND s.tablename = c.relname)`;
  expect(await rowsOf(migration.green, unknown)).toEqual([]);
  expect(await replicationObjects(migration)).toEqual([]);
  await expect(
    withClient(migration.blue.config, (client) => client.query('UPDATE accounts SET balance = 0')),
  ).rejects.toMatchObject({ code: '25006' });
  expect((await statusOf(handle)).outcome).toBe('completed');
}

/** Publications, slots, subscriptions and triggers of ours that a completed run has left on either side. */
async function replicationObjects(migration: Migration): Promise<string[]> {
  const left: string[] = [];
  for (const side of ['blue', 'green'] as const) {
    const rows = await rowsOf<{ what: string }>(
      migration[side],
      `SELECT pubname AS what FROM pg_publication
        UNION ALL SELECT slot_name FROM pg_replication_slots WHERE database = current_database()
        UNION ALL SELECT subname FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        UNION ALL SELECT tgname FROM pg_trigger WHERE tgname LIKE '%verdigris%' AND '${side}' = 'green'`,
    );
    left.push(...rows.map((row) => `${side}: ${row.what}`));
  }
  return left;
}
