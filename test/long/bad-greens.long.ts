import { setTimeout as sleep } from 'node:timers/promises';
import { WorkflowFailedError, type WorkflowHandle } from '@temporalio/client';
import { afterEach, describe, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { LEDGER_SCHEMA } from '../support/ledger-application.js';
import { LinkProxy } from '../support/link-proxy.js';
import { Migration, rowsOf, until } from '../support/migration.js';
import { testDatabase, withClient } from '../support/postgres.js';
import { StagedReaders } from '../support/staged-readers.js';

/*
 * Greens that are bad in one way, behind real routers, servers and gates: each is caught in its stage, without anybody's
 * read failing, and no read is sent to it later than a second after the decision.
 */

const open: { close(): Promise<void> }[] = [];

afterEach(async () => {
  for (const item of open.splice(0).reverse()) await item.close();
});

type Gate = NonNullable<NonNullable<PlanInput['traffic']>['gates']>[number];

async function newMigration(
  percent: number,
  gate: Gate,
  environment?: (own: Record<string, string>) => Record<string, string>,
): Promise<Migration> {
  const migration = await Migration.create({
    ...{ blue: 'pg15', green: 'pg18', purpose: 'bad green', schema: LEDGER_SCHEMA },
    plan: {
      traffic: { stages: [{ percent, for: '10m' }], gates: [gate], approval: { before: [] } },
    },
    ...(environment === undefined ? {} : { environment }),
  });
  open.push(migration);
  return migration;
}

/** Makes green bad once the stage is open, and waits for the rollback. */
async function caught(
  migration: Migration,
  readers: StagedReaders,
  percent: number,
  makeBad: () => Promise<unknown>,
): Promise<{ message: string; backAfterMs: number }> {
  const handle = await migration.start();
  await until(handle, 'reading from green', (s) => s.greenReadPercent === percent);
  const deciding = decision(migration);
  await makeBad();
  const error: unknown = await handle.result().catch((e: unknown) => e);
  await sleep(1_500);
  await readers.stop();
  expect(error).toBeInstanceOf(WorkflowFailedError);
  expect(readers.failures).toEqual([]);
  const decided = await deciding;
  // The reads are back before the workflow has heard of it.
  expect(decided).toBeLessThan(await toldAt(handle));
  return {
    message: String((error as WorkflowFailedError).cause?.message),
    backAfterMs: readers.lastSentToGreenAt - decided,
  };
}

/** When the gates decided: the moment in which the route on blue ceased to send reads to green, by this machine's clock. */
async function decision(migration: Migration): Promise<number> {
  return withClient(migration.blue.config, async (client) => {
    for (;;) {
      const { rows } = await client.query<{ percent: number; at: number }>(
        `SELECT green_read_percent::float8 AS percent, (extract(epoch FROM updated_at) * 1000)::float8 AS at
           FROM verdigris.route`,
      );
      if (rows[0]?.percent === 0) return rows[0].at;
      await sleep(20);
    }
  });
}

/** When the workflow was told of it, by Temporal's clock, which is this machine's. */
async function toldAt(handle: WorkflowHandle): Promise<number> {
  const { events } = await handle.fetchHistory();
  const names = new Map<string, string>();
  let told = 0;
  for (const event of events ?? []) {
    const { activityTaskScheduledEventAttributes: scheduled, activityTaskCompletedEventAttributes: completed } = event;
    if (scheduled?.activityType?.name === 'readsToBlue') break;
    if (scheduled) names.set(String(event.eventId), scheduled.activityType?.name ?? '');
    const name = completed && names.get(String(completed.scheduledEventId));
    if (name === 'watchGates' || name === 'judgeStage') {
      told = Number(event.eventTime?.seconds) * 1_000 + (event.eventTime?.nanos ?? 0) / 1e6;
    }
  }
  return told;
}

/** What the users noticed while green answered: of every hundred reads one at most, and it did answer. */
function expectOnePercent({ readsOnGreen, readsMeanwhile }: StagedReaders): void {
  expect(readsOnGreen).toBeGreaterThan(0);
  // The last hundred may have begun with the one.
  expect(readsOnGreen).toBeLessThanOrEqual(readsMeanwhile * 0.01 + 1);
}

/** Lets a view of green's go through a function: what the application's reads meet. */
async function onEveryRead(migration: Migration, body: string): Promise<void> {
  await rowsOf(
    migration.green,
    `CREATE FUNCTION public.bad() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN ${body} RETURN true; END $$;
     CREATE OR REPLACE VIEW balances AS SELECT id, balance FROM accounts WHERE public.bad()`,
  );
}

const LONG = 240_000;

describe('a green is caught in its stage that', () => {
  it(
    'fails 0.5 % of its reads',
    async () => {
      const migration = await newMigration(1, { metric: 'errorRate', max: 0.0005 });
      const readers = await StagedReaders.start(migration, { restMs: 0 });
      const { message, backAfterMs } = await caught(migration, readers, 1, () =>
        onEveryRead(migration, "IF random() < 0.0055 THEN RAISE EXCEPTION 'a broken index'; END IF;"),
      );
      expect(message).toMatch(/gate failed in stage 1 %: errorRate/);
      expectOnePercent(readers);
      expect(backAfterMs).toBeLessThan(1_000);
    },
    LONG,
  );

  it(
    'is 200 ms slower',
    async () => {
      const migration = await newMigration(1, { metric: 'p99', maxIncrease: '100ms' });
      const readers = await StagedReaders.start(migration);
      const { message, backAfterMs } = await caught(migration, readers, 1, () =>
        onEveryRead(migration, 'PERFORM pg_sleep(0.2);'),
      );
      expect(message).toMatch(/gate failed in stage 1 %: p99/);
      expectOnePercent(readers);
      expect(backAfterMs).toBeLessThan(1_000);
    },
    LONG,
  );

  it(
    'is 5 s behind',
    async () => {
      const any = await testDatabase('pg15', 'link');
      const link = await LinkProxy.start(Number(any.config.port));
      open.push(link);
      await any.drop();
      const migration = await newMigration(1, { metric: 'lag', max: '1s' }, (own) => {
        const peer = new URL(own['VERDIGRIS_CONNECTION_APP_BLUE'] ?? '');
        peer.hostname = '127.0.0.1';
        peer.port = String(link.port);
        return { ...own, VERDIGRIS_CONNECTION_APP_BLUE_PEER: String(peer) };
      });
      const readers = await StagedReaders.start(migration);
      const { message, backAfterMs } = await caught(migration, readers, 1, () => Promise.resolve(link.delay(5_000)));
      expect(message).toMatch(/gate failed in stage 1 %: lag: green is \d+(\.\d+)? s behind blue/);
      expectOnePercent(readers);
      expect(backAfterMs).toBeLessThan(1_000);
    },
    LONG,
  );

  it(
    'answers one endpoint of ten with wrong rows',
    async () => {
      const migration = await newMigration(1, { metric: 'mismatchRate', max: 0.001 });
      const readers = await StagedReaders.start(migration, { mirror: { share: 0.2, concurrency: 4 } });
      const { message, backAfterMs } = await caught(migration, readers, 1, () =>
        rowsOf(
          migration.green,
          `CREATE OR REPLACE VIEW recent AS
             SELECT account, max(created_at) + interval '1 second' AS latest FROM entries GROUP BY account`,
        ),
      );
      expect(message).toMatch(/gate failed in stage 1 %: mismatchRate/);
      expectOnePercent(readers);
      expect(backAfterMs).toBeLessThan(1_000);
    },
    LONG,
  );
});
