import { formatDuration, parseDuration } from '../duration.js';
import { personKey } from '../person.js';
import type { Rule } from '../rule.js';
import type { Plan } from '../schema.js';
import { longestClosed } from '../window-times.js';

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

const DAY_MS = 86_400_000;

/** The windows that something waits for which is approved before. */
function guarded({ traffic, windows }: Plan): (readonly ['traffic' | 'promote', readonly string[]])[] {
  const { before } = traffic.approval;
  const asksForStages = before.some((one) => one === 'traffic' || typeof one === 'number');
  return [
    ...(windows?.traffic !== undefined && asksForStages ? [['traffic', windows.traffic] as const] : []),
    ...(windows?.promote !== undefined && before.includes('promote') ? [['promote', windows.promote] as const] : []),
  ];
}

export const approvalShorterThanWindows: Rule = {
  name: 'approval-shorter-than-windows',
  severity: 'warning',
  why: 'an approval that has expired before its window opens is asked for again when it opens, at night perhaps, and again the next time',
  *check({ plan }) {
    const validForMs = parseDuration(plan.traffic.approval.validFor);
    for (const [what, texts] of guarded(plan)) {
      const closedMs = longestClosed(texts);
      if (validForMs >= closedMs) continue;
      yield {
        place: 'traffic.approval.validFor',
        message: `an approval counts for ${plan.traffic.approval.validFor}, and windows.${what} (${texts.join(', ')}) is closed for up to ${formatDuration(closedMs)}: what is approved earlier has to be approved again when it opens`,
        instead: `write "validFor": "${Math.ceil(closedMs / DAY_MS)}d", approve at most ${plan.traffic.approval.validFor} before the window opens, or let it open more often`,
      };
    }
  },
};
