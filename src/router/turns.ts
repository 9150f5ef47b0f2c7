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
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(size: number) {
    this.#free = size;
  }

  /** Whether somebody waits for a turn. */
  get isWanted(): boolean {
    return this.#waiting.length > 0;
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
    if (this.takeFree()) grant();
    else this.#waiting.push(grant);
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

  /** The end of a turn: the next one who waits has it. */
  passOn(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free++;
    else next();
  }
}
