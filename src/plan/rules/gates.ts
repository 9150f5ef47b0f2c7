import { askedIn } from '../../gates/asked-in.js';
import { isStillCounter, rangesOf, withoutTexts, type Range } from '../../gates/promql-ranges.js';
import { STALE_AFTER_SECONDS } from '../../gates/prometheus-query.js';
import type { Rule } from '../rule.js';
import type { Gate } from '../schema.js';

/** Rules on what a stage is judged by. */

export const everyGateDryRun: Rule = {
  name: 'every-gate-dry-run',
  severity: 'error',
  why: 'no gate could hold or end a stage: traffic would move on by time alone, whatever green answers',
  *check({ plan }) {
    const { stages, gates } = plan.traffic;
    if (stages.length === 0 || gates.some((gate) => gate.dryRun !== true)) return;
    yield {
      place: 'traffic.gates',
      message: 'every gate has "dryRun": true',
      instead: 'leave "dryRun" out of at least one gate, such as { "metric": "errorRate", "max": 0.001 }',
    };
  },
};

export const stageWithoutGate: Rule = {
  name: 'stage-without-gate',
  severity: 'warning',
  why: 'no gate could hold or end this stage: it would pass by time alone, whatever green answers',
  *check({ plan: { traffic } }) {
    const gates = traffic.gates.filter((gate) => gate.dryRun !== true);
    if (gates.length === 0 || gates.some(({ metric }) => metric === 'rowDifferences')) return;
    for (const [i, stage] of traffic.stages.entries()) {
      if (stage.percent === 0 || askedIn(gates, stage).length > 0) continue;
      yield {
        place: `traffic.stages[${i}]`,
        message: `${gates.map(({ metric }) => metric).join(', ')} is not asked in a stage of ${stage.percent} %: only blue's reads are mirrored, and it has none`,
        instead: 'add a gate that asks green itself, such as { "metric": "errorRate", "max": 0.001 }',
      };
    }
  },
};

export const lagNotWatched: Rule = {
  name: 'lag-not-watched',
  severity: 'warning',
  why: 'readers of green would see older and older rows while it falls behind, and each stage would pass all the same: an old row is no error',
  *check({ plan: { traffic } }) {
    const gates = traffic.gates.filter((gate) => gate.dryRun !== true);
    if (traffic.stages.length === 0 || gates.length === 0) return;
    // A query of one's own may be that of the lag.
    if (gates.some(({ metric }) => ['lag', 'fallbackRate', 'prometheus'].includes(metric))) return;
    yield {
      place: 'traffic.gates',
      message: `${gates.map(({ metric }) => metric).join(', ')}: no gate fails when green falls behind blue`,
      instead: 'add { "metric": "lag", "max": "1s" }',
    };
  },
};

export const gatesOfOneName: Rule = {
  name: 'gates-of-one-name',
  severity: 'error',
  why: 'evidence and messages call a gate by its name: nobody could tell which of the two has failed',
  *check({ plan: { traffic } }) {
    const seen = new Map<string, string>();
    for (const [i, gate] of traffic.gates.entries()) {
      if (gate.metric !== 'prometheus') continue;
      const place = `traffic.gates[${i}].name`;
      const first = seen.get(gate.name);
      if (first !== undefined) {
        yield { place, message: `${first} is "${gate.name}", too`, instead: 'give each gate a name of its own' };
      }
      seen.set(gate.name, first ?? place);
    }
  },
};

export const limitsThatNothingKeeps: Rule = {
  name: 'limits-that-nothing-keeps',
  severity: 'error',
  why: 'no number is within both limits: the gate would fail in each stage, however well green does',
  *check({ plan: { traffic } }) {
    for (const [i, gate] of traffic.gates.entries()) {
      if (gate.metric !== 'prometheus' || gate.max === undefined || gate.min === undefined) continue;
      if (gate.min <= gate.max) continue;
      yield {
        place: `traffic.gates[${i}].min`,
        message: `at least ${gate.min} and at most ${gate.max} is allowed`,
        instead: `write "min": ${gate.max}, "max": ${gate.min}, or one of the two`,
      };
    }
  },
};

