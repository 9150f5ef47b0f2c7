import { patched } from '@temporalio/workflow';
import { formatDuration, parseDuration } from '../src/plan/duration.js';
import type { Plan } from '../src/plan/schema.js';
import type { RunRef } from './lib/run-ref.js';
import type { StepOptions, Story } from './lib/story.js';
import { verifyAgain } from './verify.js';
import type { Ahead } from './windows.js';

/* Rows are compared before writes move, and again whenever what has been waited for since took longer than the plan allows. */

export function comparedWithinMs({ plan }: RunRef): number {
  // A run that an older worker has begun has no defaults of settings that came later.
  const { comparedWithin = '10m' }: Partial<Plan['promote']> = plan.promote;
  return parseDuration(comparedWithin);
}

/** The comparison before the promotion. */
export interface Comparison extends Ahead {
  readonly work: (options?: StepOptions) => Promise<void>;
  /** How long ago it ended, ms, where that is longer than the plan has it; else null. */
  readonly age: () => number | null;
}

/**
 * What lies between a comparison and the promotion while nobody stops the run takes less, ms: with a shorter `comparedWithin`
 * rows would be compared for ever.
 */
const LEAST_AGE_MS = 30_000;

export function comparison(story: Story, ref: RunRef): Comparison {
  const { run } = story;
  const within = comparedWithinMs(ref);
  let lastMs = 0;
  let last: { readonly at: number; readonly resumes: number } | null = null;
  const work = async (options?: StepOptions): Promise<void> => {
    const begun = Date.now();
    const { resumes } = run;
    await verifyAgain(story, ref, options);
    lastMs = Date.now() - begun;
    // Of one that was stopped in its middle, some rows were compared before.
    last = { at: run.resumes === resumes ? Date.now() : begun, resumes };
  };
  const age = (): number | null => {
    if (last === null) return null;
    const ms = Date.now() - last.at;
    const most = run.resumes === last.resumes ? Math.max(within, LEAST_AGE_MS) : within;
    return ms > most && patched('rows are compared again whatever has taken its time since') ? ms : null;
  };
  let opening: string | null = null;
  const waitsFor = (next: string): void => {
    const isMissed = opening !== null && opening !== next && Date.parse(opening) <= Date.now();
    if (isMissed) story.run.warn([windowMissed(ref, lastMs)]);
    opening = next;
  };
  return { work, lastMs: () => lastMs, waitsFor, age };
}

/** People must read of it: the next window may be a week away. */
function windowMissed({ plan }: RunRef, tookMs: number): string {
  const windows = (plan.windows?.promote ?? []).join(', ');
  return `a window of the promotion (${windows}) has come and gone before writes could move; the last comparison of rows took ${formatDuration(tookMs)}: where that is the reason, let the window be longer, or give the verification less rest (verify.rest)`;
}

export function comparedLongAgo(ms: number): string {
  return `rows were compared ${formatDuration(ms)} ago: what has changed since is compared before writes move`;
}
