import type { Chance } from './chance.js';

/*
 * What troubles healthy servers: moments in which reads fail or take long, on one side alone or on both together, load
 * that rises and falls, and latency that drifts. Blue and green have the same law, each its own chance.
 */

/** What a side's reads meet within one tick. */
export interface Trouble {
  readonly errorShare: number;
  /** Share that takes up to a second. */
  readonly stalledShare: number;
  /** Times of its reads, to their usual ones. */
  readonly latencyFactor: number;
  /** All its errors of this moment are of this endpoint; undefined: of any. */
  readonly endpoint: number | undefined;
}

interface Burst {
  leftSeconds: number;
  readonly errorShare: number;
  readonly stalledShare: number;
  readonly endpoint: number | undefined;
}

interface BurstLaw {
  /** Mean time from one to the next. */
  readonly everySeconds: number;
  readonly seconds: readonly [number, number];
}

/** Of one side alone: a lost connection, a checkpoint, a vacuum. */
const OWN: BurstLaw = { everySeconds: 600, seconds: [1, 15] };
/** Of both: the network, the application's own pauses, a burst of load. */
const SHARED: BurstLaw = { everySeconds: 1_200, seconds: [5, 30] };
const ERRORS_IN_BURST = [0.002, 0.05] as const;
const STALLED_IN_BURST = [0.01, 0.2] as const;

/** The noise of one stage. */
export class Noise {
  readonly #bursts: Record<'blue' | 'green' | 'shared', Burst | undefined> = {
    ...{ blue: undefined, green: undefined, shared: undefined },
  };
  #load = 0;
  #drift = { shared: 0, blue: 0, green: 0 };
  readonly #phase: number;
  #seconds = 0;

  constructor(
    private readonly chance: Chance,
    private readonly tickSeconds: number,
    private readonly endpoints: number,
  ) {
    this.#phase = chance.next();
  }

  /** The next tick. */
  next(): { readonly load: number; readonly blue: Trouble; readonly green: Trouble } {
    const { chance } = this;
    this.#seconds += this.tickSeconds;
    this.#load = 0.95 * this.#load + 0.05 * chance.normal();
    const day = 1 + 0.4 * Math.sin(2 * Math.PI * (this.#phase + this.#seconds / 86_400));
    this.#drift.shared = 0.98 * this.#drift.shared + 0.03 * chance.normal();
    for (const side of ['blue', 'green'] as const) {
      this.#drift[side] = 0.98 * this.#drift[side] + 0.01 * chance.normal();
    }
    const shared = this.#burst('shared', SHARED);
    return {
      load: day * Math.exp(this.#load),
      blue: this.#trouble('blue', shared),
      green: this.#trouble('green', shared),
    };
  }

  #trouble(side: 'blue' | 'green', shared: Burst | undefined): Trouble {
    const own = this.#burst(side, OWN);
    return {
      errorShare: this.#partOf(own) * (own?.errorShare ?? 0) + this.#partOf(shared) * (shared?.errorShare ?? 0),
      stalledShare: this.#partOf(own) * (own?.stalledShare ?? 0) + this.#partOf(shared) * (shared?.stalledShare ?? 0),
      latencyFactor: Math.exp(this.#drift.shared + this.#drift[side]),
      endpoint: own === undefined ? shared?.endpoint : own.endpoint,
    };
  }

  #burst(of: 'blue' | 'green' | 'shared', { everySeconds, seconds: [shortest, longest] }: BurstLaw): Burst | undefined {
    const { chance } = this;
    const before = this.#bursts[of];
    if (before !== undefined) {
      before.leftSeconds -= this.tickSeconds;
      if (before.leftSeconds > 0) return before;
    }
    const begins = chance.next() < this.tickSeconds / everySeconds;
    const burst: Burst | undefined = begins
      ? {
          leftSeconds: shortest + chance.next() * (longest - shortest),
          errorShare: logUniform(chance, ERRORS_IN_BURST),
          stalledShare: logUniform(chance, STALLED_IN_BURST),
          endpoint: chance.next() < 0.5 ? Math.floor(chance.next() * this.endpoints) : undefined,
        }
      : undefined;
    this.#bursts[of] = burst;
    return burst;
  }

  #partOf(burst: Burst | undefined): number {
    return burst === undefined ? 0 : Math.min(1, burst.leftSeconds / this.tickSeconds);
  }
}

function logUniform(chance: Chance, [from, to]: readonly [number, number]): number {
  return from * (to / from) ** chance.next();
}
