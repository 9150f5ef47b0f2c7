import { askedIn } from '../../gates/asked-in.js';
import type { Rule } from '../rule.js';

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
