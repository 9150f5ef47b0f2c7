import { condition, patched, sleep } from '@temporalio/workflow';
import type { ComparisonBrokenOff, ComparisonNews, Round } from '../activities/regular-comparison.js';
import type { VerificationResult } from '../activities/verify.js';
import { parseDuration } from '../src/plan/duration.js';
import { act } from './lib/activities.js';
import { nameRows } from './lib/differing-rows.js';
import { cancelledWith, failureMessage, isCancelled } from './lib/failure.js';
import { spareHistory } from './lib/history-room.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';
import { unless } from './lib/unless.js';
import { whileNotPaused } from './lib/while-not-paused.js';
import { differing, warnOfColumns } from './verify.js';

/** The shortest time between two comparisons that do not wait for their time, ms: partitions may be emptied all day long. */
const COMPARED_AGAIN_MS = 600_000;

/**
 * In the standby window: blue is compared with green now and then, until it is cancelled. Green serves, so it only warns.
 * What people are to know comes back at once; comparisons that find nothing new are gathered in one activity.
 */
export async function compareRegularly(story: Story, ref: RunRef): Promise<never> {
  const { run } = story;
  const areGathered = patched('comparisons that find nothing new are not told one by one');
  let earliest = 0;
  let question: string | undefined;
  for (;;) {
    if (areGathered) {
      const asks = (): boolean => retirementAsked(run) !== undefined && retirementAsked(run) !== question;
      await inRounds(story, ref, () => run.wayBack.isComparisonDue || asks());
      question = retirementAsked(run) ?? question;
      await untilEarliest(earliest);
    } else await nextComparison(run, ref, earliest);
    earliest = Date.now() + COMPARED_AGAIN_MS;
    await compareNow(story, ref);
    await spareHistory();
  }
}

/** The question before the retirement that is open: whoever answers it should know what a comparison of now says. */
function retirementAsked({ status: { waiting } }: MigrationRun): string | undefined {
  return waiting?.gate === 'retire' ? waiting.request : undefined;
}

/** Compares as often as the plan says, until a comparison is due before its time. */
async function inRounds(story: Story, ref: RunRef, isDue: () => boolean): Promise<void> {
  const { run } = story;
  // Whatever the first one finds is told: nobody knows yet what this window looks like.
  let known: string | undefined;
  while (!isDue()) {
    const round = roundOf(story, ref, known);
    known = undefined;
    try {
      const news = await unless(isDue, () => whileNotPaused(run, round));
      if (news !== undefined) known = seen(run, news.done);
    } catch (error) {
      if (isCancelled(error)) throw error;
      run.warn([cannotBeCompared(error)]);
    } finally {
      // What it was waiting for, if anything was told of that.
      run.progress([]);
    }
    await spareHistory();
  }
}

/** Called again after a pause, it goes on with the comparison that the pause has broken off; else the next one comes at once. */
function roundOf(story: Story, ref: RunRef, known: string | undefined): () => Promise<ComparisonNews> {
  const every = ref.plan.standby.verifyEvery;
  const knows = known === undefined ? {} : { known };
  let round: Round = { pass: story.nextPass(), firstInMs: parseDuration(every), ...knows };
  return async () => {
    try {
      return await act(`compare green and blue every ${every}`).compareRegularly(ref, round);
    } catch (error) {
      round = { pass: story.nextPass(), firstInMs: 0, ...knows, ...cancelledWith<ComparisonBrokenOff>(error) };
      throw error;
    }
  };
}

/** @returns the mark of what people know now */
function seen(run: MigrationRun, { mark, ...found }: ComparisonNews): string {
  compared(run, found);
  return mark;
}

async function compareNow(story: Story, ref: RunRef): Promise<void> {
  const { run } = story;
  // A paused run holds no lock and no transaction.
  await condition(() => !run.paused);
  const wasDue = run.wayBack.isComparisonDue;
  run.wayBack.comparing();
  const pass = story.nextPass();
  try {
    const compare = (): Promise<VerificationResult> =>
      act('compare green and blue').verify(ref, 'green', 'changed', pass);
    compared(run, await whileNotPaused(run, compare));
  } catch (error) {
    if (isCancelled(error)) throw error;
    run.warn([cannotBeCompared(error)]);
    // The watch does not tell it again, and no rollback is safe until then.
    if (wasDue && patched('a comparison that is due and fails stays due')) run.wayBack.compareAgain();
  } finally {
    // Until the next one nothing is compared.
    run.progress([]);
  }
}

function cannotBeCompared(error: unknown): string {
  return `green and blue can't be compared: ${failureMessage(error)}`;
}

/** What a comparison says of the way back. */
export function compared(run: MigrationRun, { examples, notCompared = [], ...result }: VerificationResult): void {
  run.verified(result);
  warnOfColumns(run, notCompared);
  const why = `${differing(result.differingRows)} between green and blue: ${nameRows(examples)}`;
  run.wayBack.sawDifference(result.differingRows === 0 ? null : why);
  // What was emptied meanwhile, the next one tells.
  const isDue = run.wayBack.isComparisonDue;
  if (!isDue) run.wayBack.sawEmptied([]);
  if (result.differingRows === 0 && !isDue) run.allClear('rows');
  if (result.differingRows > 0)
    run.alarm('rows', 'differ', why, 'find out what wrote to blue; a rollback needs "acceptLoss" until it is mended');
}

/** In a run that an earlier version has brought to its standby window. Until a comparison is due: as often as the plan says, and when a partition may have been emptied, but not before `earliest`. */
async function nextComparison(run: MigrationRun, ref: RunRef, earliest: number): Promise<void> {
  const every = ref.plan.standby.verifyEvery;
  const summary = `compare green and blue every ${every}`;
  if (!patched('partitions that may have been emptied are compared at once')) {
    await sleep(parseDuration(every), { summary });
    return;
  }
  if (!(await condition(() => run.wayBack.isComparisonDue, parseDuration(every), { summary }))) return;
  await untilEarliest(earliest);
}

async function untilEarliest(earliest: number): Promise<void> {
  const early = earliest - Date.now();
  if (early > 0) await sleep(early, { summary: 'compare green and blue again' });
}