export const countsOfFixedRange: Rule = {
  name: 'counts-of-fixed-range',
  severity: 'error',
  why: 'what is added to the counts from one answer to the next is judged; over a range that slides they stay the same, so the gate would see no request and could never fail',
  *check({ plan: { traffic } }) {
    for (const { place, query } of queriesOf(traffic.gates, (gate) => gate.requests !== undefined)) {
      for (const { text, of } of slidingRanges(query)) {
        const name = ['', 'rate', 'irate'].includes(of) ? 'increase' : of;
        yield {
          place,
          message: `${of === '' ? '' : `${of} `}counts over ${text}, which slides`,
          instead: `write ${name}(...[{{window}}]), over the time since the stage opened, in "query" and "requests"; or the counters themselves, without a range`,
        };
      }
    }
  },
};

/** The ranges over which no count can grow: neither the time of the stage, nor added up over it. */
function slidingRanges(query: string): Range[] {
  const ranges = rangesOf(query);
  const addedUp = ({ from, to }: Range): boolean =>
    ranges.some((outer) => outer.isSubquery && outer.isWindow && outer.begins <= from && to <= outer.from);
  return ranges.filter((range) => !range.isWindow && !isStillCounter(range) && !addedUp(range));
}

/** What recording rules are called that say what a range has: `job:errors:increase5m`, `job:requests:sum_rate1m`. */
const RECORDED_OVER_A_RANGE = /\b[a-zA-Z_][\w:]*:(?:\w+_)?(?:i?rate|increase|delta)\d+(?:ms|[smhdwy])\b/g;

export const countsRecordedOverRange: Rule = {
  name: 'counts-recorded-over-range',
  severity: 'warning',
  why: 'by its name it is recorded over a range that slides: what one minute adds to it another takes off, so the gate would see hardly any request and could never fail',
  *check({ plan: { traffic } }) {
    for (const { place, query } of queriesOf(traffic.gates, (gate) => gate.requests !== undefined)) {
      const ofStage = rangesOf(query).filter(({ isWindow }) => isWindow);
      const found = [...withoutTexts(query).matchAll(RECORDED_OVER_A_RANGE)].filter(
        ({ index }) => !ofStage.some(({ begins, from }) => begins <= index && index < from),
      );
      for (const name of new Set(found.map(([text]) => text))) {
        yield {
          place,
          message: `${name} is no counter: it says what its range has`,
          instead:
            'ask the counters that it is recorded from: increase(...[{{window}}]), over the time since the stage opened, in "query" and "requests"',
        };
      }
    }
  },
};

export const rangeHidesTheEnd: Rule = {
  name: 'range-hides-the-end',
  severity: 'warning',
  why: 'a range goes on to answer with old samples when the series have ended, and nothing can be asked here that would show it: the gate would pass on what is gone',
  *check({ plan: { traffic } }) {
    for (const { place, query } of queriesOf(traffic.gates, (gate) => gate.requests === undefined)) {
      const answersAnyway = /\bvector\s*\(/.test(query);
      for (const { text, seconds, isSubquery, isWindow } of rangesOf(query)) {
        const isLong = (seconds ?? 0) > STALE_AFTER_SECONDS;
        if (answersAnyway && (isLong || isWindow)) {
          yield {
            place,
            message: `${text} looks back further than 2 min, and vector(...) answers where nothing is measured`,
            instead:
              'leave vector(...) out, or give "requests", without vector(...): no request within 2 min holds the stage',
          };
        } else if (isSubquery && isLong) {
          yield {
            place,
            message: `${text} looks back further than 2 min over a query`,
            instead: 'write a range of a series, such as rate(...[15m]), or [{{window}}:15s]',
          };
        }
      }
    }
  },
};

/** The queries of the `prometheus` gates that are meant. */
function* queriesOf(
  gates: readonly Gate[],
  isMeant: (gate: Extract<Gate, { metric: 'prometheus' }>) => boolean,
): Iterable<{ readonly place: string; readonly query: string }> {
  for (const [i, gate] of gates.entries()) {
    if (gate.metric !== 'prometheus' || !isMeant(gate)) continue;
    yield { place: `traffic.gates[${i}].query`, query: gate.query };
    if (gate.requests !== undefined) yield { place: `traffic.gates[${i}].requests`, query: gate.requests };
  }
}
