import { setTimeout as sleep } from 'node:timers/promises';
import type { WorkflowHandle } from '@temporalio/client';
import proto from '@temporalio/proto';
import { afterEach, describe, expect, it } from 'vitest';
import { LEDGER_MIGRATIONS, LEDGER_SCHEMA } from '../support/ledger-application.js';
import { Migration, rowsOf, statusOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';
import { approveUpdate, pauseUpdate, resumeUpdate, retireUpdate } from '../../workflows/messages.js';
import { PHASES, type Phase } from '../../workflows/lib/status.js';
import type { MigrationReport } from '../../workflows/lib/report.js';

const open: Migration[] = [];

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

const WHO = { by: 'ada', reason: 'lunch' };

/**
 * Sessions of ours that hold a lock or are in a transaction for longer than a look takes, the one that keeps an exported
 * snapshot among them. Replication goes on: it is the server's own, and in no transaction.
 */
const HOLDING = `
  SELECT application_name AS name, state, left(query, 60) AS query
    FROM pg_stat_activity a
   WHERE datname = current_database() AND backend_type IN ('client backend', 'walsender') AND application_name LIKE 'verdigris%'
     AND (state LIKE 'idle in transaction%' OR clock_timestamp() - xact_start > interval '2 seconds'
          OR EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted
                       AND (l.locktype = 'advisory' OR (l.locktype = 'relation' AND l.mode <> 'AccessShareLock'))))`;

async function holding(migration: Migration): Promise<unknown[]> {
  const sides = [migration.blue.config, migration.green.config];
  const found = await Promise.all(sides.map((config) => withClient(config, (client) => client.query(HOLDING))));
  return found.flatMap(({ rows }) => rows as unknown[]);
}

/** How many activities have been told to end and work on: whatever is looked at between two of their statements is free. */
async function ending(handle: WorkflowHandle): Promise<number> {
  const { raw } = await handle.describe();
  const { PENDING_ACTIVITY_STATE_CANCEL_REQUESTED: told } = proto.temporal.api.enums.v1.PendingActivityState;
  return (raw.pendingActivities ?? []).filter(({ state }) => state === told).length;
}

describe('a paused run', () => {
  it('holds no lock and no transaction on either side, in whichever phase it was paused, and goes on', async () => {
    const migration = await Migration.create({
      ...{ blue: 'pg15', green: 'pg18', purpose: 'pause', schema: LEDGER_SCHEMA },
      plan: {
        migrations: LEDGER_MIGRATIONS,
        bootstrap: { method: 'tablesync' },
        backfill: { batch: '20ms' },
        traffic: {
          stages: [{ percent: 0, for: '1s' }],
          gates: [{ metric: 'lag', max: '5s' }],
          approval: { before: ['promote'] },
        },
        standby: { for: '10m' },
      },
    });
    open.push(migration);
    // The look sees what it is for.
    await withClient(migration.blue.config, async (client) => {
      await client.query("SET application_name = 'verdigris left over'; BEGIN; LOCK TABLE accounts");
      expect(await holding(migration)).toHaveLength(1);
    });
    const handle = await migration.start();
    const paused: Phase[] = [];
    for (const phase of ['replicate', 'migrate', 'verify', 'traffic', 'promote', 'standby'] as const) {
      const reached = PHASES.indexOf(phase);
      const at = await until(handle, phase, (s) => {
        if (s.waiting?.gate === 'promote' && reached > PHASES.indexOf('promote')) return true;
        return PHASES.indexOf(s.phase) >= reached;
      });
      if (at.waiting?.gate === 'promote' && phase === 'standby') {
        await handle.executeUpdate(approveUpdate, {
          args: [{ gate: 'promote', request: at.waiting.request ?? '', ...WHO }],
        });
        await until(handle, 'standby', (s) => s.phase === 'standby' && s.waiting?.for === 'standby');
      }
      await handle.executeUpdate(pauseUpdate, { args: [WHO] });
      paused.push((await statusOf(handle)).phase);
      // What was running rolls back; then nothing of ours is left, at any look.
      await expect.poll(() => ending(handle), { timeout: 20_000, interval: 50 }).toBe(0);
      await expect.poll(() => holding(migration), { timeout: 20_000, interval: 100 }).toEqual([]);
      for (let look = 0; look < 5; look++) {
        await sleep(150);
        expect(await holding(migration), phase).toEqual([]);
      }
      await handle.executeUpdate(resumeUpdate, { args: [WHO] });
    }
    expect(new Set(paused).size, paused.join()).toBeGreaterThanOrEqual(4);
    await handle.executeUpdate(retireUpdate, { args: [WHO] });
    expect(((await handle.result()) as MigrationReport).outcome).toBe('completed');
  });

  it('in the middle of a copy lets its snapshot go; what was not copied comes by tablesync', async () => {
    const migration = await Migration.create({
      ...{ blue: 'pg15', green: 'pg18', purpose: 'pause copy' },
      schema: `CREATE TABLE big (id int PRIMARY KEY, text text); CREATE TABLE small (id int PRIMARY KEY);
               INSERT INTO big SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 40000) n;
               INSERT INTO small SELECT generate_series(1, 100)`,
      plan: {
        bootstrap: { method: 'copy', maxRate: '4MB' },
        traffic: { stages: [], approval: { before: [] } },
        standby: { for: '1s' },
      },
    });
    open.push(migration);
    const handle = await migration.start();
    const snapshots = async (): Promise<number> => {
      const { rows } = await withClient(migration.blue.config, (client) =>
        client.query<{ n: number }>(
          `SELECT count(*)::int AS n FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'walsender' AND state LIKE 'idle in transaction%'`,
        ),
      );
      return rows[0]?.n ?? 0;
    };
    await expect.poll(snapshots, { timeout: 30_000, interval: 20 }).toBeGreaterThan(0);
    expect((await holding(migration)).length).toBeGreaterThan(0);
    await handle.executeUpdate(pauseUpdate, { args: [WHO] });
    expect((await statusOf(handle)).phase).toBe('replicate');
    await expect.poll(() => ending(handle), { timeout: 20_000, interval: 50 }).toBe(0);
    await expect.poll(() => holding(migration), { timeout: 20_000, interval: 100 }).toEqual([]);
    for (let look = 0; look < 5; look++) {
      await sleep(150);
      expect(await holding(migration)).toEqual([]);
    }
    expect(await snapshots()).toBe(0);
    await handle.executeUpdate(resumeUpdate, { args: [WHO] });
    const report = (await handle.result()) as MigrationReport;
    expect(report).toMatchObject({ outcome: 'completed', verification: { differingRows: 0 } });
    expect(await rowsOf(migration.green, 'SELECT count(*)::int AS n FROM big')).toEqual([{ n: 40_000 }]);
  });
});
