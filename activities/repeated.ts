import { setTimeout as sleep } from 'node:timers/promises';
import { reasonOf } from '../src/failure-text.js';

export interface RepeatedOptions<T> {
  readonly measure: () => Promise<T>;
  /** Pause between two measurements. */
  readonly everyMs: number;
  /** How many values are kept, the newest ones. */
  readonly keep: number;
  /** A source that has said nothing for so long has failed, whatever it is doing. */
  readonly silentAfterMs: number;
  readonly signal: AbortSignal;
}

/**
 * Measures again and again beside those who read: a source that is slow or away delays nobody, and its failure is kept
 * beside what it said before.
 */
export class Repeated<T> {
  readonly #options: RepeatedOptions<T>;
  #values: T[] = [];
  #failure: string | undefined;
  #lastAt = performance.now();
  #tellFirst: () => void = () => undefined;
  /** Settles when the first measurement has been made or has failed. */
  readonly first = new Promise<void>((resolve) => (this.#tellFirst = resolve));

  constructor(options: RepeatedOptions<T>) {
    this.#options = options;
    void this.#run();
  }

  /** Oldest first. */
  get values(): readonly T[] {
    return this.#values;
  }

  /** Why there is no value of now; undefined while the source answers. */
  get failure(): string | undefined {
    const silent = performance.now() - this.#lastAt;
    if (this.#failure !== undefined || silent < this.#options.silentAfterMs) return this.#failure;
    return `no answer for ${Math.round(silent / 1_000)} s`;
  }

  async #run(): Promise<void> {
    const { measure, everyMs, keep, signal } = this.#options;
    while (!signal.aborted) {
      try {
        const value = await measure();
        this.#values = [...this.#values.slice(1 - keep), value];
        this.#failure = undefined;
      } catch (error) {
        this.#failure = reasonOf(error);
      }
      this.#lastAt = performance.now();
      this.#tellFirst();
      await sleep(everyMs, undefined, { signal }).catch(() => undefined);
    }
  }
}
