import { patched, uuid4 } from '@temporalio/workflow';
import type { WayBackRefused } from '../activities/promotion-loss.js';
import type { TakenOver } from '../activities/watch-schema.js';
import { compared } from './compare-regularly.js';
import { actFast, actFastWithin } from './lib/activities.js';
import { failureDetails, failureMessage, isCancelled, isUnanswered } from './lib/failure.js';
import type { MigrationRun } from './lib/migration-run.js';
import type { RunRef } from './lib/run-ref.js';

const LOOKED_AT_ANEW = 'what blue lacks is looked at anew before a later try of the way back';

/** A comparison that takes longer goes on beside the wait, where it was; nobody's answer waits for longer. */
const COMPARED_WITHIN = '1 minute';

/** Runs of an earlier version gave it a minute before each try: a comparison of hours took days. */
const GOES_ON = 'a comparison of the way back that takes long goes on beside its wait';

const COMPARES = 'compensate: do rows differ still?';

const LOOKED_WITHIN = '20 seconds';

/**
 * What blue lacks although its feed lives was told by the comparisons and watches of the standby window, which have ended: a
 * way back that waits for it looks by itself whether somebody has mended it.
 */
export class StrandsAnew {
  /** The comparison that has begun and is not over. */
  #pass: string | null = null;
  #goesOn = false;

  constructor(
    private readonly run: MigrationRun,
    private readonly ref: RunRef,
  ) {}

  /** Whether a comparison takes longer than a look: compareOn() ends it. */
  get goesOn(): boolean {
    return this.#goesOn;
  }

  /** Whether a comparison may still show that nothing of it is in the way. */
  get isOpen(): boolean {
    return this.run.wayBack.comparisonEndsIt || this.run.wayBack.rowsDiffer;
  }

  /** Told what has kept a try from being made: only a comparison may end it, which nobody else makes by now. */
  refused(error: unknown): void {
    if (failureDetails<WayBackRefused>(error)?.comparisonEndsIt === true) this.run.wayBack.waitsForComparison(true);
  }

  /**
   * @param withLoss whether what the feed does not bring is accepted
   * @param isAccepted whether nothing of the rest is in the way; only asked where there is something
   */
  async look(withLoss: boolean, isAccepted: () => boolean): Promise<void> {
    const { wayBack, wayBackDecided } = this.run;
    this.#goesOn = false;
    const { onlyOnGreen } = wayBack.strandedOnGreen;
    const waits = wayBack.comparisonEndsIt && !withLoss;
    if (wayBackDecided || (!waits && !wayBack.rowsDiffer && onlyOnGreen === undefined)) return;
    if (!patched(LOOKED_AT_ANEW)) return;
    const isInTheWay = !isAccepted();
    if (isInTheWay && onlyOnGreen !== undefined) await this.#lookForTables();
    // Another feed that is dead brings no row that could be compared.
    const maySeeThemMended = isInTheWay && wayBack.rowsDiffer && wayBack.loses.feed === undefined;
    if (waits || maySeeThemMended) await this.#compare();
  }

  /** Goes on with the comparison that has begun, for as long as it takes: beside the wait, which cancels it when it ends. */
  async compareOn(): Promise<void> {
    try {
      await this.#compare(actFast(COMPARES));
    } finally {
      // Until the next one nothing is compared.
      this.run.progress([]);
    }
  }

  async #compare(comparing = actFastWithin(COMPARES, COMPARED_WITHIN)): Promise<void> {
    const { wayBack } = this.run;
    this.#pass ??= `way back ${uuid4()}`;
    wayBack.comparing();
    try {
      const found = await comparing.verify(this.ref, 'green', 'changed', this.#pass);
      // One that is over finds the same without reading a row.
      this.#pass = null;
      compared(this.run, found);
      // What is in the way of the feed still, the next try says.
      if (found.differingRows === 0) wayBack.waitsForComparison(false);
    } catch (error) {
      if (isCancelled(error)) throw error;
      if (isUnanswered(error)) this.#goesOn = patched(GOES_ON);
      else this.run.warn([`green and blue can't be compared before writes go back: ${failureMessage(error)}`]);
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
