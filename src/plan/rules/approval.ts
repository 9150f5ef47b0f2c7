import { formatDuration, parseDuration } from '../duration.js';
import { isUnseenName, personKey } from '../person.js';
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

export const approverUnseen: Rule = {
  name: 'approver-unseen',
  severity: 'warning',
  why: 'nobody can tell whose name it is: it only looks like one more person who may approve, and counts as one for the quorum',
  *check({ plan }) {
    for (const [i, name] of (plan.traffic.approval.by ?? []).entries()) {
      if (!isUnseenName(name)) continue;
      yield {
        place: `traffic.approval.by[${i}]`,
        message: 'the name has no character that is seen',
        instead: 'write the name of a person, or leave it out',
      };
    }
  },
};

export const approvalBeforeNothing: Rule = {
  name: 'approval-before-nothing',
  severity: 'warning',
  why: 'a run in which all goes well asks nobody: reads, writes and the end of the way back follow each other. Only a promotion that was kept away or refused is asked for',
  *check({ plan }) {
    const { before, by, quorum } = plan.traffic.approval;
    if (before.length > 0 || (by === undefined && quorum === 1)) return;
    const written = [...(by === undefined ? [] : ['"by"']), ...(quorum === 1 ? [] : ['"quorum"'])];
    yield {
      place: 'traffic.approval.before',
      message: `${written.join(' and ')} ${written.length === 1 ? 'says' : 'say'} who approves, and "before" is empty: nothing waits for them`,
      instead: 'write what waits for an approval, such as "before": ["promote"], or leave "by" and "quorum" out',
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
