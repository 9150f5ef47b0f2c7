import { Chance } from './chance.js';
import { GREENS, tick, TICK_SECONDS, type Green } from './green.js';
import type { End, Rule } from './rule.js';
import { OTHER_RULES } from './threshold-rules.js';
import { VERDIGRIS } from './verdigris-rule.js';

export const RULES: readonly Rule[] = [VERDIGRIS, ...OTHER_RULES];

/** Reads a second of the whole application. */
export const RATES = [20, 100, 500, 2_000] as const;

/** A bad green has to be caught in the first stage; a healthy one goes through all of them. */
const STAGES = { bad: [1], healthy: [1, 10, 50, 100] } as const;

/** What became of the runs of one kind of green at one rate. */
export interface Tally {
  readonly rule: string;
  readonly green: Green;
  readonly readsPerSecond: number;
  readonly runs: number;
  readonly ends: Readonly<Record<End, number>>;
  /** Median and longest time until the decision, s. */
  readonly medianSeconds: number;
  readonly longestSeconds: number;
  /** The largest share of a run's reads that the fault has touched. */
  readonly mostHarmed: number;
}

interface Run {
  readonly end: End;
  readonly seconds: number;
  readonly harmed: number;
}

/** Every rule sees the same series. */
export function simulate(runs: number, seed: number, onProgress: (what: string) => void): Tally[] {
  const tallies: Tally[] = [];
  for (const readsPerSecond of RATES) {
    for (const green of GREENS) {
      onProgress(`${readsPerSecond} reads a second, ${green}`);
      for (const rule of RULES) {
        const done = Array.from({ length: runs }, (_, i) => oneRun(rule, green, readsPerSecond, seed * 1_000_003 + i));
        tallies.push(tallyOf(rule, green, readsPerSecond, done));
      }
    }
  }
  return tallies;
}

function oneRun(rule: Rule, green: Green, readsPerSecond: number, seed: number): Run {
  let [total, harmed, reads] = [0, 0, 0];
  for (const [number, percent] of (green === 'healthy' ? STAGES.healthy : STAGES.bad).entries()) {
    const chance = new Chance(seed * 10 + number);
    const stage = rule.stage(percent);
    for (let seconds = TICK_SECONDS; ; seconds += TICK_SECONDS) {
      const happened = tick(chance, green, readsPerSecond, percent);
      total += TICK_SECONDS;
      harmed += happened.harmed;
      reads += happened.green.requests + happened.blue.requests;
      const end = stage.see(happened, seconds);
      if (end === undefined) continue;
      if (end !== 'advanced') return { end, seconds: total, harmed: harmed / reads };
      break;
    }
  }
  return { end: 'advanced', seconds: total, harmed: harmed / reads };
}

function tallyOf(rule: Rule, green: Green, readsPerSecond: number, runs: readonly Run[]): Tally {
  const times = runs.map(({ seconds }) => seconds).sort((a, b) => a - b);
  const ended = (end: End): number => runs.filter((run) => run.end === end).length;
  return {
    rule: rule.name,
    ...{ green, readsPerSecond, runs: runs.length },
    ends: { advanced: ended('advanced'), 'rolled back': ended('rolled back'), held: ended('held') },
    medianSeconds: times[Math.floor(times.length / 2)] ?? 0,
    longestSeconds: times.at(-1) ?? 0,
    mostHarmed: Math.max(...runs.map((run) => run.harmed)),
  };
}
