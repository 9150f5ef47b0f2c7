import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { startPostgres, type EmbeddedPostgres } from '../../src/embedded/postgres-server.js';
import type { Side } from '../../src/side.js';
import { pauseUpdate, resumeUpdate } from '../../workflows/messages.js';
import { FaultRun } from '../support/fault-run.js';
import { HOLD_POINTS, holdPoint } from '../support/hold-points.js';
import { leftovers } from '../support/migration.js';
import { withClient } from '../support/postgres.js';
import { letCommitWait, untilCommitWaits } from '../support/waiting-commit.js';
import type { WorkerProcess } from '../support/worker-process.js';

/*
 * The worker is frozen in its hold, and then the side that gives writes away is killed: neither the server's limits nor the
 * worker ends the hold. Another worker goes on by what is on that side's disk, and the first one wakes up when that is done.
 */

const SETTINGS = { fsync: 'off', full_page_writes: 'off' };
const WHO = { by: 'the test', reason: 'the test says so' };

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
}, 120_000);

async function onOwnServers(
  plan: object = {},
): Promise<{ run: FaultRun; servers: Readonly<Record<Side, EmbeddedPostgres>> }> {
  const [blue, green] = await Promise.all([
    startPostgres({ version: 15, settings: SETTINGS, name: 'killed-blue' }),
    startPostgres({ version: 18, settings: SETTINGS, name: 'killed-green' }),
  ]);
  open.push(() => Promise.all([blue.stop(), green.stop()]));
  const run = await FaultRun.create({ purpose: 'frozen and killed', blue, green, plan });
  open.push(() => run.close());
  return { run, servers: { blue, green } };
}

/** The worker freezes, the server dies and comes back, and another worker serves the run. @returns the frozen one */
async function freezeAndKill(run: FaultRun, server: EmbeddedPostgres): Promise<WorkerProcess> {
  const frozen = run.worker;
  frozen.freeze();
  open.push(() => frozen.kill());
  server.kill('SIGKILL', 'all');
  await server.restart();
  await run.replaceWorker();
  return frozen;
}

/** It goes on with what it was about to do. */
async function wake(frozen: WorkerProcess): Promise<void> {
  frozen.thaw();
  await sleep(1_500);
  await frozen.kill();
}

describe('a side that is killed while its worker is frozen in the hold', () => {
  it.each(HOLD_POINTS)(
    'when %s, there and back: another worker goes on, no write is lost or doubled, never are both sides open',
    { timeout: 1_200_000 },
    async (point) => {
      const { run, servers } = await onOwnServers();
      const own = await leftovers(run.own.blue);
      const there = run.stopWhere('blue', ...holdPoint(point));
      await run.start();
      await run.prepareWorker();
      await run.inTraffic();
      const heldThere = await there;
      const first = await freezeAndKill(run, servers.blue);
      await run.inStandby();
      heldThere.release();
      await wake(first);
      expect(await run.audit('green', 'follows')).toEqual([]);

      const back = run.stopWhere('green', ...holdPoint(point));
      await run.prepareWorker();
      await run.rollBack();
      const ending = run.ended();
      ending.catch(() => undefined);
      const heldBack = await back;
      const second = await freezeAndKill(run, servers.green);
      const { outcome, report } = await ending;
      heldBack.release();
      await wake(second);
      expect(outcome).toBe('rolledBack');
      expect(report?.rollingBack).toMatchObject({ notUndone: [] });
      expect(await run.audit('blue', 'is not followed')).toEqual([]);
      expect(await run.refusesWrites('green')).toBe(true);
      expect(await leftovers(run.own.blue)).toEqual(own);
    },
  );

  it(
    'when its COMMIT has set the flag and nothing else: blue takes writes while the run is paused, and a resume promotes',
    { timeout: 1_200_000 },
    async () => {
      const { run, servers } = await onOwnServers({
        // The COMMIT must not be ended before the server is.
        promote: { maxHold: '20s' },
        traffic: {
          stages: [{ percent: 100, for: '1s' }],
          gates: [{ metric: 'lag', max: '10s' }],
          approval: { before: ['promote'] },
        },
      });
      await run.start();
      await run.inTraffic();
      await run.watch('at the approval', (status) => status.waiting?.gate === 'promote');
      await run.prepareWorker();
      const frozen = await withClient(run.own.blue.config, async (session) => {
        await letCommitWait(session);
        await run.approve('promote');
        await untilCommitWaits(session);
        await run.handle.executeUpdate(pauseUpdate, { args: [WHO] });
        return freezeAndKill(run, servers.blue);
      });
      // By what is on the disk: closed, and not given away.
      expect(await run.refusesWrites('blue')).toBe(true);
      await run.watch('paused', ({ paused, waiting }) => paused && waiting?.why === 'paused by message');
      expect(await run.refusesWrites('blue')).toBe(false);
      await wake(frozen);
      expect(await run.audit('blue', 'is not followed')).toEqual([]);

      await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
      await run.inStandby();
      expect(await run.audit('green', 'follows')).toEqual([]);
    },
  );
});
