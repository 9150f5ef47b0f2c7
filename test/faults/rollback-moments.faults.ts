import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { isTaken } from '../support/fault-points.js';
import { FaultRun } from '../support/fault-run.js';
import { leftovers } from '../support/migration.js';
import { recordOutcome } from '../support/outcome-table.js';

/*
 * A rollback is asked for in each second of a run, from its first to some in the standby window, however long the run
 * takes on this machine. VERDIGRIS_FAULT_POINTS=n takes every n-th second (default: 3).
 */

const SECONDS_OF_STANDBY = 2;
/** A machine on which a run takes longer than this is too slow for seconds to mean anything. */
const LONGEST = 60;

const MIGRATIONS = [
  { addColumn: { table: 'entries', column: 'version', type: 'integer', default: '1' } },
  {
    addColumn: { table: 'notes', column: 'label', type: 'text', up: "'note ' || reference", notNull: true },
  },
  { createIndex: { table: 'entries', name: 'entries_account', columns: ['account'] } },
];

const SECONDS = Array.from({ length: LONGEST }, (_, n) => n).filter((n) => isTaken(n, 3));
/** With fewer of them whole phases are passed by. */
const FEW = 20;

const seen = new Set<string>();

describe('a rollback that is asked for', () => {
  let inStandby = 0;

  it.for(SECONDS)(
    'in second %i of a run: blue has every write, and nothing of ours is left on it',
    { timeout: 1_200_000 },
    async (second, { skip }) => {
      if (inStandby > SECONDS_OF_STANDBY) skip('the run is over by then');
      const started = performance.now();
      const run = await FaultRun.create({ purpose: 'moment', plan: { migrations: MIGRATIONS } });
      const own = await leftovers(run.own.blue);
      let phase = 'unknown';
      try {
        const asked = performance.now();
        await run.start();
        await sleep(second * 1_000 - (performance.now() - asked));
        await run.rollBack();
        const { outcome, report } = await run.ended();
        phase = report?.phase ?? 'unknown';
        seen.add(phase);
        if (phase === 'standby') inStandby++;
        expect(outcome).toBe('rolledBack');
        expect(report?.rollingBack?.notUndone ?? []).toEqual([]);
        expect(await run.audit('blue', 'is not followed')).toEqual([]);
        expect([...(run.writers?.failures ?? []), ...(run.writers?.unknown ?? [])]).toEqual([]);
        expect(await leftovers(run.own.blue)).toEqual(own);
        if (report?.writesOn === 'blue' && phase === 'standby') expect(await run.refusesWrites('green')).toBe(true);
        else expect(await leftovers(run.own.green)).toEqual([]);
        const seconds = (performance.now() - started) / 1_000;
        recordOutcome({
          fault: 'rollback asked for',
          point: `second ${second}, ${phase}`,
          outcome: 'rolled back',
          seconds,
        });
        process.stdout.write(`rollback in second ${second}: rolled back in ${phase}, ${seconds.toFixed(0)} s\n`);
      } catch (error) {
        recordOutcome({
          fault: 'rollback asked for',
          point: `second ${second}, ${phase}`,
          outcome: 'wrong',
          seconds: 0,
        });
        throw error;
      } finally {
        await run.close();
      }
    },
  );

  afterAll(() => {
    process.stdout.write(`rollbacks were asked for in: ${[...seen].join(', ')}\n`);
    // On a machine that is too slow for that nothing has been shown of them.
    if (SECONDS.length >= FEW) expect([...seen]).toEqual(expect.arrayContaining(['replicate', 'traffic', 'standby']));
  });
});
