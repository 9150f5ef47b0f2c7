import { Chance } from './chance.js';
import { Series, TICK_SECONDS, type Green } from './green.js';
import type { End, Rule, StageRule } from './rule.js';
import { OTHER_RULES } from './threshold-rules.js';
import { VERDIGRIS } from './verdigris-rule.js';

export const RULES: readonly Rule[] = [VERDIGRIS, ...OTHER_RULES];

/** Reads a second of the whole application. */
export const RATES = [20, 100, 500, 2_000] as const;

/** A bad green has to be caught in the first stage; a healthy one goes through all of them. */
const STAGES = { bad: [1], healthy: [1, 10, 50, 100] } as const;

/** What became of one run under one rule. */
export interface Run {
  readonly end: End;
  /** Until the decision. */
  readonly seconds: number;
  /** Reads that the fault has touched until then, of all of them. */
  readonly harmed: number;
  readonly reads: number;
}

export interface RunOfRule extends Run {
  readonly rule: string;
}

/** One run of one kind of green, under every rule: all see the same series. */
export function simulateRun(green: Green, readsPerSecond: number, seed: number): RunOfRule[] {
  const stages = green === 'healthy' ? STAGES.healthy : STAGES.bad;
  let going = RULES.map(({ name }) => ({ rule: name, end: 'advanced' as End, seconds: 0, harmed: 0, reads: 0 }));
  const done: RunOfRule[] = [];
  for (const [number, percent] of stages.entries()) {
    const ended = oneStage(going, { green, readsPerSecond, percent, chance: new Chance(seed * 10 + number) });
    done.push(...ended.filter((run) => run.end !== 'advanced'));
    going = ended.filter((run) => run.end === 'advanced');
  }
  return [...done, ...going].sort((a, b) => order(a) - order(b));
}

function order(run: RunOfRule): number {
  return RULES.findIndex(({ name }) => name === run.rule);
}

interface Scene {
  readonly green: Green;
  readonly readsPerSecond: number;
  readonly percent: number;
  readonly chance: Chance;
}

function oneStage(before: readonly RunOfRule[], { green, readsPerSecond, percent, chance }: Scene): RunOfRule[] {
  const series = new Series(chance, green, readsPerSecond, percent);
  let watching = before.map((run) => ({ run, stage: begin(run.rule, percent, readsPerSecond) }));
  const ended: RunOfRule[] = [];
  let [harmed, reads] = [0, 0];
  for (let seconds = TICK_SECONDS; watching.length > 0; seconds += TICK_SECONDS) {
    const tick = series.next();
    harmed += tick.harmed;
    reads += tick.green.requests + tick.blue.requests;
    watching = watching.filter(({ run, stage }) => {
      const end = stage.see(tick, seconds);
      if (end === undefined) return true;
      ended.push({
        ...{ rule: run.rule, end, seconds: run.seconds + seconds },
        ...{ harmed: run.harmed + harmed, reads: run.reads + reads },
      });
      return false;
    });
  }
  return ended;
}

function begin(name: string, percent: number, readsPerSecond: number): StageRule {
  const rule = RULES.find((one) => one.name === name);
  if (rule === undefined) throw new Error(`there is no rule ${name}`);
  return rule.stage(percent, readsPerSecond);
}
