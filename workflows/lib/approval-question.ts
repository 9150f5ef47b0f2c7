import { parseDuration } from '../../src/plan/duration.js';
import { personKey } from '../../src/plan/person.js';
import type { Plan } from '../../src/plan/schema.js';
import type { Approval } from '../messages.js';

/** Who may approve, how many must, and for how long an approval counts. */
export interface ApprovalPolicy {
  /** Names; null when anybody may who can send messages to the run. */
  readonly by: readonly string[] | null;
  readonly quorum: number;
  readonly validForMs: number;
}

/** One person's yes. */
export interface GivenApproval {
  readonly by: string;
  readonly reason: string;
  /** ISO 8601. */
  readonly at: string;
  /** When it stops counting. */
  readonly until: string;
}

/** The policy of a plan. A run that was begun by an earlier version has a plan without the newer fields. */
export function approvalPolicy(plan: Plan | null): ApprovalPolicy {
  const approval: Partial<Plan['traffic']['approval']> = plan?.traffic.approval ?? {};
  return {
    by: approval.by ?? null,
    quorum: approval.quorum ?? 1,
    validForMs: parseDuration(approval.validFor ?? '24h'),
  };
}

/**
 * One question that people answer. Each question is a new one, with an id of its own, also when the same gate is asked
 * for again: what was said to an earlier one is not an answer to it.
 */
export class ApprovalQuestion {
  readonly #given = new Map<string, GivenApproval>();
  #times = 0;

  constructor(
    readonly gate: string,
    /** The id of the question: `promote-2-5b1e0c` is the second time that the promotion is asked for. */
    readonly request: string,
    readonly policy: ApprovalPolicy,
    /** Whether the gate has been asked for before: then an answer must say which question it is for. */
    readonly isAskedAgain = false,
  ) {}

  /** Why an approval does not count now; undefined when it does. Changes nothing. */
  refusal(approval: Approval, now: string): string | undefined {
    if (approval.gate !== this.gate) return `the run waits for the approval "${this.gate}", not "${approval.gate}"`;
    if (approval.request !== undefined && approval.request !== this.request) {
      return `that answers another question ("${approval.request}"); the run asks "${this.request}" now`;
    }
    // A signal that was sent twice, or one that was under way, would answer what its sender has not seen.
    if (approval.request === undefined && this.isAskedAgain) {
      return `"${this.gate}" is asked for again, and that may be meant for an earlier question: send it with "request": "${this.request}"`;
    }
    const who = personKey(approval.by);
    const { by, quorum } = this.policy;
    if (by !== null && !by.some((name) => personKey(name) === who)) {
      return `"${approval.by}" may not approve this: the plan names ${by.join(', ')}`;
    }
    const earlier = this.#given.get(who);
    if (earlier !== undefined && counts(earlier, now)) {
      return `"${approval.by}" has approved this already, at ${earlier.at}: ${this.valid(now).length} of ${quorum}; another person must`;
    }
    return undefined;
  }

  /** Takes an approval that `refusal` has let through. @returns whether enough people have approved now. */
  give({ by, reason }: Approval, now: string): boolean {
    const until = new Date(Date.parse(now) + this.policy.validForMs).toISOString();
    this.#times += 1;
    this.#given.set(personKey(by), { by: by.trim(), reason, at: now, until });
    return this.valid(now).length >= this.policy.quorum;
  }

  /** How often somebody has approved. */
  get given(): number {
    return this.#times;
  }

  /** The approvals that still count. */
  valid(now: string): readonly GivenApproval[] {
    return [...this.#given.values()].filter((given) => counts(given, now));
  }
}

function counts(given: GivenApproval, now: string): boolean {
  return Date.parse(given.until) >= Date.parse(now);
}

/** Why something that was approved is asked for again. */
export function expiredApproval(what: string, expired: string): string {
  return `the approval of ${what} counts no more since ${expired}: it is asked for again`;
}

/** Why something is asked for again whose earlier answer would be to other numbers. */
export function askedAnew(why: string): string {
  return `${why} (asked anew: a gate has failed since)`;
}
