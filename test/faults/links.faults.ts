import { describe, expect, it } from 'vitest';
import { FaultRun, LINKS, type Link } from '../support/fault-run.js';
import { isTaken } from '../support/fault-points.js';
import { COPYING, holdPoint, HOLD_POINTS } from '../support/hold-points.js';
import { inflict, LINK_FAULT_NAMES, type LinkFaultName } from '../support/link-faults.js';
import { recordOutcome } from '../support/outcome-table.js';

/*
 * Each link is harmed in each way in every part of one run: while the rows are copied, while traffic moves, exactly in
 * the hold of the promotion, in the standby window, and exactly in the hold of the way back. The run holds or goes on,
 * and ends rolled back once the link is back. VERDIGRIS_FAULT_POINTS=n takes every n-th combination (default: 3).
 */

const CASES = LINKS.flatMap((link) => LINK_FAULT_NAMES.map((fault) => [link, fault] as const)).filter((_, n) =>
  isTaken(n, 3),
);

describe('a link that is harmed in every part of a run', () => {
  it.each(CASES)(
    '%s %s: no write is lost or doubled, never are both sides open, and the run comes to its end',
    { timeout: 1_200_000 },
    async (link, fault) => {
      const started = performance.now();
      const nth = CASES.findIndex(([l, f]) => l === link && f === fault);
      let outcome = 'wrong';
      const notes: string[] = [];
      try {
        outcome = await harmedInEveryPart(link, fault, nth, notes);
      } finally {
        const seconds = (performance.now() - started) / 1_000;
        recordOutcome({ fault: `${link} ${fault}`, point: 'every part of a run', outcome, seconds });
        process.stdout.write(`${link} ${fault}: ${outcome}, ${seconds.toFixed(0)} s; ${notes.join(', ')}\n`);
      }
    },
  );
});

async function harmedInEveryPart(link: Link, fault: LinkFaultName, nth: number, notes: string[]): Promise<string> {
  const run = await FaultRun.create({ purpose: 'link', plan: { promote: { maxHold: '1s' } } });
  const began = performance.now();
  const reached = (what: string): void =>
    void notes.push(`${what} ${((performance.now() - began) / 1_000).toFixed(1)} s`);
  const harm = async (part: string): Promise<void> => {
    reached(part);
    await inflict(run.links[link], fault).over;
  };
  try {
    const copying = run.stopWhere('blue', ...COPYING);
    await run.start();
    const copy = await copying;
    const harmedCopy = harm('copy');
    copy.release();
    await harmedCopy;
    const inHold = run.stopWhere('blue', ...holdPoint(HOLD_POINTS[nth % HOLD_POINTS.length]));
    await run.inTraffic();
    await harm('traffic');
    const held = await Promise.race([inHold, run.inStandby()]);
    if (!('release' in held)) throw new Error('the promotion did not come by its hold');
    const harmed = harm('hold');
    held.release();
    await harmed;
    await run.inStandby();
    await harm('standby');
    await run.inStandby();
    expect(await run.audit('green', 'follows')).toEqual([]);

    const onTheWayBack = run.stopWhere('green', ...holdPoint(HOLD_POINTS[(nth + 1) % HOLD_POINTS.length]));
    await run.rollBack();
    const ending = run.ended();
    const heldAgain = await Promise.race([onTheWayBack, ending]);
    if (!('release' in heldAgain)) throw new Error(`the way back did not come by its hold: ${heldAgain.outcome}`);
    const harmedAgain = harm('way back');
    heldAgain.release();
    await harmedAgain;
    const { outcome } = await ending;
    reached('end');
    expect(outcome).toBe('rolledBack');
    expect(await run.audit('blue', 'is not followed')).toEqual([]);
    expect(await run.refusesWrites('green')).toBe(true);
    expect(run.looks).toBeGreaterThan(50);
    const { failures = [], unknown = [], acknowledged = 0 } = run.writers ?? {};
    expect(acknowledged).toBeGreaterThan(100);
    // The application loses connections only where its own link is harmed.
    if (!link.startsWith('router')) expect([...failures, ...unknown]).toEqual([]);
    const held_ = run.notes.length > 0 ? `, held ${run.notes.length} times` : '';
    return `rolled back${held_}; of ${acknowledged} writes ${failures.length} refused, ${unknown.length} in doubt`;
  } finally {
    notes.push(...run.notes, ...new Set(run.writers?.failures ?? []));
    await run.close();
  }
}
