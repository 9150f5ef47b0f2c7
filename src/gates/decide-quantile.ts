import { formatDuration, parseDuration } from '../plan/duration.js';
import type { Gate } from '../plan/schema.js';
import { baselineOf } from './baseline.js';
import { neededSample } from './binomial.js';
import { endpointsOnGreen, windowOf } from './endpoints.js';
import { isSound } from './flaw.js';
import { slowerThan } from './histogram.js';
import { worstOutcome } from './outcome.js';
import { quantileRange } from './quantile-rank.js';
import { FALSE_ALARM, type Pieces } from './persistent-evidence.js';
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
  // One half of the allowed chance of a false alarm is spent on the sum, the other on the endpoints.
  const falseAlarm = FALSE_ALARM / 2;
  const all = decideOne(gate, { window, slices, falseAlarm });
  return all.outcome === 'fail' ? all : (slowEndpoint(gate, window, slices, falseAlarm) ?? all);
}

/**
 * All requests together decide about passing. Any single endpoint may fail it: a small one would drown in the sum. But one
 * that blue has never been asked for may be slow by nature, as an export that one tenant uses: it fails nothing by itself.
 */
function slowEndpoint(
  gate: QuantileGate,
  window: GateWindow,
  slices: Slices<GateWindow> | undefined,
  falseAlarm: number,
): ShareVerdict | undefined {
  const endpoints = endpointsOnGreen(window).filter(([, of]) => isSound(of.green) && isSound(of.blue));
  // Of the only endpoint that there is, all has been said.
  if (endpoints.length < 2) return undefined;
  for (const [endpoint, { blue, blueBefore }] of endpoints) {
    const verdict = decideOne(gate, {
      window: windowOf(window, endpoint),
      slices,
      endpoint,
      falseAlarm: falseAlarm / endpoints.length,
    });
    if (verdict.outcome === 'fail' && blue.requests + blueBefore.requests > 0) return verdict;
  }
  return undefined;
}

/** What a quantile is asked of: all reads, or those of one endpoint of several. */
interface Asked {
  readonly window: GateWindow;
  /** Of all reads. */
  readonly slices: Slices<GateWindow> | undefined;
  readonly endpoint?: string;
  readonly falseAlarm: number;
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
  const { window, falseAlarm } = asked;
  const { green } = window;
  const { reads, isBeside } = baselineOf(window, neededSample(0, slowShare(gate)));
  return judgeShare({
    share: slowShare(gate),
    green: { ...slowerThan(limitMs, green.latency), of: green.requests },
    blue: { hits: slowerThan(limitMs, reads.latency).possibly, of: reads.requests, isBeside },
    what: `reads on green${ofEndpoint(asked)} slower than ${formatDuration(limitMs)}`,
    falseAlarm,
    ...piecesOf(gate, limitMs, asked),
  });
}

/**
 * The same with T = blue's quantile + the increase. Blue's quantile is a range, from the sample and from the buckets:
 * its lower end decides about passing and its upper end about failing, so that blue's noise does neither.
 */
function decideIncrease(gate: QuantileGate, increaseMs: number, asked: Asked): ShareVerdict {
  const { window, falseAlarm } = asked;
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
    what: `reads on green${ofEndpoint(asked)} more than ${formatDuration(increaseMs)} slower than blue's ${gate.metric} (${low}-${high} ms ${when})`,
    falseAlarm,
    ...piecesOf(gate, high + increaseMs, asked),
  });
}

/** How many were slower in each slice: on green surely, on blue possibly. */
function piecesOf(gate: QuantileGate, limitMs: number, { slices, endpoint }: Asked): { pieces?: Pieces<GateWindow> } {
  if (slices === undefined) return {};
  return {
    pieces: {
      slices,
      name: `${gate.metric}${endpoint === undefined ? '' : ` of ${endpoint}`} slower than ${limitMs}`,
      // One endpoint is stopped by a single lock.
      noOutage: gate.metric === 'p50' || endpoint !== undefined,
      count: (slice) => {
        const { green, blue } = endpoint === undefined ? slice : windowOf(slice, endpoint);
        return {
          surely: limitMs === Infinity ? 0 : slowerThan(limitMs, green.latency).surely,
          of: green.requests,
          blueHits: slowerThan(limitMs, blue.latency).possibly,
          blueOf: blue.requests,
        };
      },
    },
  };
}

function slowShare(gate: QuantileGate): number {
  return { p50: 0.5, p95: 0.05, p99: 0.01 }[gate.metric];
}
