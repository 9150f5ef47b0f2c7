/** The undo of one step. Idempotent, and written down before the step begins: the step may have half-succeeded. */
export interface Compensation {
  /** For people: `drop replication`, `reads back to blue`. */
  readonly name: string;
  readonly undo: () => Promise<void>;
  /** What is said once it is done, where it has done something else than its name says. Default: the name. */
  readonly told?: () => string;
  /**
   * When this one fails, the ones below it must not run: they would take away what it still needs. Says why, for people;
   * null when it is not so.
   */
  readonly critical?: () => string | null;
}

export interface SagaResult {
  readonly undone: string[];
  /** `name: why`. */
  readonly notUndone: string[];
}

/** The compensations of the steps that have begun, run in reverse order. */
export class Saga {
  readonly #stack: Compensation[] = [];

  get isEmpty(): boolean {
    return this.#stack.length === 0;
  }

  /** Whether a compensation of this name waits to be run. */
  has(name: string): boolean {
    return this.#stack.some((one) => one.name === name);
  }

  /** Call before the step that it undoes. */
  push(compensation: Compensation): void {
    this.#stack.push(compensation);
  }

  /** Call before any step that concerns it: this one runs after all others, so that none waits for it. */
  pushLast(compensation: Compensation): void {
    this.#stack.unshift(compensation);
  }

  /** Runs everything, whatever fails in between; only a critical failure stops it. Told after each one. */
  async compensate(describe: (error: unknown) => string, onEach: (result: SagaResult) => void): Promise<SagaResult> {
    const result: SagaResult = { undone: [], notUndone: [] };
    for (let next = this.#stack.pop(); next !== undefined; next = this.#stack.pop()) {
      try {
        await next.undo();
        result.undone.push(next.told?.() ?? next.name);
      } catch (error) {
        result.notUndone.push(`${next.name}: ${describe(error)}`);
        const why = next.critical?.() ?? null;
        if (why !== null) {
          result.notUndone.push(...this.#stack.reverse().map((rest) => `${rest.name}: left as it is, since ${why}`));
          this.#stack.length = 0;
        }
      }
      onEach(result);
    }
    return result;
  }
}
