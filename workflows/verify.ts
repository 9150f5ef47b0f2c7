import { ApplicationFailure, patched } from '@temporalio/workflow';
import { act } from './lib/activities.js';
import { nameRows } from './lib/differing-rows.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';
import type { StepOptions, Story } from './lib/story.js';

/** Phase 4: every row of blue is on green, and every derived column is what `up` says. */
export async function verify(story: Story, ref: RunRef): Promise<void> {
  story.run.enter('verify');
  await story.step('comparing blue and green', inPasses(story, ref, 'all'), { yields: true });
}

/** Just before the promotion: what was written since on either side, and what the foreign keys of the plan demand. */
export async function verifyAgain(story: Story, ref: RunRef, options: StepOptions = {}): Promise<void> {
  await story.step('comparing what has changed since', inPasses(story, ref, 'changed'), options);
  if (!ref.plan.migrations.some((step) => 'addConstraint' in step && step.addConstraint.foreignKey !== undefined))
    return;
  const recheck = async (): Promise<void> => {
    const violated = await act("foreign keys of the plan, over blue's new rows").recheckForeignKeys(ref);
    if (violated.length === 0) return;
    // Of a type that holds the run: rows that are corrected on blue arrive here at once.
    const type = patched('orphans of a new foreign key hold the run') ? 'BackfillFailed' : 'VerificationFailed';
    throw ApplicationFailure.nonRetryable(
      `${violated.join('; ')}\nNext step: correct these rows on blue and see that green has the same, then resume; or roll back and leave the foreign key out of the plan.`,
      type,
    );
  };
  await story.step('checking the new foreign keys again', recheck, options);
}

/**
 * Just before the promotion, or instead of it: what has another file since it was compared. Seconds, where the whole may
 * take hours: a job that gives partitions other files all day long keeps nothing from being promoted.
 */
export async function verifyEmptied(story: Story, ref: RunRef): Promise<void> {
  await story.step(
    'comparing tables whose partitions may have been emptied',
    inPasses(story, ref, 'changed', 'emptied'),
  );
}

/**
 * The work of a step that compares: the same pass goes on after a pause; but once differences were found another one
 * begins, since a pass that is over finds what it has found without reading a row.
 */
function inPasses(story: Story, ref: RunRef, scope: 'all' | 'changed', only?: 'emptied'): () => Promise<void> {
  let pass = story.nextPass();
  return async () => {
    const what = only === undefined ? 'what has changed' : 'tables whose partitions may have been emptied';
    const summary = scope === 'all' ? 'compare blue and green' : `compare ${what} on blue and green`;
    const compare = act(summary).verify;
    const found = await (only === undefined
      ? compare(ref, 'blue', scope, pass)
      : compare(ref, 'blue', scope, pass, only));
    const { examples, notCompared, emptied = [], onlyOnGreen = [], ...result } = found;
    if (only === undefined) story.run.tablesOfGreen = onlyOnGreen;
    if (only === undefined) story.run.verified(result);
    else story.run.verifiedInPart(result.differingRows);
    warnOfColumns(story.run, notCompared);
    if (result.differingRows === 0) return;
    pass = story.nextPass();
    if (emptied.length > 0) throw stillThere(result.differingRows, examples, emptied);
    throw ApplicationFailure.nonRetryable(
      `${differing(result.differingRows)} between blue and green: ${nameRows(examples)}\n` +
        'Next step: find out what wrote to green or kept the rows from arriving; mend it and resume where the run is held (docs/ddl.md says how to write on green past the fence), else start again after the rollback.',
      'VerificationFailed',
    );
  };
}

/** TRUNCATE of one partition does not reach green: nothing is wrong with the run, and somebody can mend it. */
export function stillThere(rows: number, examples: readonly string[], emptied: readonly string[]): ApplicationFailure {
  return ApplicationFailure.nonRetryable(
    `${differing(rows)} between blue and green: ${nameRows(examples)}. ${emptied.join(', ')} may have been emptied on blue: TRUNCATE of one partition is not replicated\n` +
      "Next step: where blue's partition is still empty, TRUNCATE it on green, too, else DELETE the rows that are only there (docs/ddl.md says how, past the fence); then resume, and rows are compared again.",
    'PartitionEmptied',
  );
}

/** Equal means equal in what was compared. */
export function warnOfColumns(run: MigrationRun, notCompared: readonly string[] = []): void {
  if (notCompared.length === 0) return;
  run.warn([
    `not compared, since the other side lacks them, has them with another type or can't compute their "up", since two versions or locales may compute them differently, or since their default is no constant or SQL of the plan may write them: ${notCompared.join(', ')}`,
  ]);
}

export function differing(rows: number): string {
  return `${rows} ${rows === 1 ? 'row differs' : 'rows differ'}`;
}
