import { lossInWords, type Loss } from './loss.js';
import type { RollbackSafety } from './status.js';

/**
 * What a rollback would lose while writes are on green, as the run knows it: what the feed to blue does not bring, what blue
 * has missed, and what is not published. Pure.
 */
export class WayBack {
  #feed: RollbackSafety = { safe: true, why: 'blue follows green: writes can go back without a loss' };
  #difference: string | null = null;
  /** Tables and columns that green has had since the promotion: what is in them can't go back. */
  #onlyOnGreen: string | null = null;
  #unmoved: string | null = null;
  #droppedOnBlue: string | null = null;
  #emptied: readonly string[] = [];
  #emptiedRows: string | null = null;
  #comparisonDue = false;
  #comparisonEndsIt = false;
  /** Changes of green that have met no row on blue, as the watch has told them last. */
  #missed = 0;

  /** @param judged told after each thing that was seen */
  constructor(private readonly judged: (safety: RollbackSafety) => void) {}

  /**
   * What the watch of the standby window says of the way back.
   *
   * @param comparisonEndsIt whether a comparison that finds no difference makes it safe again. Default: it does not
   */
  sawFeed(feed: RollbackSafety, comparisonEndsIt = false): void {
    this.#feed = feed;
    this.#comparisonEndsIt = comparisonEndsIt;
    this.#judge();
  }

  /** Rows that are not the same on blue as on green, in words; null when the last comparison found none. */
  sawDifference(why: string | null): void {
    this.#difference = why;
    this.#judge();
  }

  /** What was made on green since the promotion, and is not replicated. */
  sawOnlyOnGreen(made: readonly string[]): void {
    this.#onlyOnGreen = made.length === 0 ? null : `what is in ${made.join(', ')}, made on green since the promotion`;
    this.#judge();
  }

  /** What green has come to hold that neither feed nor fence knows of; empty when it is nothing. */
  sawUnmoved(contents: readonly string[]): void {
    this.#unmoved = contents.length === 0 ? null : contents.join('; ');
    this.#judge();
  }

  /** What was dropped on blue since the promotion: the feed does not bring it back. */
  sawDroppedOnBlue(dropped: readonly string[]): void {
    this.#droppedOnBlue =
      dropped.length === 0 ? null : `what was in ${dropped.join(', ')}, dropped on blue since the promotion`;
    this.#judge();
  }

  /** Partitions of green that may have been emptied since blue was compared with it: that is to be done without waiting. */
  sawEmptied(partitions: readonly string[]): void {
    this.#comparisonDue ||= partitions.length > 0;
    this.#emptied = partitions;
    if (partitions.length === 0) this.#emptiedRows = null;
    this.#judge();
  }

  /** Rows of these that are not the same on blue, in words. */
  sawEmptiedRows(why: string | null): void {
    this.#emptiedRows = why;
    this.#judge();
  }

  /** @returns whether more changes of green have met no row on blue than before; fewer where their counters have begun anew */
  sawMissed(missed: number): boolean {
    const before = this.#missed;
    this.#missed = missed;
    return missed > (missed < before ? 0 : before);
  }

  get missed(): number {
    return this.#missed;
  }

  /** A comparison of blue with green begins: it sees what was emptied before. */
  comparing(): void {
    this.#comparisonDue = false;
  }

  /** That comparison has failed. */
  compareAgain(): void {
    this.#comparisonDue = true;
  }

  /** Whether blue is to be compared with green before the next time comes. */
  get isComparisonDue(): boolean {
    return this.#comparisonDue;
  }

  /** A try of the way back was refused for want of a comparison, or one has found no difference since. */
  waitsForComparison(waits: boolean): void {
    this.#comparisonEndsIt = waits;
  }

  /** Whether a comparison that finds no difference ends what is in the way of the feed. */
  get comparisonEndsIt(): boolean {
    return this.#comparisonEndsIt;
  }

  /** Whether the last comparison of all that has changed has found rows that are not the same. */
  get rowsDiffer(): boolean {
    return this.#difference !== null;
  }

  /** What a rollback would leave on green although the feed lives. */
  get strandedOnGreen(): Loss {
    const rows = [this.#difference, this.#emptiedRows].filter((one) => one !== null);
    return {
      ...(rows.length === 0 ? {} : { rows: rows.join('; ') }),
      ...(this.#onlyOnGreen === null ? {} : { onlyOnGreen: this.#onlyOnGreen }),
      ...(this.#unmoved === null ? {} : { unmoved: this.#unmoved }),
      ...(this.#droppedOnBlue === null ? {} : { droppedOnBlue: this.#droppedOnBlue }),
    };
  }

  /** What a rollback would bring back, since blue may still have it: green keeps nothing of it. */
  get broughtBack(): Loss {
    if (this.#emptied.length === 0) return {};
    const from = `from ${this.#emptied.join(', ')} on green since rows were compared`;
    return { emptied: `what TRUNCATE may have removed ${from}: blue may still have it` };
  }

  /** What a rollback would lose although the feed lives. */
  get strands(): Loss {
    return { ...this.strandedOnGreen, ...this.broughtBack };
  }

  /** The same in words; null when nothing is known. */
  get wouldStrand(): string | null {
    return lossInWords(this.strands);
  }

  /** All that a rollback would lose. */
  get loses(): Loss {
    const { loses } = this.#feed;
    return { ...this.strands, ...(loses === undefined ? {} : { feed: loses }) };
  }

  /** A feed that lives does not bring what blue has missed, nor what is not published. */
  #judge(): void {
    const strands = this.wouldStrand;
    if (strands === null) return this.judged(this.#feed);
    const lost = this.strands.rows === undefined ? 'there is no way back for' : 'blue is not what green is:';
    const why = `${lost} ${strands}`;
    const { loses } = this.#feed;
    if (loses === undefined) return this.judged({ safe: false, why, loses: strands });
    this.judged({ safe: false, why: `${this.#feed.why}; ${why}`, loses: `${loses}; ${strands}` });
  }
}
