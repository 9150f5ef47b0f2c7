import type { Gate } from '../plan/schema.js';
import type { MirroredCounts } from '../router/metrics-snapshot.js';
import { baselineOf } from './baseline.js';
import { neededSample } from './binomial.js';
import { decideQuantile } from './decide-quantile.js';
import { endpointsOnGreen } from './endpoints.js';
import { flawOf, unseenOf } from './flaw.js';
import { FALSE_ALARM, type Piece, type Pieces } from './persistent-evidence.js';
import { surelyAbove } from './sequential.js';
import {
  count,
  HITS_TO_FAIL,
  inconclusive,
  judgeShare,
  listed,
  type ShareQuestion,
  type ShareVerdict,
} from './share.js';
import type { Slices } from './slices.js';
import type { GateWindow } from './window.js';

export type RequestGate = Extract<
  Gate,
  { metric: 'errorRate' | 'p50' | 'p95' | 'p99' | 'fallbackRate' | 'mismatchRate' }
>;

/** Whether a gate is answered by what the routers have counted. */
export function isRequestGate(gate: Gate): gate is RequestGate {
  return ['errorRate', 'p50', 'p95', 'p99', 'fallbackRate', 'mismatchRate'].includes(gate.metric);
}

/** What the routers have counted since the stage opened, as a whole and in pieces of a few seconds. */
export interface CountedRequests {
  readonly window: GateWindow;
  /** undefined where only the whole is known. */
  readonly slices?: Slices<GateWindow> | undefined;
  /** Why they are no evidence of now: see holdOf. */
  readonly hold?: string | undefined;
}

/** Answers the gates on requests. */
export function decideRequests(gate: RequestGate, counted: CountedRequests): ShareVerdict {
  const flaw = flawOf(counted.window);
  if (flaw !== undefined) return inconclusive(flaw);
  return naming(counted.window.staleInstances, decideSound(gate, counted));
}

function decideSound(gate: RequestGate, { window, slices, hold }: CountedRequests): ShareVerdict {
  const verdict = withMinimum(gate.minRequests, sampleOf(gate, window), decide(gate, window, slices));
  if (verdict.outcome !== 'pass') return verdict;
  const unseen = unseenOf(window);
  if (unseen !== undefined) return { outcome: 'error', because: unseen };
  return hold === undefined ? verdict : inconclusive(hold);
}

/** Adds who has ended, or was cut off, since the stage opened. */
function naming(silent: readonly string[], verdict: ShareVerdict): ShareVerdict {
  if (silent.length === 0) return verdict;
  return {
    outcome: verdict.outcome,
    get because() {
      return `${verdict.because}; no longer reporting: ${listed(silent)}`;
    },
  };
}

function decide(gate: RequestGate, window: GateWindow, slices: Slices<GateWindow> | undefined): ShareVerdict {
  switch (gate.metric) {
    case 'errorRate':
      return gate.endpoint === undefined
        ? decideErrorRate(gate.max, window, slices)
        : decideEndpoint(gate.endpoint, gate.max, window, slices);
    case 'fallbackRate':
      return decideFallbackRate(gate.max, window, slices);
    case 'mismatchRate':
      return decideMismatchRate(gate.max, window, slices);
    case 'p50':
    case 'p95':
    case 'p99':
      return decideQuantile(gate, window, slices);
  }
}

/** The requests that a gate's answer rests on. */
function sampleOf(gate: RequestGate, window: GateWindow): number {
  switch (gate.metric) {
    case 'fallbackRate':
      return greenReads(window);
    case 'mismatchRate':
      return window.mirrored.compared;
    case 'errorRate':
      return gate.endpoint === undefined
        ? window.green.requests
        : (window.endpoints[gate.endpoint]?.green.requests ?? 0);
    case 'p50':
    case 'p95':
    case 'p99':
      return window.green.requests;
  }
}

/** All requests together decide about passing. Any single endpoint may fail it: a small one would drown in the sum. */
function decideErrorRate(max: number, window: GateWindow, slices: Slices<GateWindow> | undefined): ShareVerdict {
  const { green } = window;
  const { reads, isBeside } = baselineOf(window, neededSample(0, max));
  // One half of the allowed chance of a false alarm is spent on the sum, the other on the endpoints.
  const falseAlarm = FALSE_ALARM / 2;
  const all = judgeShare({
    share: max,
    green: { surely: green.errors, possibly: green.errors, of: green.requests },
    blue: { hits: reads.errors, of: reads.requests, isBeside },
    what: 'failed reads on green',
    falseAlarm,
    ...piecesOf('errors', slices, (slice) => ({
      surely: slice.green.errors,
      of: slice.green.requests,
      blueHits: slice.blue.errors,
      blueOf: slice.blue.requests,
    })),
  });
  if (all.outcome === 'fail') return all;
  const endpoints = endpointsOnGreen(window);
  for (const [endpoint, counters] of endpoints) {
    if (counters.green.errors === 0) continue;
    const one = decideEndpoint(endpoint, max, window, slices, falseAlarm / endpoints.length);
    if (one.outcome === 'fail') return one;
  }
  return all;
}

