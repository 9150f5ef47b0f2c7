import { ApplicationFailure } from '@temporalio/common';
import { untilCancelled } from './scripted-run.js';

/** An activity that loses its connection in the very moment in which it is to stop. */
export async function lostWhenCancelled(): Promise<never> {
  await untilCancelled().catch(() => undefined);
  throw ApplicationFailure.create({
    type: 'ConnectionFailed',
    message: 'blue: the connection "app_blue" can\'t be opened: read ECONNRESET (ECONNRESET)',
    nonRetryable: false,
  });
}
