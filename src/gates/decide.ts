import { parseDuration } from '../plan/duration.js';
import type { Gate } from '../plan/schema.js';
import { decideLag } from './decide-lag.js';
import { decidePostgres, isPostgresGate } from './decide-postgres.js';
import { decidePrometheus } from './decide-prometheus.js';
import { QUANTILES } from './decide-quantile.js';
import { decideRequests, isRequestGate } from './decide-requests.js';
import { gateLabel } from './gate-label.js';
import { quantileMs } from './histogram.js';
import type { GateOutcome } from './outcome.js';
import type { PostgresSeries } from './postgres-series.js';
import type { PrometheusSeries } from './prometheus-measurement.js';
import { inconclusive, type ShareVerdict } from './share.js';
import type { Slices } from './slices.js';
import type { GateWindow, SideWindow } from './window.js';

export { worstOutcome, type GateOutcome } from './outcome.js';

/*
 * The decision rules of docs/gates.md. Pure: no clock, no network.
 */

/** A gate's answer and what it rests on; the caller adds where and when. */
export interface GateDecision {
  /** The gate, as people know it: see gateLabel. */
  readonly metric: string;
  readonly outcome: GateOutcome;
  /** One sentence with the numbers. */
  readonly because: string;
  readonly windowSeconds: number;
  readonly green: Measured;
  readonly blue: Measured;
  /** What Prometheus was asked. */
  readonly query?: string;
}

export interface Measured {
  readonly requests: number;
  readonly errors: number;
  readonly quantileMs?: number;
}

/**
 * Where the numbers of several gates come from. One that can't be asked is an error of its own gates, and of no others.
 * Each `prometheus` gate is a source of its own.
 */
export type GateSource = 'routers' | 'lag' | 'postgres';

export interface GateInput {
  readonly window: GateWindow;
  /** The window in pieces of a few seconds. */
  readonly slices?: Slices<GateWindow>;
  /** Why what the routers have counted lets nothing pass: see holdOf. */
  readonly hold?: string | undefined;
  /** How far green was behind blue, in ms, oldest first; the last one is of now. */
  readonly lagMs: readonly number[];
  readonly postgres?: PostgresSeries;
  /** By the gate itself: two may have one name. */
  readonly prometheus?: ReadonlyMap<Gate, PrometheusSeries>;
  /** Sources that could not be asked now, and why. */
  readonly failures?: Partial<Readonly<Record<GateSource, string>>>;
}

/** Answers one gate. */
export function decideGate(gate: Gate, input: GateInput): GateDecision {
  const { window } = input;
  const failure = failureOf(gate, input);
  if (failure !== undefined) return failedMeasurement(gateLabel(gate), failure);
  const query = gate.metric === 'prometheus' ? input.prometheus?.get(gate)?.measured.at(-1)?.query : undefined;
  const verdict = verdictOf(gate, input);
  return {
    metric: gateLabel(gate),
    outcome: verdict.outcome,
    // Put into words only when it is read.
    get because() {
      return verdict.because;
    },
    windowSeconds: window.seconds,
    green: measured(gate, window, 'green'),
    blue: measured(gate, window, 'blue'),
    ...(query === undefined ? {} : { query }),
  };
}

function verdictOf(gate: Gate, input: GateInput): ShareVerdict {
  if (isRequestGate(gate)) return decideRequests(gate, input);
  if (isPostgresGate(gate)) {
    return input.postgres === undefined
      ? inconclusive('the servers have not been asked yet')
      : decidePostgres(gate, input.postgres);
  }
  switch (gate.metric) {
    case 'lag':
      return decideLag(parseDuration(gate.max), input.lagMs);
    case 'prometheus':
      return decidePrometheus(gate, input.prometheus?.get(gate) ?? { measured: [] });
    case 'rowDifferences':
      return inconclusive('blue and green are compared when the time of the stage is over');
  }
}

/** Why a gate's source could not be asked now. */
function failureOf(gate: Gate, { failures, prometheus }: GateInput): string | undefined {
  if (gate.metric === 'prometheus') return prometheus?.get(gate)?.failure;
  if (gate.metric === 'lag') return failures?.lag;
  return isRequestGate(gate) ? failures?.routers : failures?.postgres;
}

/** The answer of a gate whose measurement failed: it holds the stage and blames nobody. */
export function failedMeasurement(metric: string, reason: string): GateDecision {
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

function measured(gate: Gate, window: GateWindow, side: 'blue' | 'green'): Measured {
  const counts: SideWindow = window[side];
  if (gate.metric === 'errorRate' && gate.endpoint !== undefined) {
    return window.endpoints[gate.endpoint]?.[side] ?? { requests: 0, errors: 0 };
  }
  const { requests, errors } = counts;
  if (gate.metric === 'p50' || gate.metric === 'p95' || gate.metric === 'p99') {
    const ms = quantileMs(QUANTILES[gate.metric], counts.latency);
    if (ms !== undefined) return { requests, errors, quantileMs: Math.round(ms * 100) / 100 };
  }
  return { requests, errors };
}
