const FAILURES = 3;
const OPEN_MS = { first: 1_000, longest: 8_000 };

/** Keeps requests away from a side that fails repeatedly: each further failure doubles the time, one success ends it. */
export class Breaker {
  readonly #now: () => number;
  #failures = 0;
  #openUntil = 0;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  get isOpen(): boolean {
    return this.#openUntil > 0 && this.#now() < this.#openUntil;
  }

  succeeded(): void {
    this.#failures = 0;
    this.#openUntil = 0;
  }

  failed(): void {
    if (this.isOpen) return;
    this.#failures += 1;
    if (this.#failures < FAILURES) return;
    const openFor = Math.min(OPEN_MS.first * 2 ** (this.#failures - FAILURES), OPEN_MS.longest);
    this.#openUntil = this.#now() + openFor;
  }
}
