import { personKey } from '../person.js';
import type { Rule } from '../rule.js';

/** Rules on who approves. */

export const quorumOutOfReach: Rule = {
  name: 'quorum-out-of-reach',
  severity: 'error',
  why: 'each person counts once: the run would wait for ever',
  *check({ plan }) {
    const { by, quorum } = plan.traffic.approval;
    if (by === undefined) return;
    const people = new Set(by.map(personKey)).size;
    if (quorum <= people) return;
    yield {
      place: 'traffic.approval.quorum',
      message: `${quorum} different people must approve, and "by" names ${people}`,
      instead: `write a quorum of at most ${people}, or name more people`,
    };
  },
};

export const quorumOfAnybody: Rule = {
  name: 'quorum-of-anybody',
  severity: 'warning',
  why: 'one person can approve under several names, since the run does not know who there is',
  *check({ plan }) {
    const { by, quorum } = plan.traffic.approval;
    if (by !== undefined || quorum === 1) return;
    yield {
      place: 'traffic.approval.quorum',
      message: `${quorum} people must approve, and "by" does not say who may`,
      instead: 'name them: "by": ["ada", "grace", "linus"]',
    };
  },
};
