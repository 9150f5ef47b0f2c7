/*
 * How fast the copies may go while others work on blue: additive increase, multiplicative decrease, as TCP shares a link
 * (Chiu and Jain, 1989). Several workers that follow the same signs come to about the same rate without talking to each
 * other. Pure, so that it can be tested without a clock.
 */

/** What was seen of blue since the last look. */
export interface Look {
  /** Transactions a second that are not ours. */
  readonly transactionsPerSecond: number;
  /** Sessions of others that were at work. */
  readonly activeSessions: number;
  /** How long blue takes to answer next to nothing, ms: the worst of the last moments. */
  readonly answerMs: number;
  /** Bytes a second that the parcels of this worker have copied since the last look. */
  readonly bytesPerSecond: number;
}

/** Fewer transactions a second than this are no work that a copy could disturb: monitoring, a cron job. */
const BUSY_TRANSACTIONS = 20;
/** So much longer than before may an answer take. What is below the grain of clocks and timers is not counted. */
const SLOWER = 1.2;
const GRAIN_MS = 0.3;
/** With what a worker begins while others work, bytes a second, and what it never goes below. */
const START = 8 * 2 ** 20;
const LEAST = 4 * 2 ** 20;
/** Added at every look that finds blue as quick as before. */
const STEP = 2 * 2 ** 20;
/** Blue must have been quiet for so many looks before the copies run free again: applications pause. */
const QUIET_LOOKS = 10;

export class RateControl {
  private allowed = Number.POSITIVE_INFINITY;
  private quiet = 0;
  private active = 0;
  private usual: number | undefined;

  /**
   * @param before how long an answer took before the copies began, ms, and whether others were at work then: whoever
   *   begins at full speed and looks afterwards has disturbed them for a second already.
   */
  constructor(before: { readonly usualAnswerMs?: number; readonly othersWork?: boolean } = {}) {
    this.usual = before.usualAnswerMs;
    if (before.othersWork !== true) return;
    this.active = 1;
    this.allowed = START;
  }

  /** Bytes a second; Infinity while nobody else works. */
  get bytesPerSecond(): number {
    return this.allowed;
  }

  look(look: Look): void {
    // One query at one moment is nobody; one that is met again and again is somebody's work.
    this.active = this.active * 0.7 + Math.min(1, look.activeSessions) * 0.3;
    const busy = look.transactionsPerSecond >= BUSY_TRANSACTIONS || this.active > 0.6;
    this.quiet = busy ? 0 : this.quiet + 1;
    if (this.quiet >= QUIET_LOOKS) this.allowed = Number.POSITIVE_INFINITY;
    if (!busy) return;
    // Without a figure from before, the best that is seen stands for it.
    this.usual = Math.min(this.usual ?? look.answerMs, look.answerMs);
    if (!Number.isFinite(this.allowed)) this.allowed = START;
    const limit = this.usual * SLOWER + GRAIN_MS;
    if (look.answerMs > limit) this.allowed = Math.max(LEAST, Math.min(this.allowed, look.bytesPerSecond * 2) / 2);
    // What was not used is no sign that more would be harmless.
    else if (look.bytesPerSecond > this.allowed / 2) this.allowed += STEP;
  }
}
