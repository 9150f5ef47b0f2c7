import { formatDuration, parseDuration } from '../plan/duration.js';
import type { Gate } from '../plan/schema.js';
import { neededSample } from './binomial.js';
import { bucketOfRank, quantileMs, slowerThan } from './histogram.js';
import { flawOf } from './flaw.js';
import { highestRank, lowestRank } from './quantile-rank.js';
import { count, judgeShare, type ShareVerdict } from './share.js';
import type { GateWindow, SideWindow } from './window.js';

/*
 * The decision rules of docs/gates.md. Pure: no clock, no network, so that workflow code may use them too.
 */

export type GateOutcome = 'pass' | 'fail' | 'inconclusive' | 'error';

/** A gate's answer and what it rests on; the caller adds where and when. */
export interface GateDecision {
  readonly metric: Gate['metric'];
  readonly outcome: GateOutcome;
  /** One sentence with the numbers. */
  readonly because: string;
  readonly windowSeconds: number;
  readonly green: Measured;
  readonly blue: Measured;
}

export interface Measured {
  readonly requests: number;
  readonly errors: number;
  readonly quantileMs?: number;
}

export interface GateInput {
  readonly window: GateWindow;
  /** How far green was behind blue, in ms, oldest first; the last one is of now. */
  readonly lagMs: readonly number[];
}

/** So many lag measurements in a row above the limit fail the gate: one alone may be a checkpoint. */
const LAGS_TO_FAIL = 3;

/** Answers one gate. */
export function decideGate(gate: Gate, input: GateInput): GateDecision {
  const { window } = input;
  const answer = (verdict: ShareVerdict): GateDecision => ({
    metric: gate.metric,
    ...verdict,
    windowSeconds: window.seconds,
    green: measured(gate, window.green),
    blue: measured(gate, window.blue),
  });
  if (gate.metric === 'lag') return answer(decideLag(parseDuration(gate.max), input.lagMs));
  const flaw = flawOf(window);
  if (flaw !== undefined) return answer(inconclusive(flaw));
  switch (gate.metric) {
    case 'errorRate':
      return answer(withMinimum(gate.minRequests, window.green.requests, decideErrorRate(gate.max, window)));
    case 'fallbackRate':
      return answer(withMinimum(gate.minRequests, greenReads(window), decideFallbackRate(gate.max, window)));
    case 'p50':
    case 'p95':
    case 'p99':
      return answer(withMinimum(gate.minRequests, window.green.requests, decideQuantile(gate, window)));
  }
}

/** The answer of a gate whose measurement failed: it holds the stage and blames nobody. */
export function failedMeasurement(metric: Gate['metric'], reason: string): GateDecision {
  const nothing = { requests: 0, errors: 0 };
  return {
    metric,
    outcome: 'error',
    because: `the measurement failed: ${reason}`,
    windowSeconds: 0,
    green: nothing,
    blue: nothing,
  };
}

const SEVERITY: readonly GateOutcome[] = ['pass', 'inconclusive', 'error', 'fail'];

/** The outcome of all gates together is the worst of them; without a gate nothing has been shown. */
export function worstOutcome(decisions: readonly { readonly outcome: GateOutcome }[]): GateOutcome {
  if (decisions.length === 0) return 'inconclusive';
  const worst = Math.max(...decisions.map((decision) => SEVERITY.indexOf(decision.outcome)));
  return SEVERITY[worst] ?? 'error';
}

function decideErrorRate(max: number, window: GateWindow): ShareVerdict {
  const { green } = window;
  const { reads } = baselineOf(window, neededSample(0, max));
  return judgeShare({
    share: max,
    green: { surely: green.errors, possibly: green.errors, of: green.requests },
    blue: { hits: reads.errors, of: reads.requests },
    what: 'failed reads on green',
  });
}

function decideFallbackRate(max: number, window: GateWindow): ShareVerdict {
  const fallbacks = window.fallbacks.behind + window.fallbacks.error;
  return judgeShare({
    share: max,
    green: { surely: fallbacks, possibly: fallbacks, of: greenReads(window) },
    what: "reads of green's users that blue had to answer",
  });
}

/**
 * Blue's reads to compare with: those of the same window if they are enough, since what troubles both sides now is not
 * green's fault. A large stage leaves blue few or none: then those before the window count as well.
 */
