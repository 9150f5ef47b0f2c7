import { rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { FaultRun, type FaultRunOptions } from '../support/fault-run.js';
import { NO_OTHER_CLOCK, shiftedClock, startOddServer, whyNoDisk } from '../support/odd-server.js';
import { recordOutcome } from '../support/outcome-table.js';

/* Whole runs, there and back, where a clock differs by an hour, or where a disk is full for a while. */

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
}, 300_000);

async function thereAndBack(what: string, options: Omit<FaultRunOptions, 'purpose'>): Promise<void> {
  const started = performance.now();
  const run = await FaultRun.create({ purpose: 'odd', ...options });
  open.push(() => run.close());
  await run.start();
  await run.inTraffic();
  const standby = await run.inStandby();
  expect(standby.lagSeconds).toBeLessThan(60);
  expect(await run.audit('green', 'follows')).toEqual([]);
  await run.rollBack();
  expect((await run.ended()).outcome).toBe('rolledBack');
  expect(await run.audit('blue', 'is not followed')).toEqual([]);
  expect([...(run.writers?.failures ?? []), ...(run.writers?.unknown ?? [])]).toEqual([]);
  const seconds = (performance.now() - started) / 1_000;
  recordOutcome({ fault: what, point: 'a whole run', outcome: 'rolled back as asked', seconds });
  process.stdout.write(`${what}: rolled back as asked, ${seconds.toFixed(0)} s ${run.notes.join(', ')}\n`);
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
      await thereAndBack(`the worker's clock ${by} s`, { environment: shiftedClock(by) });
    },
  );
});

describe("green's disk is full for a while", async () => {
  const why = await whyNoDisk();
  if (why !== undefined) {
    process.stdout.write(`full disk: ${why}\n`);
    recordOutcome({ fault: "green's disk is full", point: 'a whole run', outcome: why, seconds: 0 });
  }

  it.skipIf(why !== undefined)(
    'before the promotion: nothing moves until there is room again, and no write is lost',
    { timeout: 1_200_000 },
    async () => {
      const started = performance.now();
      const server = await startOddServer({ version: 18, name: 'small-disk', diskMb: 300 });
      open.push(() => server.stop());
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
      await run.start();
      await run.watch('at the approval', (status) => status.waiting?.gate === 'promote');
      const balloon = join(server.dataDirectory, 'balloon');
      const fill = (): void => {
        const { bavail, bsize } = statfsSync(server.dataDirectory);
        if (bavail > 0) writeFileSync(balloon, Buffer.alloc(bavail * bsize), { flag: 'a' });
      };
      open.push(async () => rmSync(balloon, { force: true }));
      fill();
      const filling = setInterval(() => {
        try {
          fill();
        } catch {
          // Full to the last byte.
        }
      }, 200);
      await run.approve('promote');
      await sleep(8_000);
      const during = await run.look();
      clearInterval(filling);
      rmSync(balloon);
      // A server that can't write its WAL ends itself.
      await server.restart();
      expect(during?.writesOn ?? 'blue').toBe('blue');

      await run.inStandby();
      expect(await run.audit('green', 'follows')).toEqual([]);
      await run.rollBack();
      expect((await run.ended()).outcome).toBe('rolledBack');
      expect(await run.audit('blue', 'is not followed')).toEqual([]);
      expect([...(run.writers?.failures ?? []), ...(run.writers?.unknown ?? [])]).toEqual([]);
      const seconds = (performance.now() - started) / 1_000;
      const outcome = 'held, then promoted, then rolled back as asked';
      recordOutcome({ fault: "green's disk is full", point: 'promotion', outcome, seconds });
      process.stdout.write(`full disk: ${outcome}, ${seconds.toFixed(0)} s ${run.notes.join(', ')}\n`);
    },
  );
});
