import { formatDuration, parseDuration } from '../plan/duration.js';
import type { Gate } from '../plan/schema.js';
import { baselineOf } from './baseline.js';
import { neededSample } from './binomial.js';
import { slowerThan } from './histogram.js';
import { worstOutcome } from './outcome.js';
import { quantileRange } from './quantile-rank.js';
import type { Pieces } from './persistent-evidence.js';
import { count, inconclusive, judgeShare, type ShareVerdict } from './share.js';
import type { Slices } from './slices.js';
import type { GateWindow } from './window.js';

export type QuantileGate = Extract<Gate, { metric: 'p50' | 'p95' | 'p99' }>;

export const QUANTILES = { p50: 0.5, p95: 0.95, p99: 0.99 } as const;

/** Answers `p50`, `p95` and `p99`. */
export function decideQuantile(
  gate: QuantileGate,
  window: GateWindow,
  slices: Slices<GateWindow> | undefined,
): ShareVerdict {
  const verdicts = [
    ...(gate.max === undefined ? [] : [decideLimit(gate, parseDuration(gate.max), window, slices)]),
    ...(gate.maxIncrease === undefined ? [] : [decideIncrease(gate, parseDuration(gate.maxIncrease), window, slices)]),
  ];
  const outcome = worstOutcome(verdicts);
  return verdicts.find((verdict) => verdict.outcome === outcome) ?? inconclusive('the gate sets no limit');
}

/** "p99 is at most T" is "at most 1 % of the requests take longer than T", and that is a share. */
function decideLimit(
  gate: QuantileGate,
  limitMs: number,
  window: GateWindow,
  slices: Slices<GateWindow> | undefined,
): ShareVerdict {
  const { green } = window;
  const { reads, isBeside } = baselineOf(window, neededSample(0, slowShare(gate)));
  return judgeShare({
    share: slowShare(gate),
    green: { ...slowerThan(limitMs, green.latency), of: green.requests },
    blue: { hits: slowerThan(limitMs, reads.latency).possibly, of: reads.requests, isBeside },
    what: `reads on green slower than ${formatDuration(limitMs)}`,
    ...piecesOf(gate, limitMs, slices),
  });
}

/**
 * The same with T = blue's quantile + the increase. Blue's quantile is a range, from the sample and from the buckets:
 * its lower end decides about passing and its upper end about failing, so that blue's noise does neither.
 */
function decideIncrease(
  gate: QuantileGate,
  increaseMs: number,
  window: GateWindow,
  slices: Slices<GateWindow> | undefined,
): ShareVerdict {
  const needed = neededSample(0, slowShare(gate));
  const { reads, when, isBeside } = baselineOf(window, needed);
  if (reads.requests < needed) {
    return inconclusive(
      `blue has had ${count(reads.requests)} reads, too few to know its ${gate.metric}: ${count(needed)} are needed`,
    );
  }
  const { from: low, to: high } = quantileRange(QUANTILES[gate.metric], reads.latency);
  return judgeShare({
    share: slowShare(gate),
    green: {
      possibly: slowerThan(low + increaseMs, window.green.latency).possibly,
      surely: high === Infinity ? 0 : slowerThan(high + increaseMs, window.green.latency).surely,
      of: window.green.requests,
    },
    blue: {
      hits: high === Infinity ? 0 : slowerThan(high + increaseMs, reads.latency).possibly,
      of: reads.requests,
      isBeside,
    },
    what: `reads on green more than ${formatDuration(increaseMs)} slower than blue's ${gate.metric} (${low}-${high} ms ${when})`,
    ...piecesOf(gate, high + increaseMs, slices),
  });
}

/** How many were slower in each slice: on green surely, on blue possibly. */
function piecesOf(
  gate: QuantileGate,
  limitMs: number,
  slices: Slices<GateWindow> | undefined,
): { pieces?: Pieces<GateWindow> } {
  if (slices === undefined) return {};
  return {
    pieces: {
      slices,
      name: `${gate.metric} slower than ${limitMs}`,
      noOutage: gate.metric === 'p50',
      count: ({ green, blue }) => ({
        surely: limitMs === Infinity ? 0 : slowerThan(limitMs, green.latency).surely,
        of: green.requests,
        blueHits: slowerThan(limitMs, blue.latency).possibly,
        blueOf: blue.requests,
      }),
    },
  };
}

function slowShare(gate: QuantileGate): number {
  return { p50: 0.5, p95: 0.05, p99: 0.01 }[gate.metric];
}
