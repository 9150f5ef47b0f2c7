import { NEXT_STEP } from '../failure-text.js';

/** An error of the embedded environment: what went wrong on this machine, and what to do about it. */
export class EmbeddedError extends Error {
  override readonly name = 'EmbeddedError';

  constructor(message: string, nextStep: string, cause?: unknown) {
    super(`${message}${NEXT_STEP}${nextStep}`, { cause });
  }
}
