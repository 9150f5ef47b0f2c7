import { VerdigrisError } from '../errors.js';
import type { Plan } from '../plan/schema.js';
import type { PreflightFinding } from '../postgres/preflight/finding.js';
import { signingWebhookOf, type Environment } from '../worker/connections.js';

/** The checks of webhooks that move traffic, by name; docs/preflight.md has a row for each. */
export const WEBHOOK_CHECKS = ['traffic-webhook'] as const;

/** Whether this worker knows the address of each webhook and what to sign with: they are called only hours later. */
export function checkTrafficWebhooks({ traffic }: Plan, environment: Environment): PreflightFinding[] {
  return (traffic.webhooks ?? []).flatMap(({ connection }): PreflightFinding[] => {
    try {
      signingWebhookOf(connection, environment);
      return [];
    } catch (error) {
      if (!(error instanceof VerdigrisError)) throw error;
      const found = { severity: 'error', check: 'traffic-webhook', side: 'both' } as const;
      return [{ ...found, object: connection, message: error.what, remedy: error.nextStep }];
    }
  });
}
