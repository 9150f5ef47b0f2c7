import { parseDuration } from '../plan/duration.js';
import type { Gate } from '../plan/schema.js';
import { baselineOf } from './baseline.js';
import { neededSample } from './binomial.js';
import { decideLag } from './decide-lag.js';
import { decideQuantile, QUANTILES } from './decide-quantile.js';
import { flawOf } from './flaw.js';
import { quantileMs } from './histogram.js';
import type { GateOutcome } from './outcome.js';
import { count, inconclusive, judgeShare, type ShareVerdict } from './share.js';
import type { GateWindow, SideWindow } from './window.js';

export { worstOutcome, type GateOutcome } from './outcome.js';

/*
 * The decision rules of docs/gates.md. Pure: no clock, no network, so that workflow code may use them too.
 */

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

/** Reads of green's cohort. One that failed on green is among green's requests and among the fallbacks. */
function greenReads({ green, fallbacks }: GateWindow): number {
  return green.requests + fallbacks.behind + Math.max(0, fallbacks.error - green.errors);
}

/** Too small a sample decides nothing, except that a failure that is already certain need not wait for more of it. */
function withMinimum(minimum: number | undefined, requests: number, verdict: ShareVerdict): ShareVerdict {
  if (minimum === undefined || requests >= minimum || verdict.outcome === 'fail') return verdict;
  return inconclusive(
    `${count(requests)} of the ${count(minimum)} requests that the plan asks for; ${verdict.because}`,
  );
}

function measured(gate: Gate, side: SideWindow): Measured {
  const { requests, errors } = side;
  if (gate.metric === 'p50' || gate.metric === 'p95' || gate.metric === 'p99') {
    const ms = quantileMs(QUANTILES[gate.metric], side.latency);
    if (ms !== undefined) return { requests, errors, quantileMs: Math.round(ms * 100) / 100 };
  }
  return { requests, errors };
}
