import { rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import type { EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { CopyPair } from '../postgres/copy-pair.js';
import { FaultRun, type FaultRunOptions } from '../support/fault-run.js';
import { NO_OTHER_CLOCK, shiftedClock, startOddServer, whyNoDisk } from '../support/odd-server.js';
import { recordOutcome } from '../support/outcome-table.js';
import { LOCKS_WRITERS_OUT } from '../support/watched-try.js';

/* Whole runs, there and back, where a clock differs by an hour, or where a disk is full for a while. */

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
}, 300_000);

async function thereAndBack(what: string, options: Omit<FaultRunOptions, 'purpose'>): Promise<void> {
  const run = await FaultRun.create({ purpose: 'odd', ...options });
  open.push(() => run.close());
  await toldOf(run, what, 'a whole run', 'rolled back as asked', async () => {
    await run.start();
    await run.inTraffic();
    const standby = await run.inStandby();
    expect(standby.lagSeconds).toBeLessThan(60);
  });
}

describe('clocks that differ by an hour', () => {
  if (NO_OTHER_CLOCK !== undefined) {
    process.stdout.write(`clocks: ${NO_OTHER_CLOCK}\n`);
    recordOutcome({ fault: 'clocks differ by an hour', point: 'a whole run', outcome: NO_OTHER_CLOCK, seconds: 0 });
  }

  it.skipIf(NO_OTHER_CLOCK !== undefined).each(['blue', 'green'] as const)(
    '%s is an hour ahead',
    { timeout: 1_200_000 },
    async (side) => {
      const server = await startOddServer({ version: side === 'blue' ? 15 : 18, name: 'other-clock', clock: '+3600' });
      open.push(() => server.stop());
      await thereAndBack(`${side} an hour ahead`, { [side]: server });
    },
  );

  it.skipIf(NO_OTHER_CLOCK !== undefined).each(['+3600', '-3600'])(
    'the worker is off by %s s',
    { timeout: 1_200_000 },
    async (by) => {
      const near = (minutes: number): string => new Date(Date.now() + minutes * 60_000).toISOString().slice(11, 16);
      // Open now, and not an hour before or after.
      const now = `Mon-Sun ${near(-20)}-${near(20)}`;
      const windows = { timezone: 'UTC', migrate: [now], traffic: [now], promote: [now] };
      await thereAndBack(`the worker's clock ${by} s`, { environment: shiftedClock(by), plan: { windows } });
    },
  );
});

