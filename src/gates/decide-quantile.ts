import { formatDuration, parseDuration } from '../plan/duration.js';
import type { Gate } from '../plan/schema.js';
import { baselineOf } from './baseline.js';
import { neededSample } from './binomial.js';
import { endpointsOnGreen, windowOf } from './endpoints.js';
import { isSound } from './flaw.js';
import { bucketOfRank, slowerThan } from './histogram.js';
import { worstOutcome } from './outcome.js';
import { highestRank, lowestRank } from './quantile-rank.js';
import { count, inconclusive, judgeShare, type Burst, type ShareVerdict } from './share.js';
import type { GateWindow } from './window.js';

export type QuantileGate = Extract<Gate, { metric: 'p50' | 'p95' | 'p99' }>;

export const QUANTILES = { p50: 0.5, p95: 0.95, p99: 0.99 } as const;

/** Answers `p50`, `p95` and `p99`. */
export function decideQuantile(gate: QuantileGate, window: GateWindow, slices: readonly GateWindow[]): ShareVerdict {
  const all = decideOne(gate, { window, slices });
  return all.outcome === 'fail' ? all : (slowEndpoint(gate, window, slices) ?? all);
}

/** All requests together decide about passing. Any single endpoint may fail it: a small one would drown in the sum. */
function slowEndpoint(gate: QuantileGate, window: GateWindow, slices: readonly GateWindow[]): ShareVerdict | undefined {
  const endpoints = endpointsOnGreen(window).filter(([, of]) => isSound(of.green) && isSound(of.blue));
  // Of the only endpoint that there is, all has been said.
  if (endpoints.length < 2) return undefined;
  for (const [endpoint] of endpoints) {
    const verdict = decideOne(gate, {
      window: windowOf(window, endpoint),
      slices: slices.map((slice) => windowOf(slice, endpoint)),
      endpoint,
      among: endpoints.length,
    });
    if (verdict.outcome === 'fail') return verdict;
  }
  return undefined;
}

/** What a quantile is asked of: all reads, or those of one endpoint of several. */
interface Asked {
  readonly window: GateWindow;
  readonly slices: readonly GateWindow[];
  readonly endpoint?: string;
  readonly among?: number;
}

function decideOne(gate: QuantileGate, asked: Asked): ShareVerdict {
  const verdicts = [
    ...(gate.max === undefined ? [] : [decideLimit(gate, parseDuration(gate.max), asked)]),
    ...(gate.maxIncrease === undefined ? [] : [decideIncrease(gate, parseDuration(gate.maxIncrease), asked)]),
  ];
  const outcome = worstOutcome(verdicts);
  return verdicts.find((verdict) => verdict.outcome === outcome) ?? inconclusive('the gate sets no limit');
}

function ofEndpoint({ endpoint }: Asked): string {
  return endpoint === undefined ? '' : ` of the endpoint ${endpoint}`;
}

/** "p99 is at most T" is "at most 1 % of the requests take longer than T", and that is a share. */
function decideLimit(gate: QuantileGate, limitMs: number, asked: Asked): ShareVerdict {
  const { window, slices, among = 1 } = asked;
  const { green } = window;
  const { reads } = baselineOf(window, neededSample(0, slowShare(gate)));
  return judgeShare({
    share: slowShare(gate),
    green: { ...slowerThan(limitMs, green.latency), of: green.requests },
    blue: { hits: slowerThan(limitMs, reads.latency).possibly, of: reads.requests },
    what: `reads on green${ofEndpoint(asked)} slower than ${formatDuration(limitMs)}`,
    bursts: () => burstsOf(limitMs, slices),
    among,
  });
}

/**
 * The same with T = blue's quantile + the increase. Blue's quantile is a range, from the sample and from the buckets:
 * its lower end decides about passing and its upper end about failing, so that blue's noise does neither.
 */
function decideIncrease(gate: QuantileGate, increaseMs: number, asked: Asked): ShareVerdict {
  const { window, slices, among = 1 } = asked;
  const quantile = QUANTILES[gate.metric];
  const needed = neededSample(0, slowShare(gate));
  const { reads, when } = baselineOf(window, needed);
  if (reads.requests < needed) {
    return inconclusive(
      `blue has had ${count(reads.requests)} reads, too few to know its ${gate.metric}: ${count(needed)} are needed`,
    );
  }
  const low = bucketOfRank(lowestRank(quantile, reads.requests), reads.latency).from;
  const high = bucketOfRank(highestRank(quantile, reads.requests), reads.latency).to;
  return judgeShare({
    share: slowShare(gate),
    green: {
      possibly: slowerThan(low + increaseMs, window.green.latency).possibly,
      surely: high === Infinity ? 0 : slowerThan(high + increaseMs, window.green.latency).surely,
      of: window.green.requests,
    },
    what: `reads on green${ofEndpoint(asked)} more than ${formatDuration(increaseMs)} slower than blue's ${gate.metric} (${low}-${high} ms ${when})`,
    bursts: () => burstsOf(high + increaseMs, slices),
    among,
  });
}

function burstsOf(limitMs: number, slices: readonly GateWindow[]): Burst[] {
  return slices.map(({ green }) => ({
    surely: limitMs === Infinity ? 0 : slowerThan(limitMs, green.latency).surely,
    of: green.requests,
  }));
}

function slowShare(gate: QuantileGate): number {
  return { p50: 0.5, p95: 0.05, p99: 0.01 }[gate.metric];
}