function baselineOf(
  { blue, blueBefore }: GateWindow,
  enough: number,
): { readonly reads: SideWindow; readonly when: string } {
  if (blue.requests >= enough) return { reads: blue, when: 'in the same window' };
  return {
    reads: {
      requests: blue.requests + blueBefore.requests,
      errors: blue.errors + blueBefore.errors,
      latency: blue.latency.map((n, bucket) => n + (blueBefore.latency[bucket] ?? 0)),
    },
    when: 'since the routers started',
  };
}

/** Reads of green's cohort. One that failed on green is among green's requests and among the fallbacks. */
function greenReads({ green, fallbacks }: GateWindow): number {
  return green.requests + fallbacks.behind + Math.max(0, fallbacks.error - green.errors);
}

type QuantileGate = Extract<Gate, { metric: 'p50' | 'p95' | 'p99' }>;

const QUANTILES = { p50: 0.5, p95: 0.95, p99: 0.99 } as const;

function decideQuantile(gate: QuantileGate, window: GateWindow): ShareVerdict {
  const verdicts = [
    ...(gate.max === undefined ? [] : [decideLimit(gate, parseDuration(gate.max), window)]),
    ...(gate.maxIncrease === undefined ? [] : [decideIncrease(gate, parseDuration(gate.maxIncrease), window)]),
  ];
  const outcome = worstOutcome(verdicts);
  return verdicts.find((verdict) => verdict.outcome === outcome) ?? inconclusive('the gate sets no limit');
}

/** "p99 is at most T" is "at most 1 % of the requests take longer than T", and that is a share. */
function decideLimit(gate: QuantileGate, limitMs: number, window: GateWindow): ShareVerdict {
  const { green } = window;
  const { reads } = baselineOf(window, neededSample(0, slowShare(gate)));
  return judgeShare({
    share: slowShare(gate),
    green: { ...slowerThan(limitMs, green.latency), of: green.requests },
    blue: { hits: slowerThan(limitMs, reads.latency).possibly, of: reads.requests },
    what: `reads on green slower than ${formatDuration(limitMs)}`,
  });
}

/**
 * The same with T = blue's quantile + the increase. Blue's quantile is a range, from the sample and from the buckets:
 * its lower end decides about passing and its upper end about failing, so that blue's noise does neither.
 */
function decideIncrease(gate: QuantileGate, increaseMs: number, window: GateWindow): ShareVerdict {
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
    what: `reads on green more than ${formatDuration(increaseMs)} slower than blue's ${gate.metric} (${low}-${high} ms ${when})`,
  });
}

function slowShare(gate: QuantileGate): number {
  return { p50: 0.5, p95: 0.05, p99: 0.01 }[gate.metric];
}

function decideLag(maxMs: number, lagMs: readonly number[]): ShareVerdict {
  const now = lagMs.at(-1);
  const limit = formatDuration(maxMs);
  if (now === undefined) return inconclusive('the lag has not been measured');
  if (now === Infinity)
    return inconclusive('the marker has not arrived on green: replication stands still or green is away');
  if (!Number.isFinite(now) || now < 0) return inconclusive(`${now} is no measurement of the lag`);
  const lag = formatDuration(now);
  if (now <= maxMs) return { outcome: 'pass', because: `green is ${lag} behind blue; ${limit} is allowed` };
  const newest = lagMs.slice(-LAGS_TO_FAIL);
  if (newest.length === LAGS_TO_FAIL && newest.every((ms) => Number.isFinite(ms) && ms > maxMs)) {
    return {
      outcome: 'fail',
      because: `green is ${lag} behind blue, above ${limit} for ${LAGS_TO_FAIL} measurements in a row`,
    };
  }
  return inconclusive(
    `green is ${lag} behind blue, above ${limit}; it fails after ${LAGS_TO_FAIL} measurements in a row`,
  );
}

/** Too small a sample decides nothing, except that a failure that is already certain need not wait for more of it. */
function withMinimum(minimum: number | undefined, requests: number, verdict: ShareVerdict): ShareVerdict {
  if (minimum === undefined || requests >= minimum || verdict.outcome === 'fail') return verdict;
  return inconclusive(
    `${count(requests)} of the ${count(minimum)} requests that the plan asks for; ${verdict.because}`,
  );
}

function inconclusive(because: string): ShareVerdict {
  return { outcome: 'inconclusive', because };
}

function measured(gate: Gate, side: SideWindow): Measured {
  const { requests, errors } = side;
  if (gate.metric === 'p50' || gate.metric === 'p95' || gate.metric === 'p99') {
    const ms = quantileMs(QUANTILES[gate.metric], side.latency);
    if (ms !== undefined) return { requests, errors, quantileMs: Math.round(ms * 100) / 100 };
  }
  return { requests, errors };
}
