import { judge } from '../../activities/stage-verdict.js';
import { EMPTY_SIDE, plus } from './counts.js';
import type { GateInput } from '../../src/gates/decide.js';
import type { GateWindow } from '../../src/gates/window.js';
import { parsePlan } from '../../src/plan/parse.js';
import type { Plan } from '../../src/plan/schema.js';
import { Chance } from './chance.js';
import { tick, type Tick } from './green.js';
import { LIMITS, type End, type Rule, type StageRule } from './rule.js';

/** `maxStageDuration` of a plan by default. */
const MOST_SECONDS = 4 * 3_600;

/** The real decision code, fed with counts. */
export const VERDIGRIS: Rule = { name: 'Verdigris', stage: (percent) => new Stage(percent) };

class Stage implements StageRule {
  #window: GateWindow = emptyWindow();
  readonly #slices: GateWindow[] = [];
  #lagMs: number[] = [];
  #passes = 0;

  constructor(private readonly percent: number) {}

  see(tick: Tick, seconds: number): End | undefined {
    const slice = windowOf(tick);
    this.#slices.push(slice);
    this.#window = sum(this.#window, slice, seconds);
    this.#lagMs = [...this.#lagMs.slice(-19), tick.lagMs];
    const input: GateInput = { window: this.#window, slices: this.#slices, lagMs: this.#lagMs };
    const { outcome } = judge(TRAFFIC, { percent: this.percent, for: '15m' }, '', input);
    if (outcome === 'fail') return 'rolled back';
    if (seconds < LIMITS.stageSeconds) return undefined;
    this.#passes = outcome === 'pass' ? this.#passes + 1 : 0;
    if (this.#passes >= 2) return 'advanced';
    return seconds >= MOST_SECONDS ? 'held' : undefined;
  }
}

const TRAFFIC = trafficOf();

/** What routers have counted on blue before the stage: at 100 % there is nothing else to compare with. */
const BLUE_BEFORE = tick(new Chance(1), 'healthy', 2_000, 0).blue;

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

function windowOf({ green, blue, mirrored }: Tick): GateWindow {
  return { ...emptyWindow(), green, blue, mirrored };
}

function sum(window: GateWindow, slice: GateWindow, seconds: number): GateWindow {
  return {
    ...window,
    seconds,
    green: plus(window.green, slice.green),
    blue: plus(window.blue, slice.blue),
    mirrored: {
      compared: window.mirrored.compared + slice.mirrored.compared,
      different: window.mirrored.different + slice.mirrored.different,
    },
  };
}

/** Blue's reads before a stage: the routers have been counting since the run began. */
function emptyWindow(): GateWindow {
  return {
    ...{ seconds: 0, blue: EMPTY_SIDE, green: EMPTY_SIDE, blueBefore: BLUE_BEFORE },
    fallbacks: { behind: 0, error: 0 },
    mirrored: { compared: 0, different: 0 },
    endpoints: {},
    ...{ liveInstances: 1, staleInstances: [], unreadableInstances: [], unreachable: [] },
  };
}