describe('a disk that is full for a while', async () => {
  const why = await whyNoDisk();
  if (why !== undefined) {
    process.stdout.write(`full disk: ${why}\n`);
    recordOutcome({ fault: 'a disk is full', point: 'a whole run', outcome: why, seconds: 0 });
  }

  it.skipIf(why !== undefined)(
    "green's, in the copy: what is copied stays, and the rest is copied from the same snapshot when there is room again",
    { timeout: 300_000 },
    async () => {
      const server = await smallDisk(18);
      const ddl = 'CREATE TABLE big (id int, body text NOT NULL);';
      const rows = `INSERT INTO big SELECT n, repeat(md5(n::text), 58) FROM generate_series(1, 22000) n;
        ALTER TABLE big ADD PRIMARY KEY (id)`;
      const green = { port: server.port, password: server.password };
      const bootstrap = { method: 'copy', maxRate: '10MB' } as const;
      const pair = await CopyPair.start(['pg15', green], 'copy_no_room', ddl, rows, [], { bootstrap });
      open.push(() => pair.stop());
      const began = performance.now();
      const parcels = await pair.planCopy();
      const holder = pair.hold();
      await pair.phase('ready');
      const [first, ...others] = parcels;
      expect((await pair.copyParcel(first?.id ?? -1)).outcome).toBe('copied');
      const outcomes = await whileFull(server, () => Promise.allSettled(others.map(({ id }) => pair.copyParcel(id))));
      expect(outcomes.map(({ status }) => status)).toEqual(others.map(() => 'rejected'));
      await pair.reachGreenAgain();
      expect((await pair.copyAll(parcels)).map(({ outcome }) => outcome)).toEqual(parcels.map(() => 'copied'));
      expect(await pair.finish()).toEqual({ tables: 1, left: [] });
      expect(await holder.ended).toBe('released');
      expect(await pair.differences()).toEqual([]);
      const seconds = (performance.now() - began) / 1_000;
      recordOutcome({
        fault: "green's disk is full",
        point: 'the copy',
        outcome: 'copied from the same snapshot',
        seconds,
      });
    },
  );

  it.skipIf(why !== undefined)(
    "green's, before the promotion: nothing moves until there is room again, and no write is lost",
    { timeout: 1_200_000 },
    async () => {
      const server = await smallDisk(18);
      const run = await FaultRun.create({
        purpose: 'full disk',
        green: server,
        plan: {
          traffic: {
            stages: [{ percent: 100, for: '1s' }],
            gates: [{ metric: 'lag', max: '10s' }],
            approval: { before: ['promote'] },
          },
        },
      });
      open.push(() => run.close());
      await toldOf(
        run,
        "green's disk is full",
        'promotion',
        'held, then promoted, then rolled back as asked',
        async () => {
          await run.start();
          await run.watch('at the approval', (status) => status.waiting?.gate === 'promote');
          const during = await whileFull(server, async () => {
            await run.approve('promote');
            await sleep(FULL_MS);
            return run.look();
          });
          expect(during?.writesOn ?? 'blue').toBe('blue');
          await run.inStandby();
        },
      );
    },
  );

  it.skipIf(why !== undefined).each([
    // Nothing of blue's decision can be written; nothing arrives on green, and its sequences and slots can't be made.
    ['blue', 'the deciding COMMIT', /setval\(.*; COMMIT$/, 'before'],
    ['green', 'after the lock', LOCKS_WRITERS_OUT, 'after'],
  ] as const)(
    "%s's, in the hold, at %s: writes move when there is room again, and none is lost",
    { timeout: 1_200_000 },
    async (side, point, text, when) => {
      const server = await smallDisk(side === 'blue' ? 15 : 18);
      const run = await FaultRun.create({ purpose: 'full disk', [side]: server });
      open.push(() => run.close());
      const inHold = run.stopWhere('blue', (one) => text.test(one.text), when);
      const outcome = 'promoted when there was room, then rolled back as asked';
      // A blue that is full refuses its writers: what it refuses may not be there.
      const backAgain = side === 'blue' ? backAgainWhateverFailed : backAgainWithoutFailure;
      await toldOf(
        run,
        `${side}'s disk is full`,
        `hold: ${point}`,
        outcome,
        async () => {
          await run.start();
          await run.inTraffic();
          const held = await inHold;
          await whileFull(server, async () => {
            held.release();
            await sleep(FULL_MS);
          });
          await run.inStandby();
        },
        backAgain,
      );
    },
  );

  it.skipIf(why !== undefined)(
    "blue's, in the standby window: the application does not notice, and blue follows again when there is room",
    { timeout: 1_200_000 },
    async () => {
      const server = await smallDisk(15);
      const run = await FaultRun.create({ purpose: 'full disk', blue: server });
      open.push(() => run.close());
      await toldOf(run, "blue's disk is full", 'standby', 'green served, then rolled back as asked', async () => {
        await run.start();
        await run.inTraffic();
        await run.inStandby();
        const before = run.writers?.acknowledged ?? 0;
        const status = await whileFull(server, async () => {
          await sleep(FULL_MS);
          return run.look();
        });
        expect(status).toMatchObject({ phase: 'standby', writesOn: 'green', outcome: 'running' });
        expect(run.writers?.acknowledged).toBeGreaterThan(before + 100);
        await run.inStandby();
      });
    },
  );
});

const FULL_MS = 8_000;

async function smallDisk(version: 15 | 18): Promise<EmbeddedPostgres> {
  const server = await startOddServer({ version, name: 'small-disk', diskMb: 300 });
  open.push(() => server.stop());
  return server;
}

/** Not a byte is left on the server's disk meanwhile; then there is room again, and the server runs. */
async function whileFull<T>(server: EmbeddedPostgres, work: () => Promise<T>): Promise<T> {
  const balloon = join(server.dataDirectory, 'balloon');
  const fill = (): void => {
    const { bavail, bsize } = statfsSync(server.dataDirectory);
    try {
      if (bavail > 0) writeFileSync(balloon, Buffer.alloc(bavail * bsize), { flag: 'a' });
    } catch {
      // Full to the last byte.
    }
  };
  fill();
  const filling = setInterval(fill, 200);
  try {
    return await work();
  } finally {
    clearInterval(filling);
    rmSync(balloon, { force: true });
    // A server that can't write its WAL ends itself.
    await server.restart();
  }
}

/** From the standby window that `work` ends in, the run is taken back. */
async function toldOf(
  run: FaultRun,
  fault: string,
  point: string,
  outcome: string,
  work: () => Promise<void>,
  backAgain = backAgainWithoutFailure,
): Promise<void> {
  const started = performance.now();
  await work();
  await backAgain(run);
  const seconds = (performance.now() - started) / 1_000;
  recordOutcome({ fault, point, outcome, seconds });
  process.stdout.write(`${fault}: ${outcome}, ${seconds.toFixed(0)} s ${run.notes.join(', ')}\n`);
}

/** Rows agree on both sides, the rollback is asked for and done, and no write has failed on the way. */
async function backAgainWithoutFailure(run: FaultRun): Promise<void> {
  await backAgainWhateverFailed(run);
  expect([...(run.writers?.failures ?? []), ...(run.writers?.unknown ?? [])]).toEqual([]);
}

/** The same, where writes may have failed: nothing of them may be there. */
async function backAgainWhateverFailed(run: FaultRun): Promise<void> {
  expect(await run.audit('green', 'follows')).toEqual([]);
  await run.rollBack();
  expect((await run.ended()).outcome).toBe('rolledBack');
  expect(await run.audit('blue', 'is not followed')).toEqual([]);
}
