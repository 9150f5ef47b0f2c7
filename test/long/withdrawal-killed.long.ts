import { afterEach, describe, expect, it } from 'vitest';
import { findPgBouncer } from '../../src/embedded/pgbouncer.js';
import { feedName } from '../../src/postgres/feed.js';
import { findSlots } from '../../src/postgres/feed-objects.js';
import { withSession } from '../../src/postgres/session.js';
import { readRoute } from '../../src/postgres/state.js';
import { pauseUpdate, resumeUpdate, rollbackUpdate } from '../../workflows/messages.js';
import { FaultRun } from '../support/fault-run.js';
import { leftovers } from '../support/migration.js';
import { SLOT_DROPPED, WITHDRAWAL_POINTS } from '../support/move-points.js';
import { RunPooler } from '../support/run-pooler.js';
import { killInTurnUntil } from '../support/worker-steps.js';

/*
 * A worker dies in its hold, with clients of a pooler waiting, when a pause or a rollback has ended its promotion. Who ends its
 * tries then is killed, too, after each statement of that: whoever comes next must do the rest.
 */

const isThere = findPgBouncer() !== undefined;
if (!isThere) process.stdout.write('SKIPPED workers that are killed as they end tries: pgbouncer is not installed\n');

const WHO = { by: 'the test', reason: 'the test says so' };
/** Longer than a worker needs to hear of a message while it waits in its hold. */
const HOLD = { maxHold: '20s' };

const open: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
}, 120_000);

interface Died {
  readonly run: FaultRun;
  readonly pooler: RunPooler;
  /** What blue has had before the run. */
  readonly own: readonly string[];
}

/** A run whose worker is dead: it was killed before its COMMIT, as the run was asked to do something else. */
async function diedInItsHold(asks: (run: FaultRun) => Promise<unknown>): Promise<Died> {
  const pooler = await RunPooler.start();
  open.push(() => pooler.close());
  const run = await FaultRun.create({
    purpose: 'withdrawn',
    plan: {
      traffic: {
        stages: [{ percent: 100, for: '1s' }],
        gates: [{ metric: 'lag', max: '10s' }],
        approval: { before: ['promote'] },
        pgbouncer: pooler.planned,
      },
      promote: HOLD,
    },
    environment: pooler.environment,
  });
  open.push(() => run.close());
  await pooler.leadTo(run);
  const own = await leftovers(run.own.blue);
  await run.start();
  await run.watch('at the approval', (status) => status.waiting?.gate === 'promote');
  await run.prepareWorker();
  const beforeCommit = run.stopWhere(
    'blue',
    ({ session, text }) => session === 'verdigris promotion' && text.endsWith('; COMMIT'),
    'before',
  );
  await run.approve('promote');
  await beforeCommit;
  expect(await pooler.look(run)).toMatchObject({ paused: ['orders'], mark: { state: 'moving' } });
  expect(await slotsOfTheWayBack(run)).toHaveLength(1);
  await asks(run);
  await run.worker.kill();
  return { run, pooler, own };
}

function slotsOfTheWayBack({ databases, plan }: FaultRun): Promise<string[]> {
  return withSession(databases.green, { purpose: 'test' }, (green) => findSlots(green, feedName(plan.name, 'to_blue')));
}

/** The writers have waited, and none has met a refusal. */
function expectServed({ writers }: FaultRun): void {
  expect([...(writers?.failures ?? []), ...(writers?.unknown ?? [])]).toEqual([]);
}

describe.skipIf(!isThere)('workers that are killed as they end the tries of a dead one', () => {
  it(
    'in a pause: clients of poolers go on while the run is paused, nothing of the try is left, and a resume promotes',
    { timeout: 1_200_000 },
    async () => {
      const { run, pooler } = await diedInItsHold(async (asked) => {
        // From here on it is watched that never both sides are open.
        await asked.inTraffic();
        await asked.handle.executeUpdate(pauseUpdate, { args: [WHO] });
      });
      await killInTurnUntil(
        run,
        [...WITHDRAWAL_POINTS, SLOT_DROPPED],
        'blue',
        () => run.replaceWorker(),
        () => run.watch('paused', ({ paused, waiting }) => paused && waiting?.why === 'paused by message'),
      );
      expect(await pooler.write(30_000)).toBe('blue');
      expect(await pooler.look(run)).toMatchObject({ paused: [], leadsTo: 'blue', mark: { state: 'settled' } });
      expect(await slotsOfTheWayBack(run)).toEqual([]);
      await withSession(run.databases.blue, { purpose: 'test' }, async (blue) => {
        expect(await readRoute(blue, run.plan.name)).toMatchObject({ writesOn: 'blue', opening: null });
      });
      expect(await run.refusesWrites('blue')).toBe(false);

      await run.handle.executeUpdate(resumeUpdate, { args: [WHO] });
      await run.inStandby();
      expect(await run.audit('green', 'follows')).toEqual([]);
      expect(await pooler.write(30_000)).toBe('green');
      expectServed(run);
    },
  );

  it(
    'in a rollback: it ends, clients of poolers go on, and nothing is left on either side',
    { timeout: 1_200_000 },
    async () => {
      const { run, pooler, own } = await diedInItsHold(({ handle }) =>
        handle.executeUpdate(rollbackUpdate, { args: [WHO] }),
      );
      const { outcome, report } = await killInTurnUntil(
        run,
        WITHDRAWAL_POINTS,
        'blue',
        () => run.replaceWorker(),
        () => run.ended(),
      );
      expect(outcome).toBe('rolledBack');
      expect(report?.rollingBack?.notUndone).toEqual([]);
      expect(await run.audit('blue', 'is not followed')).toEqual([]);
      expect(await pooler.write(30_000)).toBe('blue');
      expect(await pooler.look(run)).toMatchObject({ paused: [], leadsTo: 'blue', mark: { state: 'settled' } });
      expectServed(run);
      expect(await leftovers(run.own.blue)).toEqual(own);
      expect(await leftovers(run.own.green)).toEqual([]);
    },
  );
});
