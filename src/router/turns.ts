/** One caller's turn: wait for `granted`, and give the turn back whatever happened. */
export interface Turn {
  readonly granted: Promise<void>;
  giveBack(): void;
}

/**
 * Lets at most `size` callers through at a time, in the order in which they came. It stands before the connection pool,
 * so that waiting for a free connection keeps its place in the queue, while opening one has a short time limit of its
 * own: with one limit for both, a moment of overload would send every caller to the end of the queue again and again.
 */
export class Turns {
  #ended = 0;
  #free: number;
  /** Turns that are kept back for now, though nobody has them. */
  #keptBack = 0;
  #keptBackUntil: NodeJS.Timeout | undefined;
  readonly #waiting: (() => void)[] = [];
  #onWanted: () => void = () => undefined;

  constructor(size: number) {
    this.#free = size;
  }

  /** How many turns have ended. */
  get ended(): number {
    return this.#ended;
  }

  /** Whether somebody waits for a turn. */
  get isWanted(): boolean {
    return this.#waiting.length > 0;
  }

  /** Resolves as soon as somebody waits for a turn; for one at a time who asks. */
  async wanted(): Promise<void> {
    if (!this.isWanted) await new Promise<void>((resolve) => (this.#onWanted = resolve));
  }

  /** Takes a turn if one is free at once; to be given back by passOn(). Nobody is waiting then, so it is fair. */
  takeFree(): boolean {
    if (this.#free === 0) return false;
    this.#free--;
    return true;
  }

  take(): Turn {
    let state: 'waiting' | 'granted' | 'over' = 'waiting';
    let grant: () => void = () => undefined;
    const granted = new Promise<void>((resolve) => {
      grant = () => {
        state = 'granted';
        resolve();
      };
    });
    if (this.takeFree()) {
      grant();
    } else {
      this.#waiting.push(grant);
      this.#onWanted();
    }
    return {
      granted,
      giveBack: () => {
        if (state === 'over') return;
        if (state === 'waiting') this.#waiting.splice(this.#waiting.indexOf(grant), 1);
        else this.passOn();
        state = 'over';
      },
    };
  }

  /**
   * Keeps back all free turns but `first`: each turn that ends gives one of them back, and after `ms` all come back. Fewer
   * at a time are sooner done where all would be slow at first.
   */
  startSlowly(first: number, ms: number): void {
    clearTimeout(this.#keptBackUntil);
    const keptBack = Math.max(0, this.#free - first);
    this.#free -= keptBack;
    this.#keptBack += keptBack;
    this.#keptBackUntil = setTimeout(() => {
      while (this.#keptBack > 0) this.#giveOneBack();
    }, ms);
    this.#keptBackUntil.unref();
  }

  #giveOneBack(): void {
    this.#keptBack--;
    this.#next();
  }

  /** The end of a turn: the next one who waits has it. */
  passOn(): void {
    this.#ended++;
    if (this.#keptBack > 0) this.#giveOneBack();
    this.#next();
  }

  #next(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free++;
    else next();
  }
}
