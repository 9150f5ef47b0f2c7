import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { FaultRun } from '../support/fault-run.js';
import { withClient } from '../support/postgres.js';
import { TemporalProcess } from '../support/temporal-process.js';

/*
 * Temporal is out of reach for longer than the heartbeat timeout in the middle of a copy. It takes every activity for dead
 * then, while the worker, the databases and the snapshots are well.
 */

/** More than the 15 s of the heartbeat timeout, and the worker's own patience beyond it. */
const AWAY_MS = 25_000;
/** Takes a minute at this rate; cut into parcels. */
const BALLAST = `CREATE TABLE ballast (id int PRIMARY KEY, body text NOT NULL);
  INSERT INTO ballast SELECT n, repeat(md5(n::text), 58) FROM generate_series(1, 33000) n`;
const RATE = '1MB';

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
}, 300_000);

async function column(run: FaultRun, side: 'blue' | 'green', sql: string): Promise<unknown[]> {
  return withClient(run.own[side].config, async (client) => {
    const { rows } = await client.query<{ value: unknown }>(sql);
    return rows.map(({ value }) => value);
  });
}

/** Of the activity that has needed most of them. */
async function attemptsOf(run: FaultRun, name: string): Promise<number> {
  const { events } = await run.handle.fetchHistory();
  const ids = new Set(
    (events ?? [])
      .filter((event) => event.activityTaskScheduledEventAttributes?.activityType?.name === name)
      .map(({ eventId }) => String(eventId)),
  );
  const started = (events ?? []).flatMap(({ activityTaskStartedEventAttributes: one }) => (one ? [one] : []));
  const own = started.filter(({ scheduledEventId }) => ids.has(String(scheduledEventId)));
  return Math.max(0, ...own.map(({ attempt }) => attempt ?? 0));
}

const STATE = `SELECT state ->> 'incarnation' AS value FROM verdigris.progress WHERE step = 'copy' AND object = 'state'`;
const PIECES = `SELECT object AS value FROM verdigris.progress WHERE step = 'copy piece' AND done`;
const COPIED = `SELECT detail AS value FROM verdigris.event WHERE what = 'rows copied'`;

it('a copy goes on from its snapshot when Temporal is back', { timeout: 900_000 }, async () => {
  const temporal = await TemporalProcess.start();
  open.push(() => temporal.stop());
  const run = await FaultRun.create({
    purpose: 'temporal away',
    temporalAddress: temporal.address,
    schema: BALLAST,
    writers: 1,
    plan: {
      bootstrap: { method: 'copy', maxRate: RATE },
      traffic: {
        stages: [{ percent: 100, for: '1s' }],
        gates: [{ metric: 'lag', max: '10s' }],
        approval: { before: ['traffic'] },
      },
    },
  });
  open.push(() => run.close());
  await run.start();
  await expect
    .poll(() => column(run, 'green', PIECES).catch(() => []), { timeout: 120_000, interval: 500 })
    .not.toEqual([]);
  const before = await column(run, 'green', STATE);
  temporal.freeze();
  await sleep(AWAY_MS);
  temporal.thaw();
  await expect.poll(() => column(run, 'blue', COPIED), { timeout: 300_000, interval: 500 }).toHaveLength(1);
  expect(await column(run, 'blue', COPIED)).toMatchObject([{ left: [] }]);
  expect(await column(run, 'green', STATE)).toEqual(before);
  const kept = `SELECT pid AS value FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'verdigris copy snapshot'`;
  await expect.poll(() => column(run, 'blue', kept), { timeout: 10_000 }).toEqual([]);

  // Temporal has had others go on with what it took for dead, and all the same each row is there once.
  expect(await attemptsOf(run, 'copyParcel')).toBeGreaterThan(1);
  const { waiting } = await run.until('compared', (now) => now.waiting?.for === 'approval' || now.phase === 'standby');
  expect(waiting).toMatchObject({ for: 'approval', gate: 'traffic' });
  expect(await run.audit('blue', 'follows')).toEqual([]);
});
