import { LinkDownError } from './failure.js';
import type { SideLink } from './side-link.js';

/**
 * A request that is still on its way at the second look is slow, or its server is gone: the link finds out which. So it
 * has been under way for one to two of these times, 125 to 250 ms.
 */
const LOOK_MS = 125;

interface Wait {
  readonly since: number;
  readonly giveUp: (error: Error) => void;
}

/**
 * Lets requests wait for a side as long as it answers the link's questions: a slow one may go on, a frozen server may
 * not hold it. One timer for all of them, since nearly every request is over before it would be asked about.
 */
export class WhileAlive {
  readonly #link: Pick<SideLink, 'look' | 'side'>;
  /** In the order in which they came. */
  readonly #waits = new Set<Wait>();
  #looks = 0;
  #timer: NodeJS.Timeout | undefined;
  #isAsking = false;

  constructor(link: Pick<SideLink, 'look' | 'side'>) {
    this.#link = link;
  }

  /** The promise's outcome. @throws LinkDownError when the side is found silent before it. */
  wait<T>(promise: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const wait: Wait = { since: this.#looks, giveUp: reject };
      this.#waits.add(wait);
      this.#timer ??= setInterval(() => this.#lookAtThem(), LOOK_MS).unref();
      promise.then(
        (value) => {
          this.#waits.delete(wait);
          resolve(value);
        },
        (error: unknown) => {
          this.#waits.delete(wait);
          reject(error);
        },
      );
    });
  }

  #lookAtThem(): void {
    this.#looks += 1;
    const [oldest] = this.#waits;
    if (oldest === undefined) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    } else if (oldest.since < this.#looks - 1 && !this.#isAsking) {
      void this.#askWhetherAlive();
    }
  }

  async #askWhetherAlive(): Promise<void> {
    this.#isAsking = true;
    const asked = [...this.#waits];
    try {
      await this.#link.look();
    } catch {
      for (const wait of asked) {
        this.#waits.delete(wait);
        wait.giveUp(new LinkDownError(`${this.#link.side} does not answer`));
      }
    } finally {
      this.#isAsking = false;
    }
  }
}
