import { isDeepStrictEqual } from 'node:util';
import type { Rule } from '../rule.js';
import { DEFAULT_GATES } from '../schema.js';

/** Rules on how the traffic moves. */

export const stagesNotGrowing: Rule = {
  name: 'stages-not-growing',
  severity: 'error',
  why: 'cohorts only grow: a user whose reads are on green would have to go back, and would read older rows than before',
  *check({ plan }) {
    for (const [i, stage] of plan.traffic.stages.entries()) {
      const before = plan.traffic.stages[i - 1];
      if (before === undefined || stage.percent > before.percent) continue;
      yield {
        place: `traffic.stages[${i}].percent`,
        message: `stage ${stage.percent} % follows stage ${before.percent} %`,
        instead: `write a percent above ${before.percent}, or leave the stage out; to stay longer, raise "for" of the stage before`,
      };
    }
  },
};

export const stagesBelow100: Rule = {
  name: 'stages-below-100',
  severity: 'warning',
  why: 'the promotion moves everybody at once: green would meet the load of all users for the first time in that moment',
  *check({ plan }) {
    const last = plan.traffic.stages.at(-1);
    if (last !== undefined && last.percent >= 100) return;
    // Behind PgBouncer nobody's reads can go ahead of the promotion.
    if (last === undefined && plan.traffic.pgbouncer !== undefined) return;
    yield {
      place: 'traffic.stages',
      message: last === undefined ? 'no reads move before the promotion' : `the last stage is ${last.percent} %`,
      instead: 'end with { "percent": 100, "for": "15m" }',
    };
  },
};

export const gatesWithoutStages: Rule = {
  name: 'gates-without-stages',
  severity: 'warning',
  why: 'gates are asked while a stage runs: without stages nothing asks them, and the promotion goes ahead whatever they would say',
  *check({ plan }) {
    const { stages, gates } = plan.traffic;
    if (stages.length > 0 || isDeepStrictEqual(gates, DEFAULT_GATES)) return;
    yield {
      place: 'traffic.gates',
      message: `${gates.length === 1 ? 'the gate is' : `the ${gates.length} gates are`} never asked: "stages" is empty`,
      instead: 'give at least one stage, or leave "gates" out',
    };
  },
};

export const unknownApprovalStage: Rule = {
  name: 'unknown-approval-stage',
  severity: 'error',
  why: 'nobody would ever be asked, and the stage that was meant would begin without an approval',
  *check({ plan }) {
    const percents = plan.traffic.stages.map((stage) => stage.percent);
    for (const [i, point] of plan.traffic.approval.before.entries()) {
      if (typeof point !== 'number' || percents.includes(point)) continue;
      yield {
        place: `traffic.approval.before[${i}]`,
        message: `there is no stage of ${point} %`,
        instead: percents.length === 0 ? 'leave it out' : `write the percent of a stage: ${percents.join(', ')}`,
      };
    }
  },
};
