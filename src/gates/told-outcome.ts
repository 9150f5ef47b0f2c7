import type { GateOutcome } from './outcome.js';

/** Gates are silent, or answer again, for so long before people are told: a moment without traffic is no news. */
const TELL_AFTER_MS = 120_000;

/**
 * Whether people have to hear of what the gates of a stage say that has passed: they go by what they were told last, for as
 * long as an approval or a window is waited for.
 */
export class ToldOutcome {
  #otherwiseSince: number | undefined;

  /** @param silent whether people know that the gates don't pass */
  constructor(private readonly silent: boolean) {}

  /** @param now ms, of a clock that nobody sets */
  isOutOfDate(outcome: GateOutcome, now: number): boolean {
    const isSilent = outcome !== 'pass';
    if (isSilent === this.silent) this.#otherwiseSince = undefined;
    else this.#otherwiseSince ??= now;
    return this.#otherwiseSince !== undefined && now - this.#otherwiseSince >= TELL_AFTER_MS;
  }
}
