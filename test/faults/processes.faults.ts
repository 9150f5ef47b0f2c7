import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { ApplicationProcesses } from '../support/application-process.js';
import { FaultRun, type Audited } from '../support/fault-run.js';
import { COPYING, holdPoint, HOLD_POINTS } from '../support/hold-points.js';
import { recordOutcome } from '../support/outcome-table.js';
import { TemporalProcess } from '../support/temporal-process.js';

/*
 * A process is killed with SIGKILL and started again, or frozen with SIGSTOP for a while, in every part of one run: while
 * the rows are copied, while traffic moves, exactly in the hold of the promotion, in the standby window, and exactly in
 * the hold of the way back.
 */

const SETTINGS = { fsync: 'off', full_page_writes: 'off' };
const FROZEN_MS = 4_000;

type Strike = () => Promise<void>;

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
}, 300_000);

async function throughTheRun(run: FaultRun, strike: Strike, nth: number, audited?: Audited): Promise<string[]> {
  const began = performance.now();
  const times: string[] = [];
  const struck = async (part: string): Promise<void> => {
    times.push(`${part} ${((performance.now() - began) / 1_000).toFixed(1)} s`);
    await strike();
  };
  const copying = run.stopWhere('blue', ...COPYING);
  await run.start();
  const copy = await copying;
  const inTheCopy = struck('copy');
  copy.release();
  await inTheCopy;
  const inHold = run.stopWhere('blue', ...holdPoint(HOLD_POINTS[nth % HOLD_POINTS.length]));
  await run.inTraffic();
  await struck('traffic');
  const held = await Promise.race([inHold, run.inStandby()]);
  if (!('release' in held)) throw new Error('the promotion did not come by its hold');
  const inTheHold = struck('hold');
  held.release();
  await inTheHold;
  await run.inStandby();
  await struck('standby');
  await run.inStandby();
  expect(await run.audit('green', 'follows', audited)).toEqual([]);

  const onTheWayBack = run.stopWhere('green', ...holdPoint(HOLD_POINTS[(nth + 1) % HOLD_POINTS.length]));
  await run.rollBack();
  const ending = run.ended();
  const heldAgain = await Promise.race([onTheWayBack, ending]);
  if (!('release' in heldAgain)) throw new Error(`the way back did not come by its hold: ${heldAgain.outcome}`);
  const onTheWay = struck('way back');
  heldAgain.release();
  await onTheWay;
  expect((await ending).outcome).toBe('rolledBack');
  expect(await run.audit('blue', 'is not followed', audited)).toEqual([]);
  expect(await run.refusesWrites('green')).toBe(true);
  expect(run.looks).toBeGreaterThan(20);
  return [...times, `end ${((performance.now() - began) / 1_000).toFixed(1)} s`, ...run.notes];
}

async function told(what: string, work: () => Promise<{ times: string[]; outcome: string }>): Promise<void> {
  const started = performance.now();
  let result = { times: [] as string[], outcome: 'wrong' };
  try {
    result = await work();
  } finally {
    const seconds = (performance.now() - started) / 1_000;
    recordOutcome({ fault: what, point: 'every part of a run', outcome: result.outcome, seconds });
    process.stdout.write(`${what}: ${result.outcome}, ${seconds.toFixed(0)} s; ${result.times.join(', ')}\n`);
  }
}

describe('a server that is struck in every part of a run', () => {
  it.each([
    ['blue', 'killed', 0],
    ['green', 'killed', 1],
    ['blue', 'frozen', 2],
    ['green', 'frozen', 0],
  ] as const)(
    '%s %s: no write is lost or doubled, never are both sides open',
    { timeout: 1_200_000 },
    async (side, how, nth) => {
      const servers = {
        blue: await startPostgres({ version: 15, settings: SETTINGS, name: 'struck-blue' }),
        green: await startPostgres({ version: 18, settings: SETTINGS, name: 'struck-green' }),
      };
      open.push(() => Promise.all([servers.blue.stop(), servers.green.stop()]));
      const run = await FaultRun.create({ purpose: 'struck', ...servers, plan: { promote: { maxHold: '1s' } } });
      open.push(() => run.close());
      await told(`${side} ${how}`, async () => {
        const times = await throughTheRun(run, strikeServer(servers[side], how), nth);
        const { failures = [], unknown = [], acknowledged = 0 } = run.writers ?? {};
        expect(acknowledged).toBeGreaterThan(50);
        const outcome = `rolled back; of ${acknowledged} writes ${failures.length} refused, ${unknown.length} in doubt`;
        return { times: [...times, ...new Set(failures)], outcome };
      });
    },
  );
});

function strikeServer(server: EmbeddedPostgres, how: 'killed' | 'frozen'): Strike {
  return async () => {
    if (how === 'killed') {
      server.kill('SIGKILL');
      await sleep(1_000);
      await server.restart();
    } else {
      server.kill('SIGSTOP', 'all');
      await sleep(FROZEN_MS);
      server.kill('SIGCONT', 'all');
    }
  };
}

describe('the Temporal server that is struck in every part of a run', () => {
  it.each([
    ['killed', 0],
    ['frozen', 1],
  ] as const)('%s: the application does not notice', { timeout: 1_200_000 }, async (how, nth) => {
    const temporal = await TemporalProcess.start();
    open.push(() => temporal.stop());
    const run = await FaultRun.create({ purpose: 'temporal', temporalAddress: temporal.address });
    open.push(() => run.close());
    await told(`Temporal ${how}`, async () => {
      const strike: Strike = async () => {
        if (how === 'killed') {
          await temporal.kill();
          await sleep(2_000);
          await temporal.restart();
        } else {
          temporal.freeze();
          await sleep(FROZEN_MS);
          temporal.thaw();
        }
      };
      const times = await throughTheRun(run, strike, nth);
      expect([...(run.writers?.failures ?? []), ...(run.writers?.unknown ?? [])]).toEqual([]);
      return { times, outcome: 'rolled back; the application has not noticed' };
    });
  });
});

describe('an application process that is struck in every part of a run', () => {
  it.each([
    ['killed', 1],
    ['frozen', 2],
  ] as const)('%s: what it was told is so', { timeout: 1_200_000 }, async (how, nth) => {
    const run = await FaultRun.create({ purpose: 'application', writers: 0 });
    open.push(() => run.close());
    const application = new ApplicationProcesses(run.routed, run.plan.name);
    open.push(() => application.close());
    await application.start();
    await told(`application ${how}`, async () => {
      const strike: Strike = async () => {
        if (how === 'killed') {
          await application.pause();
          await application.start();
        } else {
          application.freeze();
          await sleep(FROZEN_MS);
          application.thaw();
        }
      };
      // An audit ends the process that wrote so far; another one goes on.
      const audited: Audited = {
        pause: () => application.pause(),
        audit: (session) => application.audit(session),
        resume: () => void application.start().catch(() => undefined),
      };
      return { times: await throughTheRun(run, strike, nth, audited), outcome: 'rolled back' };
    });
  });
});
