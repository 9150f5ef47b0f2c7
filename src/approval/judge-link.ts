import { personKey } from '../plan/person.js';
import type { ApprovalLink } from './link.js';

/** What a link is judged by: the part of a run's status that concerns approvals. */
export interface RunView {
  readonly name: string;
  readonly runId: string;
  readonly outcome: string;
  readonly waiting: {
    readonly for: string;
    readonly why: string;
    readonly request?: string;
    readonly since: string;
    readonly quorum?: number;
    readonly approvals?: readonly { readonly by: string; readonly at: string; readonly reason: string }[];
    readonly mayApprove?: readonly string[];
    readonly evidence?: readonly string[];
  } | null;
  readonly decisions: readonly {
    readonly message: string;
    readonly by: string;
    readonly at: string;
    readonly request?: string;
    readonly ignored?: string;
  }[];
}

/** Why a link can't be followed: an HTTP status and a sentence. */
export interface Refusal {
  readonly status: 403 | 409 | 410;
  readonly why: string;
}

/** Why a link can't be followed whatever the run says. */
export function expired(link: ApprovalLink, now: number): Refusal | undefined {
  if (now <= link.expires * 1_000) return undefined;
  return { status: 410, why: `this link has expired at ${new Date(link.expires * 1_000).toISOString()}` };
}

/** Why a link can't be followed as the run is now; undefined when it can. */
export function refusedByRun(link: ApprovalLink, run: RunView): Refusal | undefined {
  if (run.runId !== link.runId) return { status: 410, why: `this link is for an earlier run of ${run.name}` };
  const asked = run.waiting?.for === 'approval' && run.waiting.request === link.request;
  const answers = run.decisions.filter(
    ({ message, request, ignored }) => message === 'approve' && request === link.request && ignored === undefined,
  );
  const own = answers.filter(({ by }) => link.by !== undefined && personKey(by) === personKey(link.by)).at(-1);
  const stillCounts = run.waiting?.approvals?.some(({ by }) => personKey(by) === personKey(link.by ?? ''));
  // Somebody whose approval has expired while others were waited for may give it again.
  if (own !== undefined && (!asked || stillCounts === true)) {
    return { status: 410, why: `this link has been used: ${own.by} has approved at ${own.at}` };
  }
  if (run.outcome !== 'running') return { status: 410, why: `the run has ended (${run.outcome})` };
  if (!asked) {
    const by = answers.map((answer) => `${answer.by} at ${answer.at}`).join(', ');
    return {
      status: 410,
      why: by === '' ? 'the run does not ask this any more' : `the run does not ask this any more: answered by ${by}`,
    };
  }
  if (link.by === undefined && run.waiting?.mayApprove !== undefined) {
    return { status: 403, why: 'the plan names who may approve, and this link is made out to nobody' };
  }
  return undefined;
}