function decideEndpoint(
  endpoint: string,
  max: number,
  { endpoints }: GateWindow,
  slices: Slices<GateWindow> | undefined,
  falseAlarm = FALSE_ALARM,
): ShareVerdict {
  const counters = endpoints[endpoint];
  if (counters === undefined) return inconclusive(`no router has counted a request of the endpoint ${endpoint}`);
  const { green } = counters;
  const { reads: blue, isBeside } = baselineOf(counters, neededSample(0, max));
  if (green.errors > green.requests || blue.errors > blue.requests) {
    return inconclusive(`the counts of the endpoint ${endpoint} contradict each other`);
  }
  return judgeShare({
    share: max,
    green: { surely: green.errors, possibly: green.errors, of: green.requests },
    blue: { hits: blue.errors, of: blue.requests, isBeside },
    what: `failed reads on green of the endpoint ${endpoint}`,
    falseAlarm,
    ...(slices === undefined ? {} : { pieces: piecesOfEndpoint(endpoint, slices) }),
  });
}

function decideFallbackRate(max: number, window: GateWindow, slices: Slices<GateWindow> | undefined): ShareVerdict {
  const fallbacks = fallbacksOf(window);
  return judgeShare({
    share: max,
    green: { surely: fallbacks, possibly: fallbacks, of: greenReads(window) },
    what: "reads of green's users that blue had to answer",
    ...(slices === undefined
      ? {}
      : {
          pieces: {
            ...{ slices, name: 'fallbacks', noOutage: true },
            count: (slice: GateWindow) => onGreen(fallbacksOf(slice), greenReads(slice)),
          },
        }),
  });
}

/**
 * All mirrored reads together decide about passing. Any single endpoint may fail it, and keeps it from passing while its
 * counts show too many, for as long as they come from too few moments to fail: a small one would drown in the sum.
 */
function decideMismatchRate(max: number, window: GateWindow, slices: Slices<GateWindow> | undefined): ShareVerdict {
  const falseAlarm = FALSE_ALARM / 2;
  const all = judgeMismatches(max, window.mirrored, {
    what: MISMATCHES,
    falseAlarm,
    ...piecesOf('mismatches', slices, ({ mirrored }) => onGreen(mirrored.different, mirrored.compared)),
  });
  if (all.outcome === 'fail') return all;
  const endpoints = Object.entries(window.mirrored.endpoints ?? {}).filter(([, { compared }]) => compared > 0);
  let held: ShareVerdict | undefined;
  for (const [endpoint, counts] of endpoints) {
    const { different, compared } = counts;
    if (different === 0 || different > compared) continue;
    const one = judgeMismatches(max, counts, {
      what: `${MISMATCHES}, of the endpoint ${endpoint}`,
      falseAlarm: falseAlarm / endpoints.length,
      ...(slices === undefined ? {} : { pieces: mismatchesOfEndpoint(endpoint, slices) }),
    });
    if (one.outcome === 'fail') return one;
    if (different >= HITS_TO_FAIL && surelyAbove(max, different, compared)) held ??= one;
  }
  return all.outcome === 'pass' && held !== undefined ? held : all;
}

const MISMATCHES = 'mirrored reads that green answers otherwise than blue';

function judgeMismatches(
  max: number,
  { different, compared }: MirroredCounts,
  more: Pick<ShareQuestion<GateWindow>, 'what' | 'falseAlarm' | 'pieces'>,
): ShareVerdict {
  return judgeShare({ share: max, green: { surely: different, possibly: different, of: compared }, ...more });
}

function mismatchesOfEndpoint(endpoint: string, slices: Slices<GateWindow>): Pieces<GateWindow> {
  return {
    ...{ slices, name: `mismatches of ${endpoint}`, noOutage: true },
    count: ({ mirrored }) => {
      const { different, compared } = mirrored.endpoints?.[endpoint] ?? { different: 0, compared: 0 };
      return onGreen(different, compared);
    },
  };
}

function piecesOf(
  name: string,
  slices: Slices<GateWindow> | undefined,
  count: (slice: GateWindow) => Piece,
): { pieces?: Pieces<GateWindow> } {
  return slices === undefined ? {} : { pieces: { slices, name, count } };
}

function piecesOfEndpoint(endpoint: string, slices: Slices<GateWindow>): Pieces<GateWindow> {
  return {
    ...{ slices, name: `errors of ${endpoint}`, noOutage: true },
    count: ({ endpoints }) => {
      const counted = endpoints[endpoint];
      return {
        surely: counted?.green.errors ?? 0,
        of: counted?.green.requests ?? 0,
        blueHits: counted?.blue.errors ?? 0,
        blueOf: counted?.blue.requests ?? 0,
      };
    },
  };
}

function onGreen(surely: number, of: number): Piece {
  return { surely, of, blueHits: 0, blueOf: 0 };
}

function fallbacksOf({ fallbacks }: GateWindow): number {
  return fallbacks.behind + fallbacks.error;
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
