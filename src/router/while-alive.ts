import { LinkDownError } from './failure.js';
import type { SideLink } from './side-link.js';

/**
 * A request that is still on its way at the second look is slow, or its server is gone: the link finds out which. So it
 * has been under way for one to two of these times, 125 to 250 ms.
 */
const LOOK_MS = 125;

/** Something that is waited for. */
export interface Awaited {
  /** The count of looks at its beginning. */
  since: number;
  giveUp(error: Error): void;
}

/**
 * Lets requests wait for a side as long as it answers the link's questions: a slow one may go on, a frozen server may
 * not hold it. One timer for all of them, since nearly every request is over before it would be asked about.
 */
export class WhileAlive {
  readonly #link: Pick<SideLink, 'look' | 'side'>;
  /** In the order in which they came. */
  readonly #waits = new Set<Awaited>();
  #looks = 0;
  #timer: NodeJS.Timeout | undefined;
  #isAsking = false;

  constructor(link: Pick<SideLink, 'look' | 'side'>) {
    this.#link = link;
  }

  /** From here on it is given up when the side is found silent, until end(). */
  begin(one: Awaited): void {
    one.since = this.#looks;
    this.#waits.add(one);
    this.#timer ??= setInterval(() => this.#lookAtThem(), LOOK_MS).unref();
  }

  end(one: Awaited): void {
    this.#waits.delete(one);
  }

  /** The promise's outcome. @throws LinkDownError when the side is found silent before it. */
  async wait<T>(promise: Promise<T>): Promise<T> {
    let one: Awaited | undefined;
    const silent = new Promise<never>((_, reject) => {
      one = { since: 0, giveUp: reject };
      this.begin(one);
    });
    try {
      return await Promise.race([promise, silent]);
    } finally {
      if (one !== undefined) this.end(one);
    }
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
