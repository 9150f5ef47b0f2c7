import { describe, expect, it } from 'vitest';
import type { PlanInput } from '../../src/plan/schema.js';
import { retireUpdate } from '../../workflows/messages.js';
import { FaultRun, type Ending } from '../support/fault-run.js';
import { leftovers } from '../support/migration.js';
import { RETIREMENT_POINTS, UNDOING_POINTS, type StepPoint } from '../support/move-points.js';
import { recordOutcome } from '../support/outcome-table.js';
import { killInTurn } from '../support/worker-steps.js';

/*
 * The worker is killed while it takes down what a run has made: in the retirement, and in a rollback before the promotion. Each
 * of the points in turn in one run: whoever goes on comes by the next one.
 */

const WHO = { by: 'the test', reason: 'the test says so' };

const MIGRATIONS: PlanInput['migrations'] = [
  { addColumn: { table: 'entries', column: 'version', type: 'integer', default: '1' } },
  { addColumn: { table: 'notes', column: 'label', type: 'text', up: "'note ' || reference", notNull: true } },
  { createIndex: { table: 'entries', name: 'entries_account', columns: ['account'] } },
];

/** The promotion waits for somebody, so that a rollback can come before it. */
const PLAN: Partial<PlanInput> = {
  traffic: {
    stages: [{ percent: 100, for: '1s' }],
    gates: [{ metric: 'lag', max: '10s' }],
    approval: { before: ['promote'] },
  },
};

const OF_OURS = /verdigris|publication|slot|subscription/;

async function told(fault: string, points: readonly StepPoint[], strikes: () => Promise<Ending>): Promise<Ending> {
  const began = performance.now();
  let outcome = 'wrong';
  try {
    const ending = await strikes();
    outcome = ending.outcome;
    return ending;
  } finally {
    const seconds = (performance.now() - began) / 1_000;
    for (const { name } of points) recordOutcome({ fault, point: name, outcome, seconds });
  }
}

describe('kill the worker', () => {
  it(
    'at each step of the retirement: it is finished, green takes writes without a fence, and blue stays closed',
    { timeout: 1_200_000 },
    async () => {
      const run = await FaultRun.create({ purpose: 'retirement', plan: PLAN });
      try {
        await run.start();
        await run.inTraffic();
        await run.inStandby();
        const { outcome, report } = await told('worker kill, retirement', RETIREMENT_POINTS, () =>
          killInTurn(run, RETIREMENT_POINTS, 'blue', () => run.handle.executeUpdate(retireUpdate, { args: [WHO] })),
        );
        expect(outcome).toBe('completed');
        expect(report?.now).toBe('completed: green is the primary, blue is left fenced and intact');
        expect(await run.audit('green', 'is not followed')).toEqual([]);
        expect([...(run.writers?.failures ?? []), ...(run.writers?.unknown ?? [])]).toEqual([]);
        expect((await leftovers(run.own.green)).filter((what) => OF_OURS.test(what))).toEqual(['schema verdigris']);
        const onBlue = (await leftovers(run.own.blue)).filter((what) => OF_OURS.test(what));
        expect(onBlue.filter((what) => !/^trigger _verdigris_(fence|truncate)/.test(what))).toEqual([
          'schema verdigris',
        ]);
        expect(await run.refusesWrites('blue')).toBe(true);
      } finally {
        await run.close();
      }
    },
  );

  it.each(Object.entries(UNDOING_POINTS))(
    'at each step that undoes %s before the promotion: nothing is left on either side, and blue has every write',
    { timeout: 1_200_000 },
    async (what, points) => {
      const run = await FaultRun.create({ purpose: 'undoing', plan: { ...PLAN, migrations: MIGRATIONS } });
      const own = await leftovers(run.own.blue);
      try {
        await run.start();
        await run.watch('at the approval', (status) => status.waiting?.gate === 'promote');
        const { outcome, report } = await told(`worker kill, undoing ${what}`, points, () =>
          killInTurn(run, points, 'blue', () => run.rollBack()),
        );
        expect(outcome).toBe('rolledBack');
        expect(report?.rollingBack?.notUndone ?? []).toEqual([]);
        expect(await run.audit('blue', 'is not followed')).toEqual([]);
        expect([...(run.writers?.failures ?? []), ...(run.writers?.unknown ?? [])]).toEqual([]);
        expect(await leftovers(run.own.blue)).toEqual(own);
        expect(await leftovers(run.own.green)).toEqual([]);
      } finally {
        await run.close();
      }
    },
  );
});
