import type { Tick } from './green.js';

/** What a rule makes of a stage: it goes on to the next one, goes back, or waits for a person. */
export type End = 'advanced' | 'rolled back' | 'held';

/** A rule that watches one stage, a tick at a time; undefined: it watches on. */
export interface StageRule {
  see(tick: Tick, seconds: number): End | undefined;
}

export interface Rule {
  readonly name: string;
  /** Begins a stage. */
  readonly stage: (percent: number, readsPerSecond: number) => StageRule;
}

/** The limits that all rules are given. */
export const LIMITS = { errorRate: 0.001, p99IncreaseMs: 50, lagMs: 1_000, mismatchRate: 0.001, stageSeconds: 900 };
