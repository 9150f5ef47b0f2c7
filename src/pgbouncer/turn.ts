import { randomBytes } from 'node:crypto';
import type { Mark } from './mark.js';

/**
 * One worker's turn at the PgBouncers of a migration. What it announces bears its token, so a worker that wakes up late
 * sees that the pause which it finds is another one's.
 *
 * Who came later is told without a clock: a worker that has announced nothing yet takes over whatever it finds, and
 * what a worker finds after its own announcement, and has not taken over, has been announced since.
 */
export class Turn {
  /** 8 hex digits, random. */
  readonly token = randomBytes(4).toString('hex');
  #hasAnnounced = false;
  /** Tokens of those before; undefined stands for marks of versions that wrote none. */
  readonly #before = new Set<string | undefined>();

  /** Whether it may still take over: it has announced no pause. */
  get isNew(): boolean {
    return !this.#hasAnnounced;
  }

  /** Comes before the first mark of a pause is written: from here on, an announcement that is not known is a later one. */
  announce(): void {
    this.#hasAnnounced = true;
  }

  /** What is announced there is this worker's to end from now on. Does nothing once it has announced itself. */
  takeOver(mark: Mark | undefined): void {
    if (this.isNew && mark?.state === 'moving') this.#before.add(mark.token);
  }

  isOwn(mark: Mark | undefined): boolean {
    return mark?.state === 'moving' && mark.token === this.token;
  }

  /** Whether somebody else is at work, who will end the pause: neither this worker nor one that it has taken over. */
  isOthers(mark: Mark | undefined): boolean {
    return mark?.state === 'moving' && !this.isOwn(mark) && !this.#before.has(mark.token);
  }
}
