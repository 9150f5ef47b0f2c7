import { approvalSigning } from '../approval/settings.js';
import { VerdigrisError } from '../errors.js';
import type { Plan } from '../plan/schema.js';
import type { PreflightFinding } from '../postgres/preflight/finding.js';
import { webhookOf, type Environment } from '../worker/connections.js';

/** The checks of notifications, by name; docs/preflight.md has a row for each. */
export const NOTIFY_CHECKS = ['notify-webhook', 'approval-secret'] as const;

/** Whether this worker knows where to tell what happens, and can make the links of a question: both are needed only hours later. */
export function checkNotify({ notify = [] }: Plan, environment: Environment): PreflightFinding[] {
  const found = notify.flatMap(({ connection }): PreflightFinding[] => {
    try {
      webhookOf(connection, environment);
      return [];
    } catch (error) {
      if (!(error instanceof VerdigrisError)) throw error;
      const what = { severity: 'error', check: 'notify-webhook', side: 'both' } as const;
      return [{ ...what, object: connection, message: error.what, remedy: error.nextStep }];
    }
  });
  const asks = notify.some(({ events }) => events === undefined || events.includes('approval'));
  return asks ? [...found, ...checkSecret(environment)] : found;
}

/** Questions are sent without links then, and can be answered all the same. */
function checkSecret(environment: Environment): PreflightFinding[] {
  const signing = approvalSigning(environment);
  if (signing === undefined || !('why' in signing)) return [];
  const what = { severity: 'warning', check: 'approval-secret', side: 'both' } as const;
  const object = 'VERDIGRIS_APPROVAL_SECRET';
  return [{ ...what, object, message: `questions are sent without links: ${signing.why}`, remedy: signing.nextStep }];
}
