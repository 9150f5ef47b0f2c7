import { Chance } from './chance.js';
import { EMPTY_SIDE, plus, type Counts } from './counts.js';
import { Markers } from './lag.js';
import { latencies } from './latency.js';
import { Noise, type Trouble } from './noise.js';

/** The kinds of green that are simulated. `healthy` has noise; the others have it too, and are bad in one way. */
export const GREENS = ['healthy', 'broken', 'slow', 'lagging', 'wrong'] as const;
export type Green = (typeof GREENS)[number];

export const ABOUT: Readonly<Record<Green, string>> = {
  healthy: 'as good as blue, with noise',
  broken: '0.5 % of its reads fail',
  slow: '200 ms slower',
  lagging: '5 s behind blue',
  wrong: 'wrong rows for one endpoint of ten',
};

/** So long is one step of the simulation. */
export const TICK_SECONDS = 5;

/** Durations are simulated for each side as a whole, errors for each endpoint. */
export interface RequestCount {
  readonly requests: number;
  readonly errors: number;
}

export type EndpointCounts = Readonly<Record<'blue' | 'green', RequestCount>>;

/** What happened within one tick. */
export interface Tick {
  readonly green: Counts;
  readonly blue: Counts;
  readonly endpoints: Readonly<Record<string, EndpointCounts>>;
  readonly mirrored: { readonly compared: number; readonly different: number };
  /** The lags of the markers that arrived, oldest first. */
  readonly lagMs: readonly number[];
  /** Reads of users that the fault has touched. */
  readonly harmed: number;
}

/** Errors that both sides have on any day. */
const ORDINARY_ERRORS = 0.0002;
/** Share of blue's reads that routers mirror. */
const MIRRORED = 0.01;
/** Mirrored reads of a healthy green that differ three times in a row: rows that change all the time. */
const ORDINARY_DIFFERENCES = 0.00002;
/** Parts of the reads, the busiest endpoint first. */
const ENDPOINTS = [0.3, 0.2, 0.1, 0.1, 0.1, 0.08, 0.05, 0.04, 0.02, 0.01] as const;

/** The series of one stage of a run: what all rules see. */
export class Series {
  readonly #noise: Noise;
  readonly #markers: Markers;

  constructor(
    private readonly chance: Chance,
    private readonly green: Green,
    private readonly readsPerSecond: number,
    private readonly percent: number,
  ) {
    this.#noise = new Noise(chance, TICK_SECONDS, ENDPOINTS.length);
    this.#markers = new Markers(chance, green === 'lagging' ? 5_000 : 0);
  }

  next(): Tick {
    const { chance, green: kind, percent } = this;
    const { load, ...trouble } = this.#noise.next();
    const reads = this.readsPerSecond * TICK_SECONDS * load;
    const green = side(chance, chance.poisson((reads * percent) / 100), trouble.green, {
      errorShare: kind === 'broken' ? 0.005 : ORDINARY_ERRORS,
      addedMs: kind === 'slow' ? 200 : 0,
    });
    const blue = side(chance, chance.poisson((reads * (100 - percent)) / 100), trouble.blue, {
      ...{ errorShare: ORDINARY_ERRORS, addedMs: 0 },
    });
    const compared = chance.binomial(blue.requests, MIRRORED);
    const different = chance.binomial(compared, kind === 'wrong' ? 0.1 : ORDINARY_DIFFERENCES);
    return {
      ...{ green, blue, endpoints: endpointsOf(chance, { blue, green }, trouble) },
      mirrored: { compared, different },
      lagMs: this.#markers.next(TICK_SECONDS),
      harmed: harmed(kind, green),
    };
  }
}

/** What routers have counted on blue before the first stage: a quarter of an hour. */
export function blueBefore(readsPerSecond: number): Counts {
  const series = new Series(new Chance(1), 'healthy', readsPerSecond, 0);
  const ticks = Array.from({ length: 180 }, () => series.next().blue);
  return ticks.reduce(plus, EMPTY_SIDE);
}

function side(
  chance: Chance,
  requests: number,
  trouble: Trouble,
  own: { readonly errorShare: number; readonly addedMs: number },
): Counts {
  const { stalledShare, latencyFactor: factor } = trouble;
  return {
    requests,
    errors: chance.binomial(requests, own.errorShare + trouble.errorShare),
    latency: latencies(chance, requests, { addedMs: own.addedMs, stalledShare, factor }),
  };
}

type Sides<T> = Readonly<Record<'blue' | 'green', T>>;

function endpointsOf(
  chance: Chance,
  sides: Sides<Counts>,
  trouble: Sides<Trouble>,
): Readonly<Record<string, EndpointCounts>> {
  const blue = spread(chance, sides.blue, trouble.blue);
  const green = spread(chance, sides.green, trouble.green);
  const none: RequestCount = { requests: 0, errors: 0 };
  return Object.fromEntries(
    ENDPOINTS.map((_, number) => [`/${number}`, { blue: blue[number] ?? none, green: green[number] ?? none }]),
  );
}

/** A side's requests and errors by endpoint. */
function spread(chance: Chance, { requests, errors }: Counts, { endpoint }: Trouble): RequestCount[] {
  let [left, part] = [requests, 1];
  const by = ENDPOINTS.map((share) => {
    const own = chance.binomial(left, Math.min(1, share / part));
    left -= own;
    part = Math.max(1e-9, part - share);
    return { requests: own, errors: 0 };
  });
  for (let error = 0; error < errors; error++) {
    const first = endpoint ?? drawn(chance);
    // One that has no request left to fail passes it on.
    for (let step = 0; step < by.length; step++) {
      const one = by[(first + step) % by.length];
      if (one === undefined || one.errors >= one.requests) continue;
      one.errors += 1;
      break;
    }
  }
  return by;
}

function drawn(chance: Chance): number {
  let at = chance.next();
  return Math.max(
    0,
    ENDPOINTS.findIndex((share) => (at -= share) < 0),
  );
}

function harmed(kind: Green, { requests, errors }: Counts): number {
  switch (kind) {
    case 'healthy':
      return 0;
    case 'broken':
      return errors;
    case 'wrong':
      return requests / 10;
    // A read that green is too far behind for is answered by blue: late, not wrong.
    case 'slow':
    case 'lagging':
      return requests;
  }
}
