import { setTimeout as sleep } from 'node:timers/promises';
import type { Side } from '../../side.js';
import type { Loads } from '../load.js';

/** What the backfill gives way to. */
export interface BackfillLimits {
  readonly maxLagSeconds: number;
  /** How far this database is behind now. */
  readonly lagSeconds: () => Promise<number>;
  /** Work of others on either side above which the backfill waits. */
  readonly pauseAbove?: {
    readonly transactionsPerSecond?: number | undefined;
    readonly activeSessions?: number | undefined;
    readonly load: () => Promise<Loads>;
  };
}

/** How often lag and load are asked for: the lag costs a marker's round trip. */
const EVERY_MS = 1_000;
/** How often a lane that waits looks again. */
const LOOK_MS = 100;

/** Watches lag and load beside the lanes and holds them up while a limit is exceeded. */
export class BackfillBrake {
  private over = false;
  private measured = false;
  private failure: { readonly error: unknown } | undefined;
  private lag = 0;
  private lagAsked: number | undefined;
  private busy: string | undefined;

  constructor(private readonly limits: BackfillLimits) {}

  /** Goes on until release() is called. */
  watch(): void {
    void this.measureAgainAndAgain();
  }

  /** The end: what is still being measured is not waited for. */
  release(): void {
    this.over = true;
  }

  /**
   * Returns when nothing is against going on. `onWait` is told once what is waited for, and again when that changes.
   *
   * @throws the signal's reason when it is aborted, and what the measuring has thrown.
   */
  async passed(signal: AbortSignal, onWait: (note: string) => void): Promise<void> {
    let told: string | undefined;
    for (;;) {
      signal.throwIfAborted();
      if (this.failure !== undefined) throw this.failure.error;
      const reason = this.reason();
      if (reason === undefined && this.measured) return;
      if (reason !== undefined && reason !== told) onWait(reason);
      told = reason;
      await sleep(LOOK_MS, undefined, { signal });
    }
  }

  private reason(): string | undefined {
    // A marker that has not arrived yet says how far behind green is at least.
    const outstanding = this.lagAsked === undefined ? 0 : (performance.now() - this.lagAsked) / 1_000;
    const lag = Math.max(this.lag, outstanding);
    if (lag > this.limits.maxLagSeconds) {
      return `waits: ${Number.isFinite(lag) ? `${lag.toFixed(1)} s` : 'far'} behind, at most ${this.limits.maxLagSeconds} s are allowed`;
    }
    return this.busy;
  }

  private async measureAgainAndAgain(): Promise<void> {
    try {
      while (!this.over) {
        this.lagAsked = performance.now();
        this.lag = await this.limits.lagSeconds();
        this.lagAsked = undefined;
        this.busy = await this.tooBusy();
        this.measured = true;
        await sleep(EVERY_MS, undefined, { ref: false });
      }
    } catch (error) {
      this.failure = { error };
    }
  }

  private async tooBusy(): Promise<string | undefined> {
    const { pauseAbove } = this.limits;
    if (pauseAbove === undefined) return undefined;
    const loads = await pauseAbove.load();
    const sides: readonly Side[] = ['blue', 'green'];
    for (const side of sides) {
      const { transactionsPerSecond, activeSessions } = loads[side];
      if (transactionsPerSecond > (pauseAbove.transactionsPerSecond ?? Number.POSITIVE_INFINITY)) {
        return `waits: ${side} runs ${Math.round(transactionsPerSecond)} transactions a second of others, at most ${String(pauseAbove.transactionsPerSecond)} are allowed`;
      }
      if (activeSessions > (pauseAbove.activeSessions ?? Number.POSITIVE_INFINITY)) {
        return `waits: ${activeSessions} sessions of others are at work on ${side}, at most ${String(pauseAbove.activeSessions)} are allowed`;
      }
    }
    return undefined;
  }
}
