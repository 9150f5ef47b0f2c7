import pg from 'pg';
import { afterEach, describe, expect, it } from 'vitest';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import { rollbackUpdate } from '../../workflows/messages.js';
import { FaultRun } from '../support/fault-run.js';
import { leftovers } from '../support/migration.js';
import type { Point, When } from '../support/statement-proxy.js';
import { letCommitWait, untilCommitWaits } from '../support/waiting-commit.js';

/*
 * Green is killed as it opens, with the first writes on it, and a rollback is asked for in the same moment. What was decided is
 * finished first: green opens again, and blue gets these writes before it takes its own back.
 */

const SETTINGS = { fsync: 'off', full_page_writes: 'off' };

type Opening = 'while its opening commits' | 'before its opening is answered' | 'after its opening was answered';

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
}, 120_000);

const POINTS: Readonly<Record<Exclude<Opening, 'while its opening commits'>, [(point: Point) => boolean, When]>> = {
  'before its opening is answered': [({ text }) => text.includes('verdigris.open_fence'), 'after'],
  // What the worker writes down next.
  'after its opening was answered': [({ session }) => session === 'verdigris event', 'before'],
};

/** Resolves at that point of the promotion, which has not been approved yet. */
async function comesTo(run: FaultRun, opening: Opening): Promise<void> {
  if (opening === 'while its opening commits') {
    const session = new pg.Client(run.own.green.config);
    session.on('error', () => undefined);
    open.push(() => session.end());
    await session.connect();
    await letCommitWait(session);
    await run.approve('promote');
    return untilCommitWaits(session);
  }
  const held = run.stopWhere('green', ...POINTS[opening]);
  await run.approve('promote');
  await held;
}

/** Until applications have been told that writes of theirs are on green: blue is closed. */
async function untilWritten({ writers }: FaultRun): Promise<void> {
  const before = writers?.acknowledged ?? 0;
  await expect.poll(() => writers?.acknowledged, { interval: 5 }).toBeGreaterThan(before + 10);
}

describe('green that is killed, and a rollback that is asked for', () => {
  it.each<Opening>(['while its opening commits', 'before its opening is answered', 'after its opening was answered'])(
    '%s: green opens again, and blue gets what was written there',
    { timeout: 1_200_000 },
    async (opening) => {
      const green: EmbeddedPostgres = await startPostgres({ version: 18, settings: SETTINGS, name: 'opened-green' });
      open.push(() => green.stop());
      const run = await FaultRun.create({
        purpose: 'opened green',
        green,
        plan: {
          traffic: {
            stages: [{ percent: 100, for: '1s' }],
            gates: [{ metric: 'lag', max: '10s' }],
            approval: { before: ['promote'] },
          },
        },
      });
      open.push(() => run.close());
      const own = await leftovers(run.own.blue);
      await run.start();
      await run.inTraffic();
      await run.watch('at the approval', (status) => status.waiting?.gate === 'promote');
      await comesTo(run, opening);
      await untilWritten(run);
      green.kill('SIGKILL', 'all');
      await run.handle.executeUpdate(rollbackUpdate, { args: [{ by: 'the test', reason: 'green is lost' }] });
      await run.watch('told', ({ writesOn, rollback, waiting }) => {
        const isTold = waiting?.for === 'retry' && waiting.answer?.includes(' --open --yes') === true;
        return isTold && writesOn === 'green' && !rollback.safe;
      });
      await green.restart();

      const { outcome, report } = await run.ended();
      expect(outcome).toBe('rolledBack');
      expect(report?.rollingBack).toMatchObject({ notUndone: [] });
      expect(report?.rollingBack?.lost).toBeUndefined();
      expect(await run.audit('blue', 'is not followed')).toEqual([]);
      expect(await run.refusesWrites('green')).toBe(true);
      expect(await leftovers(run.own.blue)).toEqual(own);
      expect((await leftovers(run.own.green)).filter((what) => /^(slot|subscription|publication) /.test(what))).toEqual(
        [],
      );
    },
  );
});
