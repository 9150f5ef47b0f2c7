import { setTimeout as sleep } from 'node:timers/promises';
import type { WorkflowHandle } from '@temporalio/client';
import proto from '@temporalio/proto';
import { afterEach, describe, expect, it } from 'vitest';
import { LEDGER_MIGRATIONS, LEDGER_SCHEMA } from '../support/ledger-application.js';
import { Migration, statusOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';
import { approveUpdate, pauseUpdate, resumeUpdate, retireUpdate } from '../../workflows/messages.js';
import { PHASES, type Phase } from '../../workflows/lib/status.js';
import type { MigrationReport } from '../../workflows/lib/report.js';

const open: Migration[] = [];

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

const WHO = { by: 'ada', reason: 'lunch' };

/** Sessions of ours that hold a lock or are in a transaction for longer than a look takes. Replication goes on: it is the server's own. */
const HOLDING = `
  SELECT application_name AS name, state, left(query, 60) AS query
    FROM pg_stat_activity a
   WHERE datname = current_database() AND backend_type = 'client backend' AND application_name LIKE 'verdigris%'
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
});
