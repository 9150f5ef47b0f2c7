import { patched } from '@temporalio/workflow';
import type { StepOptions, Story } from './lib/story.js';

/* Webhooks that have agreed to a promotion are told when it does not come. */

/** The webhooks that have agreed to a promotion, and are ready for it. */
export interface Ready {
  /** Told once that writes stay on blue for now. */
  readonly goBack: () => void;
  /** The same as soon as the run stands: a pause may last for days. */
  readonly goBackWhileStopped: () => void;
}

export function readyWebhooks({ webhooks }: Story): Ready {
  let isTold = false;
  const goBack = (): void => {
    if (!isTold) webhooks.tell('notPromoted');
    isTold = true;
  };
  const goBackWhileStopped = (): void => {
    if (webhooks.hears('notPromoted') && patched('webhooks that are ready go back when a promotion is stopped'))
      goBack();
  };
  return { goBack, goBackWhileStopped };
}

/** A step while webhooks are ready. */
export function whileReady(ready: Ready): StepOptions {
  return {
    stopped: (wait) => {
      ready.goBackWhileStopped();
      return wait();
    },
  };
}

/** Webhooks that agreed before a pause may not be ready any more. */
export function whyAskAgain({ run, webhooks }: Story, resumes: number): string | null {
  if (run.resumes === resumes || !webhooks.hears('promoting')) return null;
  return 'the run was paused after the webhooks had agreed to the promotion: they are asked again';
}
