import { condition, patched, sleep } from '@temporalio/workflow';
import type { WindowLook } from '../activities/windows.js';
import type { WindowOf } from '../src/plan/window-times.js';
import { act } from './lib/activities.js';
import { beside } from './lib/beside.js';
import type { Opening } from './lib/migration-run.js';
import { isCancelled } from './lib/failure.js';
import { spareHistory } from './lib/history-room.js';
import type { RunRef } from './lib/run-ref.js';
import type { StepOptions, Story } from './lib/story.js';

/*
 * Work begins inside the plan's windows, and while blue is quiet enough. What waits here is the story: a rollback ends
 * it, and asks no window. Time zones are the activity's: their data may differ from worker to worker.
 */

/** Clocks of workers differ a little: a look that comes a moment too early is not repeated at once. */
const LEAST_WAIT_MS = 1_000;

/** What is done ahead of an opening, so that as little of it as possible is left for the window. */
export interface Ahead {
  readonly work: () => Promise<void>;
  /** How long it has taken last. */
  readonly lastMs: () => number;
  /** Told whenever an opening is waited for, ISO 8601. */
  readonly waitsFor: (opening: string) => void;
}

/** Work that takes less is as well done when the window is open. */
const LEAST_AHEAD_MS = 2_000;
/** So near to the opening it is not begun for what few changes there are. */
const NEAR_MS = 60_000;

/**
 * How long before the opening it is begun next: in time to be over by then, again and again while that is far away, so that
 * ever less is left; and for the last time so that it ends when the window has just opened.
 *
 * @returns null when it is done when the window is open
 */
export function aheadBy(remainingMs: number, lastMs: number): number | null {
  const quarter = remainingMs / 4;
  if (quarter >= 2 * lastMs) return remainingMs >= NEAR_MS ? quarter : null;
  return lastMs >= LEAST_AHEAD_MS ? Math.min(remainingMs, 0.75 * lastMs) : null;
}

/**
 * Waits until a window of the plan is open, blue is quiet enough, and the run is not paused. At once where the plan
 * asks for none of it.
 *
 * @param ahead what is done while a window is waited for
 * @returns whether it has waited for a window since that was done last
 */
export async function windowOpens(story: Story, ref: RunRef, what: WindowOf, ahead?: Ahead): Promise<boolean> {
  let waited = false;
  for (;;) {
    await story.untilNotPaused();
    const look = await lookAt(ref, what);
    if (look?.open === false) {
      waited = !(await untilItOpens(story, ref, what, look, ahead));
    } else if ((await isQuiet(story, ref, what, look?.changesAt ?? NEVER)) && !story.run.paused && !story.isHeld)
      return waited;
  }
}

/** Waits for an approval of what then waits for a window: whoever answers is told when that opens. */
export async function approvedFor(story: Story, ref: RunRef, what: WindowOf, gate: string, why: string): Promise<void> {
  const isTold = ref.plan.windows?.[what] !== undefined && patched('approvals are asked for with the next window');
  const look = isTold ? await lookAt(ref, what) : null;
  let opens = look && openingOf(look);
  const ask = (): Promise<void> => story.approval(gate, why, () => opens);
  if (look === null || !patched('whoever approves late is told of the window of then')) return ask();
  const saw = (opening: Opening | null): void => {
    opens = opening;
    story.run.sawOpening(opening);
  };
  await beside(() => followWindow(ref, what, look, saw), ask);
}

function openingOf({ open, changesAt, changesAtText }: WindowLook): Opening | null {
  return open ? null : { at: changesAt, text: changesAtText };
}

/** A question may be open for days. Ends by being cancelled, or where nobody can say how the window is. */
async function followWindow(
  ref: RunRef,
  what: WindowOf,
  first: WindowLook,
  saw: (opens: Opening | null) => void,
): Promise<void> {
  for (let look: WindowLook | null = first; look !== null;) {
    await sleep(timeUntil(look), { summary: `${what}: its window ${look.open ? 'closes' : 'opens'}` });
    try {
      look = await lookAt(ref, what);
    } catch (error) {
      if (isCancelled(error)) throw error;
      // It fails the run once it is asked what may begin: not while people think it over.
      look = null;
    }
    saw(look && openingOf(look));
  }
}

/** Whether something may have to wait at all. */
export function hasWindow({ plan }: RunRef, what: WindowOf): boolean {
  return plan.windows !== undefined && (plan.windows[what] !== undefined || plan.windows.below !== undefined);
}

/** Whether the plan says how quiet blue must be. */
export function hasLoadLimit({ plan }: RunRef): boolean {
  return plan.windows?.below !== undefined;
}

/** One look of some seconds whether blue is quiet enough, after which somebody decides whether to wait. */
export async function isQuietNow(
  story: Story,
  ref: RunRef,
  what: WindowOf,
  options: StepOptions = {},
): Promise<boolean> {
  const quiet = await isQuiet(story, ref, what, new Date(Date.now()).toISOString(), options);
  // Whoever waits asks again, and everything that led here with it: a load that goes to and fro would fill the history.
  if (!quiet) await spareHistory();
  return quiet;
}

/** The first of these moments, ISO 8601; `otherwise` counts too, and stands alone where none is set. */
export function earliest<T extends string | null>(
  moments: readonly (string | null | undefined)[],
  otherwise: T,
): string | T {
  return [...moments, otherwise].reduce<string | T>((first, one) => {
    if (typeof one !== 'string') return first;
    return first === null || Date.parse(one) < Date.parse(first) ? one : first;
  }, otherwise);
}

