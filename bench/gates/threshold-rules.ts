import { quantileMs } from '../../src/gates/histogram.js';
import { EMPTY_SIDE, plus } from './counts.js';
import { TICK_SECONDS, type Tick } from './green.js';
import { HEALTHY_P99_MS } from './latency.js';
import { LIMITS, type End, type Rule, type StageRule } from './rule.js';

/*
 * How other tools decide, from their documentation (see docs/gates.md): a number over the last minutes against a limit,
 * and a count of how often it was above. They are given the same limits; the one of latency is blue's true p99 and the
 * increase, since they compare with a fixed number.
 */

interface Threshold {
  /** How often a measurement is made, and over which time back. */
  readonly everySeconds: number;
  readonly windowSeconds: number;
  /** Rolled back at so many failed measurements of one metric (Argo), or of all together (Flagger). */
  readonly failuresToEnd: number;
  readonly together: boolean;
}

export const OTHER_RULES: readonly Rule[] = [
  rule('Argo Rollouts, defaults (failureLimit 0)', {
    ...{ everySeconds: 300, windowSeconds: 300, failuresToEnd: 1, together: false },
  }),
  rule('Argo Rollouts, as documented (failureLimit 3)', {
    ...{ everySeconds: 300, windowSeconds: 300, failuresToEnd: 4, together: false },
  }),
  rule('Flagger, defaults (threshold 1)', {
    ...{ everySeconds: 60, windowSeconds: 60, failuresToEnd: 1, together: true },
  }),
  rule('Flagger, as documented (threshold 10)', {
    ...{ everySeconds: 60, windowSeconds: 60, failuresToEnd: 10, together: true },
  }),
];

function rule(name: string, threshold: Threshold): Rule {
  return { name, stage: () => new Stage(threshold) };
}

class Stage implements StageRule {
  readonly #ticks: Tick[] = [];
  readonly #failures = new Map<string, number>();

  constructor(private readonly threshold: Threshold) {}

  see(tick: Tick, seconds: number): End | undefined {
    const { everySeconds, windowSeconds, failuresToEnd, together } = this.threshold;
    this.#ticks.push(tick);
    if (this.#ticks.length > windowSeconds / TICK_SECONDS) this.#ticks.shift();
    if (seconds % everySeconds === 0) {
      const failed = failedMetrics(this.#ticks);
      // Flagger counts a round of checks once, however many of them have failed.
      for (const metric of together ? (failed.length > 0 ? ['any'] : []) : failed) {
        const failures = (this.#failures.get(metric) ?? 0) + 1;
        this.#failures.set(metric, failures);
        if (failures >= failuresToEnd) return 'rolled back';
      }
    }
    return seconds >= LIMITS.stageSeconds ? 'advanced' : undefined;
  }
}

function failedMetrics(ticks: readonly Tick[]): string[] {
  const green = ticks.reduce((sum, tick) => plus(sum, tick.green), EMPTY_SIDE);
  const compared = ticks.reduce((sum, tick) => sum + tick.mirrored.compared, 0);
  const different = ticks.reduce((sum, tick) => sum + tick.mirrored.different, 0);
  const p99 = quantileMs(0.99, green.latency);
  return [
    // Without a request there is no value: both take that for a failure of the check.
    ...(green.requests === 0 || green.errors / green.requests > LIMITS.errorRate ? ['errorRate'] : []),
    ...(p99 === undefined || p99 > HEALTHY_P99_MS + LIMITS.p99IncreaseMs ? ['p99'] : []),
    ...((newestLag(ticks) ?? Infinity) > LIMITS.lagMs ? ['lag'] : []),
    ...(compared > 0 && different / compared > LIMITS.mismatchRate ? ['mismatchRate'] : []),
  ];
}

/** A gauge has the last value that it was set to. */
function newestLag(ticks: readonly Tick[]): number | undefined {
  return ticks.findLast(({ lagMs }) => lagMs.length > 0)?.lagMs.at(-1);
}
