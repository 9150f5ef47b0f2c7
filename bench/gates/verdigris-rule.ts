import { askedIn } from '../../src/gates/asked-in.js';
import { decideGate, worstOutcome, type GateInput } from '../../src/gates/decide.js';
import { Slices } from '../../src/gates/slices.js';
import type { EndpointWindow, GateWindow } from '../../src/gates/window.js';
import { parsePlan } from '../../src/plan/parse.js';
import type { Plan } from '../../src/plan/schema.js';
import { EMPTY_SIDE, type Counts } from './counts.js';
import { blueBefore, type EndpointCounts, type Tick } from './green.js';
import { LIMITS, type End, type Rule, type StageRule } from './rule.js';

/** `maxStageDuration` of a plan by default. */
const MOST_SECONDS = 4 * 3_600;

/** The real decision code, fed with counts. */
export const VERDIGRIS: Rule = { name: 'Verdigris', stage: (percent, rate) => new Stage(percent, rate) };

class Stage implements StageRule {
  readonly #window: Sum;
  readonly #slices = new Slices<GateWindow>();
  #lagMs: number[] = [];
  #passes = 0;

  constructor(
    private readonly percent: number,
    readsPerSecond: number,
  ) {
    this.#window = {
      ...EMPTY_WINDOW,
      ...{ blueBefore: before(readsPerSecond), blue: nothing(), green: nothing(), endpoints: {} },
      mirrored: { compared: 0, different: 0 },
    };
  }

  see(tick: Tick, seconds: number): End | undefined {
    const slice = windowOf(tick);
    this.#slices.append(slice);
    add(this.#window, slice, seconds);
    this.#lagMs = [...this.#lagMs, ...tick.lagMs].slice(-40);
    const input: GateInput = { window: this.#window, slices: this.#slices, lagMs: this.#lagMs };
    const decisions = askedIn(TRAFFIC.gates, { percent: this.percent, for: '15m' }).map((gate) =>
      decideGate(gate, input),
    );
    const outcome = worstOutcome(decisions);
    if (outcome === 'fail') return 'rolled back';
    if (seconds < LIMITS.stageSeconds) return undefined;
    this.#passes = outcome === 'pass' ? this.#passes + 1 : 0;
    if (this.#passes >= 2) return 'advanced';
    return seconds >= MOST_SECONDS ? 'held' : undefined;
  }
}

const blueReads = new Map<number, Counts>();

/** Blue's reads before a stage: the routers have been counting since the run began. */
function before(readsPerSecond: number): Counts {
  const counted = blueReads.get(readsPerSecond) ?? blueBefore(readsPerSecond);
  blueReads.set(readsPerSecond, counted);
  return counted;
}

const TRAFFIC = trafficOf();

function trafficOf(): Plan['traffic'] {
  const parsed = parsePlan({
    name: 'simulated',
    blue: { connection: 'blue' },
    green: { connection: 'green' },
    traffic: {
      gates: [
        { metric: 'errorRate', max: LIMITS.errorRate },
        { metric: 'p99', maxIncrease: `${LIMITS.p99IncreaseMs}ms` },
        { metric: 'lag', max: `${LIMITS.lagMs}ms` },
        { metric: 'mismatchRate', max: LIMITS.mismatchRate },
      ],
    },
  });
  if (!('plan' in parsed)) throw new Error(JSON.stringify(parsed.findings));
  return parsed.plan.traffic;
}

const EMPTY_WINDOW: GateWindow = {
  ...{ seconds: 0, blue: EMPTY_SIDE, green: EMPTY_SIDE, blueBefore: EMPTY_SIDE },
  fallbacks: { behind: 0, error: 0 },
  mirrored: { compared: 0, different: 0 },
  endpoints: {},
  ...{ liveInstances: 1, staleInstances: [], unreadableInstances: [], unreachable: [] },
};

function windowOf({ green, blue, mirrored, endpoints }: Tick): GateWindow {
  const windows = Object.entries(endpoints).map(([name, counted]) => [name, endpointWindow(counted)] as const);
  return { ...EMPTY_WINDOW, green, blue, mirrored, endpoints: Object.fromEntries(windows) };
}

/** As of routers that tell no durations by endpoint. */
function endpointWindow({ blue, green }: EndpointCounts): EndpointWindow {
  const { latency } = EMPTY_SIDE;
  return { blue: { ...blue, latency }, green: { ...green, latency }, blueBefore: EMPTY_SIDE };
}

/** A window that grows, as a stage has thousands of slices. */
interface Sum extends GateWindow {
  seconds: number;
  readonly blue: SumOfSide;
  readonly green: SumOfSide;
  readonly mirrored: { compared: number; different: number };
  readonly endpoints: Record<string, { blue: SumOfSide; green: SumOfSide; blueBefore: SumOfSide }>;
}

interface SumOfSide {
  requests: number;
  errors: number;
  readonly latency: number[];
}

function nothing(): SumOfSide {
  return { requests: 0, errors: 0, latency: [...EMPTY_SIDE.latency] };
}

function add(window: Sum, slice: GateWindow, seconds: number): void {
  window.seconds = seconds;
  window.mirrored.compared += slice.mirrored.compared;
  window.mirrored.different += slice.mirrored.different;
  for (const side of ['blue', 'green'] as const) {
    const [to, from] = [window[side], slice[side]];
    to.requests += from.requests;
    to.errors += from.errors;
    from.latency.forEach((count, bucket) => (to.latency[bucket] = (to.latency[bucket] ?? 0) + count));
  }
  for (const [name, counted] of Object.entries(slice.endpoints)) {
    const to = (window.endpoints[name] ??= {
      ...{ blue: nothing(), green: nothing(), blueBefore: nothing() },
    });
    for (const side of ['blue', 'green'] as const) {
      to[side].requests += counted[side].requests;
      to[side].errors += counted[side].errors;
    }
  }
}
