import type { Green } from './green.js';
import type { End } from './rule.js';
import { RULES, type RunOfRule } from './simulate.js';

/** What became of the runs of one kind of green at one rate under one rule. */
export interface Tally {
  readonly rule: string;
  readonly green: Green;
  readonly readsPerSecond: number;
  readonly runs: number;
  readonly ends: Readonly<Record<End, number>>;
  /** Time until the decision, s. */
  readonly seconds: { readonly median: number; readonly p95: number; readonly longest: number };
  /** Reads that the fault had touched when the decision was made, of all reads of all runs until then. */
  readonly harmedShare: number;
  /** The same of the worst run. */
  readonly mostHarmedShare: number;
}

/** @param runs of all rules */
export function tallies(green: Green, readsPerSecond: number, runs: readonly RunOfRule[]): Tally[] {
  return RULES.map(({ name }) => {
    const own = runs.filter(({ rule }) => rule === name);
    const times = own.map(({ seconds }) => seconds).sort((a, b) => a - b);
    const at = (part: number): number => times[Math.min(times.length - 1, Math.floor(times.length * part))] ?? 0;
    const ended = (end: End): number => own.filter((run) => run.end === end).length;
    const sum = (of: (run: RunOfRule) => number): number => own.reduce((total, run) => total + of(run), 0);
    return {
      ...{ rule: name, green, readsPerSecond, runs: own.length },
      ends: { advanced: ended('advanced'), 'rolled back': ended('rolled back'), held: ended('held') },
      seconds: { median: at(0.5), p95: at(0.95), longest: at(1) },
      harmedShare:
        sum(({ harmed }) => harmed) /
        Math.max(
          1,
          sum(({ reads }) => reads),
        ),
      mostHarmedShare: Math.max(0, ...own.map(({ harmed, reads }) => harmed / Math.max(1, reads))),
    };
  });
}
