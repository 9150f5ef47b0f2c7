import { setTimeout as sleep } from 'node:timers/promises';
import { WorkflowFailedError } from '@temporalio/client';
import type { temporal } from '@temporalio/proto';
import { afterEach, describe, expect, inject, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import type { MigrationReport } from '../../workflows/lib/report.js';
import { resumeUpdate, rollbackSignal } from '../../workflows/messages.js';
import { configOf, findHaproxy, TestHaproxy } from '../support/haproxy.js';
import { LEDGER_SCHEMA } from '../support/ledger-application.js';
import { leftovers, Migration, statusOf, until } from '../support/migration.js';
import { withClient } from '../support/postgres.js';
import { ReadLoad } from '../support/read-load.js';
import { createReaderRole } from '../support/reader-role.js';

const isThere = findHaproxy() !== undefined;
if (!isThere) process.stdout.write('SKIPPED whole runs behind HAProxy: haproxy is not installed\n');

const open: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

const WHO = { by: 'grace', reason: 'the test says so' };
/** Connections of the load that are open at a time: no more can be cut in one moment. */
const CLIENTS = 3;

type HistoryEvent = temporal.api.history.v1.IHistoryEvent;
type Traffic = NonNullable<PlanInput['traffic']>;

async function begin(
  traffic: Traffic,
  plan: Partial<PlanInput> = {},
): Promise<{ migration: Migration; haproxy: TestHaproxy; load: ReadLoad; config: string }> {
  const ports = { blue: inject('pg15').port, green: inject('pg18').port };
  const config = configOf(ports);
  const haproxy = await TestHaproxy.start(config);
  open.push(() => haproxy.stop());
  const role = await createReaderRole();
  open.push(() => role.drop());
  const migration = await Migration.create({
    ...{ blue: 'pg15', green: 'pg18', purpose: 'haproxy', schema: LEDGER_SCHEMA },
    plan: {
      traffic: {
        approval: { before: [] },
        gates: [{ metric: 'lag', max: '5s' }],
        ...traffic,
        haproxy: { backend: 'reads', instances: ['haproxy'] },
      },
      ...plan,
    },
    environment: (own) => ({ ...own, VERDIGRIS_CONNECTION_HAPROXY: haproxy.uri }),
  });
  open.push(() => migration.close());
  const load = new ReadLoad(haproxy, role.config, CLIENTS);
  open.push(() => load.stop());
  return { migration, haproxy, load, config };
}

const failed = (load: ReadLoad): number => load.reads.filter(({ side }) => side === 'failed').length;
const onGreen = (load: ReadLoad, since: number): number =>
  load.since(since).filter(({ side }) => side === 'green').length;

/** When the watch of the gates has told its run that one has failed, ms. */
function decidedAt(events: readonly HistoryEvent[]): number {
  const watches = events.filter(
    ({ activityTaskScheduledEventAttributes }) =>
      activityTaskScheduledEventAttributes?.activityType?.name === 'watchGates',
  );
  const ids = watches.map(({ eventId }) => String(eventId));
  const told = events.findLast((event) =>
    ids.includes(String(event.activityTaskCompletedEventAttributes?.scheduledEventId)),
  );
  const { seconds, nanos } = told?.eventTime ?? {};
  return Number(seconds) * 1_000 + Number(nanos) / 1e6;
}

describe.skipIf(!isThere)('a whole run with reads behind HAProxy', { timeout: 180_000 }, () => {
  it('brings reads back within a second of the decision of a gate, and leaves nothing behind', async () => {
    const { migration, haproxy, load } = await begin({
      stages: [{ percent: 50, for: '10m' }],
      gates: [{ metric: 'longTransactions', max: '2s' }],
    });
    const handle = await migration.start();
    await until(handle, 'in its stage', (s) => s.greenReadPercent === 50);
    expect(await haproxy.weights()).toBe('100/100');
    const opened = performance.now();
    await load.until(20, opened);
    expect(onGreen(load, opened)).toBeGreaterThan(5);
    expect(failed(load)).toBe(0);

    // Somebody forgets a transaction: the gate fails.
    await withClient(migration.blue.config, async (client) => {
      await client.query('BEGIN; SELECT 1');
      const before = Date.now() - performance.now();
      const ended = handle.result().then(
        () => undefined,
        (error: unknown) => error,
      );
      let backAt = 0;
      while (backAt === 0) {
        if ((await haproxy.weights()) === '200/0') backAt = performance.now();
        await sleep(10);
      }
      expect(await ended).toBeInstanceOf(WorkflowFailedError);
      const { events } = await handle.fetchHistory();
      const decision = decidedAt(events ?? []);
      const took = backAt + before - decision;
      const { rollingBack } = await statusOf(handle);
      process.stdout.write(`HAProxy: reads back ${Math.round(took)} ms after a gate of a run has failed\n`);
      expect(took).toBeLessThan(1_000);
      expect(rollingBack?.notUndone).toEqual([]);
      expect(onGreen(load, backAt)).toBe(0);
      expect(failed(load)).toBeLessThanOrEqual(CLIENTS);
    });
    expect((await leftovers(migration.green)).filter((what) => /relation|slot|subscription/.test(what))).toEqual([]);
  });

  it('follows the promotion without a failed read, and its rollback', async () => {
    const { migration, haproxy, load } = await begin(
      { stages: [{ percent: 50, for: '1s' }] },
      { standby: { for: '10m' } },
    );
    const handle = await migration.start();
    await until(handle, 'in the standby window', (s) => s.phase === 'standby' && s.lagSeconds !== null);
    expect(await haproxy.weights()).toBe('0/200');
    expect(failed(load)).toBe(0);
    const promoted = performance.now();
    expect((await load.until(20, promoted)).every(({ side }) => side === 'green')).toBe(true);
    // A restart begins on blue, which follows green, and is put right.
    await haproxy.restart();
    await until(handle, 'back on green', () => onGreen(load, performance.now() - 200) > 0);
    while ((await haproxy.weights()) !== '0/200') await sleep(50);
    const lost = failed(load);

    await handle.signal(rollbackSignal, WHO);
    const report = (await handle.result()) as MigrationReport;
    expect(report.outcome).toBe('rolledBack');
    expect(report.rollingBack?.notUndone).toEqual([]);
    expect(await haproxy.weights()).toBe('200/0');
    const back = performance.now();
    expect((await load.until(20, back)).every(({ side }) => side === 'blue')).toBe(true);
    expect(failed(load) - lost).toBeLessThanOrEqual(CLIENTS);
  });

  it('is not retired while a restart of HAProxy would lead reads to blue', async () => {
    const { migration, haproxy, load, config } = await begin(
      { stages: [{ percent: 100, for: '1s' }] },
      { standby: { for: '1s' } },
    );
    const handle = await migration.start();
    const held = await until(handle, 'held', (s) => JSON.stringify(s.waiting).includes('would lead reads to blue'));
    // Writes can still go back.
    expect(held).toMatchObject({ phase: 'standby', rollback: { safe: true } });
    // Blue is still kept current.
    expect((await leftovers(migration.green)).filter((what) => /slot|publication/.test(what))).toHaveLength(2);
    haproxy.listen = config
      .replace('weight 200', 'weight 1')
      .replace('weight 0', 'weight 200')
      .replace('weight 1', 'weight 0')
      .replace(/^.*blue_again.*$/m, '');
    await haproxy.restart();
    await handle.executeUpdate(resumeUpdate, { args: [WHO] });
    expect(((await handle.result()) as MigrationReport).outcome).toBe('completed');
    await load.stop();
    expect(await haproxy.weights()).toBe('0/200');
  });
});
