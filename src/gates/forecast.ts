import { formatDuration, parseDuration } from '../plan/duration.js';
import type { Gate, Plan } from '../plan/schema.js';
import { neededSample } from './binomial.js';
import { LEAST_VOLUME } from './decide-postgres.js';
import { isRequestGate, type RequestGate } from './decide-requests.js';
import { gateLabel } from './gate-label.js';
import type { PrometheusGate } from './prometheus-measurement.js';
import { count } from './share.js';
import type { GateWindow } from './window.js';

/** What is known of the traffic before the first stage. */
export interface TrafficNow {
  /** Routers that report. */
  readonly routers: number;
  /** What they have counted over a few seconds; left out when nothing was counted. */
  readonly window?: GateWindow;
  /** Requests a second that gates count by Prometheus, of both sides; a gate is left out where that is not known. */
  readonly prometheus?: ReadonlyMap<Gate, number>;
  /** Transactions a second of both sides; left out when they were not counted. */
  readonly transactions?: number;
}

/** A gate on a share of requests. */
type ShareGate = RequestGate | PrometheusGate;

/** What the gates of a plan can't decide with the traffic of now, a line each with the numbers; empty when they can. */
export function forecastGates(plan: Plan, now: TrafficNow): string[] {
  return [...ofRouters(plan, now), ...ofPrometheus(plan, now), ...ofServers(plan, now), ...ofAnswers(plan, now)];
}

/** Whatever has failed or was late is counted; a view, a function or an index that gives wrong rows answers in time. */
function ofAnswers({ traffic }: Plan, { routers, window }: TrafficNow): string[] {
  const counts = counting(traffic.gates);
  const isCompared = counts.some(({ metric }) => metric === 'mismatchRate');
  const isByRouters = routers > 0 || traffic.gates.some(isRequestGate);
  if (isCompared || !isByRouters || traffic.stages.every(({ percent }) => percent === 0)) return [];
  const mirrors = (window?.mirrored.compared ?? 0) > 0;
  const rows = counts.some(({ metric }) => metric === 'rowDifferences') ? ' (rowDifferences compares tables)' : '';
  return [
    `no gate compares what green answers with what blue does${rows}: wrong rows of a view or a function would pass every stage; ` +
      `${mirrors ? 'the routers mirror reads already: ' : 'set the option "mirror" of the routers, and '}add the gate { "metric": "mismatchRate", "max": 0.001 }`,
  ];
}

/** Gates that hold a stage: one that is a dry run does not. */
function counting<T extends Gate>(gates: readonly T[]): T[] {
  return gates.filter(({ dryRun }) => dryRun !== true);
}

function ofRouters(plan: Plan, now: TrafficNow): string[] {
  const gates = counting(plan.traffic.gates.filter(isRequestGate));
  if (gates.length === 0 || plan.traffic.stages.every(({ percent }) => percent === 0)) return [];
  const names = gates.map(gateLabel).join(', ');
  if (now.routers === 0) {
    return [
      `no router reports: ${names} can't decide, and the first stage will hold after ${plan.traffic.maxStageDuration}; start the application with its routers`,
    ];
  }
  if (now.window === undefined) return [];
  const { window } = now;
  const readsPerSecond = (window.blue.requests + window.green.requests) / window.seconds;
  if (readsPerSecond === 0)
    return [`the routers have had no read within ${Math.round(window.seconds)} s: ${names} can't decide`];
  return gates.flatMap((gate) => {
    const mirrored = window.mirrored.compared;
    if (gate.metric === 'mismatchRate') {
      if (mirrored > 0) return tooFew(plan, gate, mirrored / window.seconds, () => 1, 'mirrored reads');
      return [`no router mirrors reads: ${gateLabel(gate)} can't decide; set the option "mirror" of the routers`];
    }
    return tooFew(plan, gate, readsOf(gate, window), (percent) => percent / 100, 'reads');
  });
}

function ofPrometheus(plan: Plan, { prometheus }: TrafficNow): string[] {
  return counting(plan.traffic.gates).flatMap((gate) => {
    const perSecond = prometheus?.get(gate);
    if (gate.metric !== 'prometheus' || perSecond === undefined) return [];
    return tooFew(plan, gate, perSecond, (percent) => percent / 100, 'requests');
  });
}

function ofServers(plan: Plan, { transactions }: TrafficNow): string[] {
  if (transactions === undefined || transactions >= LEAST_VOLUME) return [];
  if (plan.traffic.stages.length === 0 || !counting(plan.traffic.gates).some(isVolumeGate)) return [];
  return [
    `both sides have ${transactions.toFixed(1)} transactions a second: transactionVolume needs ${LEAST_VOLUME} before the first stage to miss any, and can't decide; the first stage will hold after ${plan.traffic.maxStageDuration}`,
  ];
}

/** Whether a gate compares with the transactions of before. */
export function isVolumeGate(gate: Gate): boolean {
  return gate.metric === 'transactionVolume';
}

/** The fewest requests with which a gate can pass. */
export function neededRequests(gate: ShareGate): number {
  return Math.max(neededSample(0, shareOf(gate)), gate.minRequests ?? 0);
}

function tooFew(
  plan: Plan,
  gate: ShareGate,
  perSecond: number,
  partOf: (percent: number) => number,
  what: string,
): string[] {
  const needed = neededRequests(gate);
  return plan.traffic.stages.flatMap((stage) => {
    const rate = perSecond * partOf(stage.percent);
    const seconds = parseDuration(stage.for) / 1_000;
    const expected = Math.floor(rate * seconds);
    if (stage.percent === 0 || expected >= needed) return [];
    const lasts = rate === 0 ? Infinity : needed / rate;
    const limit = seconds + parseDuration(plan.traffic.maxStageDuration) / 1_000;
    const outcome =
      lasts > limit
        ? `it can't pass before maxStageDuration (${plan.traffic.maxStageDuration}) and holds the run then`
        : `it lasts about ${formatDuration(lasts * 1_000)} instead`;
    const remedy = gate.minRequests !== undefined ? 'or ask for fewer requests' : `or raise its limit`;
    return [
      `stage ${stage.percent} % for ${stage.for} at ${rounded(perSecond)} ${what} a second gives ${count(expected)} on green; ` +
        `${describe(gate)} needs ${count(needed)}: ${outcome}; make the stage longer or larger, ${remedy}`,
    ];
  });
}

function readsOf(gate: RequestGate, window: GateWindow): number {
  if (gate.metric !== 'errorRate' || gate.endpoint === undefined) {
    return (window.blue.requests + window.green.requests) / window.seconds;
  }
  const counters = window.endpoints[gate.endpoint];
  return counters === undefined ? 0 : (counters.blue.requests + counters.green.requests) / window.seconds;
}

function shareOf(gate: ShareGate): number {
  switch (gate.metric) {
    case 'p50':
      return 0.5;
    case 'p95':
      return 0.05;
    case 'p99':
      return 0.01;
    case 'errorRate':
    case 'fallbackRate':
    case 'mismatchRate':
      return gate.max;
    case 'prometheus':
      return gate.max ?? 0;
  }
}

function describe(gate: Gate): string {
  return 'max' in gate && gate.max !== undefined ? `${gateLabel(gate)} max ${gate.max}` : gateLabel(gate);
}

function rounded(perSecond: number): string {
  return perSecond >= 10 ? count(Math.round(perSecond)) : String(Number(perSecond.toPrecision(2)));
}
