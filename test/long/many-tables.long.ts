import { afterEach, describe, expect, it } from 'vitest';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { Migration, rowsOf } from '../support/migration.js';

/*
 * A database of two thousand tables through the whole run. Nothing may grow with the square of their number, and the
 * history not with the number: a table is not an activity.
 */

const TABLES = 2_000;

const SCHEMA = `DO $$
  BEGIN
    FOR n IN 1..${TABLES} LOOP
      EXECUTE format('CREATE TABLE t%s (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, parent int, body text NOT NULL)', n);
      EXECUTE format('INSERT INTO t%s (parent, body) SELECT CASE WHEN n > 1 THEN n - 1 END, md5(n::text) FROM generate_series(1, 20) n', n);
      EXECUTE format('CREATE INDEX t%s_body ON t%s (body)', n, n);
      IF n % 4 = 0 THEN
        EXECUTE format('ALTER TABLE t%s ADD FOREIGN KEY (parent) REFERENCES t%s (id)', n, n - 1);
      END IF;
      -- One transaction for all of them would need more locks than a server has by default.
      IF n % 100 = 0 THEN COMMIT; END IF;
    END LOOP;
  END $$`;

const open: { close(): Promise<void> }[] = [];

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

describe('a database of two thousand tables', () => {
  it(
    'goes through the whole run, every row is compared, and the history stays short',
    { timeout: 900_000 },
    async () => {
      const migration = await Migration.create({
        blue: 'pg15',
        green: 'pg18',
        purpose: 'many',
        schema: SCHEMA,
        plan: {
          migrations: [{ addColumn: { table: 't7', column: 'size', type: 'int', up: 'length(body)', notNull: true } }],
          traffic: {
            stages: [{ percent: 100, for: '1s' }],
            gates: [{ metric: 'lag', max: '10s' }],
            approval: { before: [] },
          },
        },
      });
      open.push(migration);
      const handle = await migration.start();
      const report = (await handle.result()) as MigrationReport;
      expect(report.outcome).toBe('completed');
      expect(report.verification).toMatchObject({ differingRows: 0, tables: TABLES });
      expect(report.verification?.rowsVerified).toBeGreaterThanOrEqual(TABLES * 20);
      const [green] = await rowsOf(
        migration.green,
        `SELECT (SELECT count(*)::int FROM pg_tables WHERE schemaname = 'public') AS tables,
                (SELECT count(*)::int FROM pg_index WHERE indisvalid AND indrelid >= 16384
                    AND indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)) AS indexes,
                (SELECT count(*)::int FROM pg_constraint WHERE contype = 'f' AND convalidated) AS keys,
                (SELECT count(*)::int FROM t7 WHERE size = 32) AS sized`,
      );
      expect(green).toEqual({ tables: TABLES, indexes: TABLES * 2, keys: TABLES / 4, sized: 20 });
      const { events } = await handle.fetchHistory();
      const activities = new Map<string, number>();
      for (const { activityTaskScheduledEventAttributes: scheduled } of events ?? []) {
        const kind = scheduled?.activityType?.name;
        if (kind !== undefined && kind !== null) activities.set(kind, (activities.get(kind) ?? 0) + 1);
      }
      const historyLength = events?.length ?? 0;
      expect(Math.max(...activities.values()), JSON.stringify([...activities])).toBeLessThanOrEqual(TABLES / 80);
      // 422 in 76 s, and some twenty more for each minute: what watches begins anew, what takes long tells of itself.
      expect(historyLength).toBeLessThan(TABLES / 2);
      const times = report.phases.map(({ phase, startedAt, finishedAt }) => {
        const ms = finishedAt === null ? 0 : Date.parse(finishedAt) - Date.parse(startedAt);
        return `${phase} ${(ms / 1_000).toFixed(1)} s`;
      });
      process.stdout.write(`${TABLES} tables: ${times.join(', ')}; ${historyLength} events\n`);
    },
  );
});
