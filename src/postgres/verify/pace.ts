import { setTimeout as sleep } from 'node:timers/promises';

/** How fast a verification may go. */
export interface PaceOptions {
  /** Share of the time in which each lane rests. */
  readonly rest: number;
  /** Asked now and then: undefined to go on, or why to wait. */
  readonly mayWork?: (() => Promise<string | undefined>) | undefined;
  readonly signal: AbortSignal;
  /** Told why it waits; undefined when it goes on. */
  readonly onWait: (why: string | undefined) => void;
}

const ASK_EVERY_MS = 1_000;
const ASK_AGAIN_MS = 250;
/** A part that took long is not followed by a rest of minutes. */
const LONGEST_REST_MS = 10_000;

/** Keeps the lanes of a verification out of the way of others. */
export class Pace {
  private asked = Number.NEGATIVE_INFINITY;
  private waiting: Promise<void> | undefined;

  constructor(private readonly options: PaceOptions) {}

  /** Before a part: returns once there is leave to work. Lanes that come meanwhile wait for the same answer. */
  async leave(): Promise<void> {
    this.options.signal.throwIfAborted();
    if (this.options.mayWork === undefined || performance.now() - this.asked < ASK_EVERY_MS) return;
    this.waiting ??= this.ask().finally(() => {
      this.waiting = undefined;
    });
    await this.waiting;
  }

  private async ask(): Promise<void> {
    let waited = false;
    for (;;) {
      const why = await this.options.mayWork?.();
      if (why === undefined) break;
      waited = true;
      this.options.onWait(why);
      await sleep(ASK_AGAIN_MS, undefined, { signal: this.options.signal });
    }
    this.asked = performance.now();
    if (waited) this.options.onWait(undefined);
  }

  /** After a part that took so long. */
  async rest(ms: number): Promise<void> {
    const { rest, signal } = this.options;
    if (rest <= 0) return;
    await sleep(Math.min(LONGEST_REST_MS, (ms * rest) / (1 - rest)), undefined, { signal });
  }
}
