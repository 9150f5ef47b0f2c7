import { ApplicationFailure } from '@temporalio/workflow';
import { act } from './lib/activities.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';

/** Phase 4: every row of blue is on green, and every derived column is what `up` says. */
export async function verify(story: Story, ref: RunRef): Promise<void> {
  const { run } = story;
  run.enter('verify');
  await story.step('comparing blue and green', async () => {
    const { examples, ...summary } = await act('compare blue and green').verify(ref, 'blue');
    run.verified(summary);
    if (summary.differingRows === 0) return;
    throw ApplicationFailure.nonRetryable(
      `${summary.differingRows} ${summary.differingRows === 1 ? 'row differs' : 'rows differ'} between blue and green: ${examples.join('; ')}\n` +
        'Next step: find out what wrote to green or kept the rows from arriving; start again after the rollback.',
      'VerificationFailed',
    );
  });
}
