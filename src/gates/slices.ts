/** What was made of all slices up to one, by name. Plain data: fit for storage. */
export interface SlicesState {
  /** Slices that are complete. */
  readonly complete: number;
  readonly folds: Readonly<Record<string, readonly number[]>>;
}

interface Fold {
  readonly done: number;
  readonly value: readonly number[];
}

type Step<Slice> = (value: readonly number[], slice: Slice, number: number) => readonly number[];

/** A stage in pieces of a few seconds, oldest first. What has been made of the complete ones is not made again. */
export class Slices<Slice> {
  readonly #complete: Slice[] = [];
  readonly #folds = new Map<string, Fold>();
  /** Complete slices that are no longer known, only what was made of them. */
  readonly #forgotten: number;
  #current: Slice | undefined;

  constructor(slices: readonly Slice[] = [], before: SlicesState = { complete: 0, folds: {} }) {
    this.#forgotten = before.complete;
    for (const [name, value] of Object.entries(before.folds)) this.#folds.set(name, { done: before.complete, value });
    for (const slice of slices) this.append(slice);
  }

  append(slice: Slice): void {
    this.#complete.push(slice);
    this.#current = undefined;
  }

  /** The slice that is not over yet. */
  set current(slice: Slice | undefined) {
    this.#current = slice;
  }

  get complete(): number {
    return this.#forgotten + this.#complete.length;
  }

  /**
   * Folds all slices, the current one at last.
   *
   * @param name unique for what `step` does
   * @param step pure; is given the number of the slice in the stage, from 0
   */
  fold(name: string, start: readonly number[], step: Step<Slice>): readonly number[] {
    const known = this.#folds.get(name) ?? { done: this.#forgotten, value: start };
    let { value } = known;
    for (let number = known.done; number < this.complete; number++) {
      const slice = this.#complete[number - this.#forgotten];
      if (slice !== undefined) value = step(value, slice, number);
    }
    this.#folds.set(name, { done: this.complete, value });
    return this.#current === undefined ? value : step(value, this.#current, this.complete);
  }

  state(): SlicesState {
    const folds = [...this.#folds].filter(([, { done }]) => done === this.complete);
    return { complete: this.complete, folds: Object.fromEntries(folds.map(([name, { value }]) => [name, value])) };
  }
}
