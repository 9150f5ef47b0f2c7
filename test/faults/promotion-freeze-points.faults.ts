import { expect, it } from 'vitest';
import { sweep, wrong } from '../support/fault-sweep.js';

/*
 * The points are not chosen: they are the statements of a move that nobody disturbs, as proxies in front of both servers
 * saw them pass, there and back. By default those that change something or hold a lock; with VERDIGRIS_FAULT_LOOKS=1 those
 * that only look, too. VERDIGRIS_FAULT_POINTS=n takes every n-th (default: 6).
 */

it(
  'a worker that is frozen with SIGSTOP, and woken when another one has ended the move, at any statement of a promotion or of the way back: no write is lost or doubled, never are both sides open',
  { timeout: 2_400_000 },
  async () => {
    const outcomes = await sweep('freeze', 6, (line) => process.stdout.write(`${line}\n`));
    const counts = new Map<string, number>();
    for (const { outcome } of outcomes) counts.set(outcome, (counts.get(outcome) ?? 0) + 1);
    process.stdout.write(
      `freeze: ${outcomes.length} points; ${[...counts].map(([what, n]) => `${n} ${what}`).join(', ')}\n`,
    );
    expect(wrong(outcomes)).toEqual([]);
    // Those that no move comes by are few.
    expect(counts.get('right') ?? 0).toBeGreaterThan(outcomes.length * 0.8);
  },
);