/** Why what a window is for may not begin now; or until when it may, ISO 8601, null where the plan has no such window. */
export async function windowNow(
  ref: RunRef,
  what: WindowOf,
): Promise<{ readonly closed: string } | { readonly closed: null; readonly until: string | null }> {
  const look = await lookAt(ref, what);
  if (look?.open === false) return { closed: closedUntil(ref, what, look) };
  return { closed: null, until: look?.changesAt ?? null };
}

/**
 * Does `work` inside the windows of the plan: when one ends, the steps that yield stop where they can go on, and wait
 * for the next one. What they wait for is said with them.
 */
export async function insideWindows(
  story: Story,
  ref: RunRef,
  what: WindowOf,
  work: () => Promise<void>,
): Promise<void> {
  await windowOpens(story, ref, what);
  if (ref.plan.windows?.[what] === undefined) return work();
  try {
    await beside(() => keepWindow(story, ref, what), work);
  } finally {
    story.yieldTo(null, 'window');
    story.yieldTo(null, 'load');
  }
}

/** Ends by being cancelled. */
async function keepWindow(story: Story, ref: RunRef, what: WindowOf): Promise<void> {
  let begins = false;
  for (;;) {
    const look = await lookAt(ref, what);
    if (look === null) return;
    if (!look.open) {
      const why = closedUntil(ref, what, look);
      story.run.warn([`"${story.run.status.now}" stops at the end of its window, and goes on where it was: ${why}`]);
      story.yieldTo(why, 'window', look.changesAt);
      story.yieldTo(null, 'load');
      await sleep(timeUntil(look), { summary: why });
      begins = true;
    } else if (!begins || (await isQuietBeside(story, ref, what, look))) {
      begins = false;
      story.yieldTo(null, 'window');
      story.yieldTo(null, 'load');
      await sleep(timeUntil(look), { summary: `${what} until ${look.changesAtText}` });
    }
  }
}

/** @returns whether it has ended with what is done ahead, whether or not the window is open then */
async function untilItOpens(
  story: Story,
  ref: RunRef,
  what: WindowOf,
  look: WindowLook,
  ahead?: Ahead,
): Promise<boolean> {
  const why = closedUntil(ref, what, look);
  const remaining = timeUntil(look);
  ahead?.waitsFor(look.changesAt);
  const by =
    ahead !== undefined && patched('rows are compared ahead of a window') ? aheadBy(remaining, ahead.lastMs()) : null;
  story.run.waitFor({ for: 'window', why, until: look.changesAt });
  if (by === null || by < remaining) await sleep(remaining - (by ?? 0), { summary: why });
  story.run.waitFor(null);
  if (by === null) return false;
  await ahead?.work();
  return true;
}

/**
 * Waits until others make few enough transactions on blue.
 *
 * @param until ISO 8601, when it waits no longer
 * @returns false when they did not until then
 */
async function isQuiet(
  story: Story,
  ref: RunRef,
  what: WindowOf,
  until: string,
  options: StepOptions = {},
): Promise<boolean> {
  const limit = loadLimit(ref, what);
  if (limit === null) return true;
  const { below, why } = limit;
  const look = async (): Promise<{ quiet: boolean }> => {
    story.run.waitFor({ for: 'load', why });
    try {
      return await act(why).awaitQuiet(ref, until, below);
    } finally {
      story.run.waitFor(null);
    }
  };
  const { quiet } = await story.step(`looking at blue's load before ${what}`, look, options);
  return quiet;
}

/** The same beside a step that yields meanwhile: what it goes on with begins anew. A paused run asks blue for nothing. */
async function isQuietBeside(story: Story, ref: RunRef, what: WindowOf, { changesAt }: WindowLook): Promise<boolean> {
  const limit = loadLimit(ref, what);
  if (limit === null) return true;
  const stands = (): boolean => story.run.paused || story.isHeld;
  story.yieldTo(limit.why, 'load');
  story.yieldTo(null, 'window');
  await condition(() => !stands());
  const { quiet } = await act(limit.why).awaitQuiet(ref, changesAt, limit.below);
  return quiet && !stands();
}

function loadLimit({ plan }: RunRef, what: WindowOf): { readonly below: number; readonly why: string } | null {
  const below = plan.windows?.below?.transactionsPerSecond;
  if (below === undefined) return null;
  return { below, why: `${what} waits until others make fewer than ${below} transactions a second on blue` };
}

const NEVER = '9999-12-31T00:00:00.000Z';

/** Null where the plan has no windows for that. */
async function lookAt(ref: RunRef, what: WindowOf): Promise<WindowLook | null> {
  if (ref.plan.windows?.[what] === undefined) return null;
  return act(`is a window of ${what} open?`).lookAtWindow(ref, what);
}

function closedUntil(ref: RunRef, what: WindowOf, { changesAtText }: WindowLook): string {
  return `${what} waits until ${changesAtText}: only ${(ref.plan.windows?.[what] ?? []).join(', ')}`;
}

function timeUntil({ changesAt }: WindowLook): number {
  return Math.max(LEAST_WAIT_MS, Date.parse(changesAt) - Date.now());
}
