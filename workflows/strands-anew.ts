import { patched, uuid4 } from '@temporalio/workflow';
import type { TakenOver } from '../activities/watch-schema.js';
import { compared } from './compare-regularly.js';
import { actFastWithin } from './lib/activities.js';
import { failureMessage, isCancelled, isUnanswered } from './lib/failure.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';

const LOOKED_AT_ANEW = 'what blue lacks is looked at anew before a later try of the way back';

/** A comparison that takes longer goes on in the next round, where it was; nobody's answer waits for longer. */
const COMPARED_WITHIN = '1 minute';

const LOOKED_WITHIN = '20 seconds';

/**
 * What blue lacks although its feed lives was told by the comparisons and watches of the standby window, which have ended: a
 * way back that waits for it looks by itself whether somebody has mended it.
 */
export class StrandsAnew {
  /** The comparison that has begun and is not over. */
  #pass: string | null = null;

  constructor(
    private readonly run: MigrationRun,
    private readonly ref: RunRef,
  ) {}

  /** @param isAccepted whether nothing of it is in the way; only asked where there is something */
  async look(isAccepted: () => boolean): Promise<void> {
    const { run } = this;
    const { onlyOnGreen } = run.wayBack.strandedOnGreen;
    const differs = run.wayBack.rowsDiffer;
    if (run.wayBackDecided || (!differs && onlyOnGreen === undefined)) return;
    if (!patched(LOOKED_AT_ANEW) || isAccepted()) return;
    if (onlyOnGreen !== undefined) await this.#lookForTables();
    // A feed that is dead brings no row that could be compared.
    if (differs && run.wayBack.loses.feed === undefined) await this.#compare();
  }

  async #compare(): Promise<void> {
    this.#pass ??= `way back ${uuid4()}`;
    const summary = 'compensate: do rows differ still?';
    try {
      const found = await actFastWithin(summary, COMPARED_WITHIN).verify(this.ref, 'green', 'changed', this.#pass);
      // One that is over finds the same without reading a row.
      this.#pass = null;
      compared(this.run, found);
    } catch (error) {
      if (isCancelled(error)) throw error;
      if (isUnanswered(error)) return;
      this.run.warn([`green and blue can't be compared before writes go back: ${failureMessage(error)}`]);
    }
  }

  /** Tables and columns that green alone has: they may have been dropped there. */
  async #lookForTables(): Promise<void> {
    const look = actFastWithin("compensate: green's tables that blue has not", LOOKED_WITHIN);
    try {
      const taken = (await look.takeSchemaOver(this.ref, 'green', 'the way back looks again')) as TakenOver | undefined;
      if (taken !== undefined) this.run.wayBack.sawOnlyOnGreen(taken.onlyOnGreen);
    } catch (error) {
      if (isCancelled(error)) throw error;
      this.run.warn([`green does not say what it has that blue has not: ${failureMessage(error)}`]);
    }
  }
}
