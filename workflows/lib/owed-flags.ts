import { CancellationScope, condition } from '@temporalio/workflow';
import type { FlagsOwed } from '../../activities/flags.js';
import { firstLine } from '../../src/failure-text.js';
import { act } from './activities.js';
import { failureMessage, isCancelled } from './failure.js';
import type { MigrationRun } from './migration-run.js';
import type { RunRef } from './run-ref.js';

/** How long a run that is over waits for the file: then a person has to write it. */
const WAIT_AT_THE_END = '1 hour';

/**
 * flagd's file, where it could not be written when reads were taken back or writes had moved. It is written beside the
 * run, which goes on; an activity tries until it is written, so no worker's death ends the tries.
 */
export class OwedFlags {
  #writing: { readonly scope: CancellationScope; readonly ended: Promise<void> } | null = null;
  /** Why the file will not be written by trying again. */
  #refused: string | null = null;

  constructor(private readonly run: MigrationRun) {}

  /** @param owed what an activity has said; null (or nothing, from a worker of an older version): nothing is owed. */
  owe(ref: RunRef, owed: FlagsOwed | null | undefined): void {
    if (owed === null || owed === undefined) return;
    this.run.warn([
      `${firstLine(owed.why)}; until it is written, flagd sends users of the old stage to green: it is tried again`,
    ]);
    // The file of an earlier route is not worth writing any more.
    this.#writing?.scope.cancel();
    this.#refused = null;
    void CancellationScope.nonCancellable(() => {
      // Only what follows cancels it: the story's end does not.
      const scope = new CancellationScope();
      const isLatest = (): boolean => this.#writing?.scope === scope;
      const ended = this.#write(scope, ref, owed, isLatest);
      this.#writing = { scope, ended };
      return ended;
    });
  }

  /**
   * Waits for the file at the end of a run, for an hour at most.
   *
   * @returns why it was never written, and what it is to say; null when it is
   */
  async settled(): Promise<string | null> {
    if (this.#writing !== null) {
      const why = "flagd's file is not written yet";
      this.run.waitFor({ for: 'retry', why });
      await condition(() => this.#writing === null, WAIT_AT_THE_END, { summary: why });
      this.run.waitFor(null);
    }
    const late = this.#writing;
    if (late !== null) {
      late.scope.cancel();
      await late.ended;
      this.#refused = 'it could not be written within an hour';
    }
    return this.#refused === null ? null : `${firstLine(this.#refused)}; ${this.#byHand()}`;
  }

  /** No run writes it from here on, and no cleaning where nothing else is left. */
  #byHand(): string {
    const { plan, status } = this.run;
    const file = plan?.traffic.flagd?.path ?? 'it';
    return `nothing writes it any more: write ${file} by hand, with "defaultVariant": "${status.writesOn}" and without "targeting"`;
  }

  /** Never throws. */
  async #write(scope: CancellationScope, ref: RunRef, owed: FlagsOwed, isLatest: () => boolean): Promise<void> {
    try {
      await scope.run(() => act("flagd's file, which could not be written").writeOwedFlags(ref, owed.route));
    } catch (error) {
      if (!isCancelled(error) && isLatest()) this.#refused = failureMessage(error);
    }
    if (isLatest()) this.#writing = null;
  }
}
