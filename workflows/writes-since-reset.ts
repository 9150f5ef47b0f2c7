import type { Activities } from '../activities/index.js';
import { actFast } from './lib/activities.js';
import type { RunRef } from './lib/run-ref.js';
import type { Story } from './lib/story.js';

const SUMMARY = 'before webhooks are called: where are writes since the reset?';

/**
 * Before the webhooks of a run that was reset are called (`webhooks.mustKnow`): where writes are by now, and in which epoch.
 *
 * @throws ApplicationFailure WritesOnGreen
 */
export async function askSinceReset(
  { webhooks }: Story,
  ref: RunRef,
  acting: (summary: string) => Activities = actFast,
): Promise<void> {
  webhooks.know(await acting(SUMMARY).whereWritesAre(ref));
}
