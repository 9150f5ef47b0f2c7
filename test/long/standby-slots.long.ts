import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { preflight, type PreflightFinding } from '../../src/postgres/preflight/preflight.js';
import { startStandby } from '../support/physical-standby.js';
import { withClient } from '../support/postgres.js';
import { databaseOf, onServer, planOf } from '../support/standby-cluster.js';

const WITHIN = { timeout: 60_000, interval: 200 };

describe('slots of a standby that becomes green', { timeout: 120_000 }, () => {
  let blue: EmbeddedPostgres;
  let green: EmbeddedPostgres;

  beforeAll(async () => {
    blue = await startPostgres({ version: 18, name: 'slots-blue' });
    await withClient({ connectionString: blue.uri() }, (client) => client.query('CREATE DATABASE shop'));
    await onServer(blue, 'CREATE TABLE accounts (id int PRIMARY KEY)');
    green = await startStandby(blue, {
      ...{ name: 'slots-green', slot: 'green_slot', by: 'files' },
      settings: {
        hot_standby_feedback: 'on',
        sync_replication_slots: 'on',
        primary_conninfo: `host=127.0.0.1 port=${blue.port} user=postgres password=${blue.password} dbname=postgres`,
      },
    });
  }, 120_000);

  afterAll(async () => {
    await green.stop();
    await blue.stop();
  });

  async function told(check: string): Promise<Pick<PreflightFinding, 'severity' | 'side' | 'object' | 'message'>[]> {
    const [from, to] = [databaseOf(blue, 'blue'), databaseOf(green, 'green')];
    const { findings } = await preflight({
      ...{ blue: from, green: to, plan: planOf('standby-slots'), runId: 'run', reachWithinMs: 2_000 },
    });
    return findings.filter((finding) => finding.check === check);
  }

  it('are none at first, and nothing is said', async () => {
    expect(await told('standby-cluster')).toEqual([]);
  });

  it('are named where green keeps those of blue, or somebody reads green itself: they stay with its promotion', async () => {
    await onServer(blue, `SELECT pg_create_logical_replication_slot('consumer', 'pgoutput', failover => true)`);
    const synced = (): Promise<object[]> =>
      onServer(green, `SELECT FROM pg_replication_slots WHERE slot_name = 'consumer' AND synced AND NOT temporary`);
    await expect
      .poll(async () => {
        // As its reader does: green's can't be older than what green has.
        await onServer(blue, 'SELECT pg_log_standby_snapshot(), txid_current()');
        await onServer(blue, `SELECT pg_replication_slot_advance('consumer', pg_current_wal_lsn())`);
        return synced();
      }, WITHIN)
      .toHaveLength(1);
    const made = onServer(green, `SELECT pg_create_logical_replication_slot('own_reader', 'pgoutput')`);
    let isMade = false;
    void made.then(() => (isMade = true));
    while (!isMade) {
      await onServer(blue, 'SELECT pg_log_standby_snapshot()');
      await sleep(200);
    }
    expect(await told('standby-cluster')).toMatchObject([
      {
        ...{ severity: 'warning', side: 'green', object: 'consumer' },
        message: expect.stringMatching(/^green keeps the slot "consumer" \(pgoutput, of database "shop"\)/) as string,
        remedy: expect.stringMatching(/SELECT pg_drop_replication_slot\('consumer'\)/) as string,
      },
      {
        ...{ severity: 'warning', side: 'green', object: 'own_reader' },
        message: expect.stringMatching(/^somebody reads green itself through the slot "own_reader"/) as string,
      },
    ]);
  });

  it('are told of blue where its failover slots wait for green', async () => {
    await onServer(blue, `ALTER SYSTEM SET synchronized_standby_slots = 'another, green_slot'`);
    await onServer(blue, 'SELECT pg_reload_conf()');
    await expect
      .poll(async () => (await told('standby-cluster')).filter(({ side }) => side === 'blue'), WITHIN)
      .toMatchObject([
        {
          ...{ severity: 'warning', object: 'synchronized_standby_slots' },
          message: expect.stringMatching(/waits for green \("green_slot"\)/) as string,
        },
      ]);
  });
});
