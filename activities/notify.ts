import { linkUrl, signLink } from '../src/approval/link.js';
import { approvalSigning } from '../src/approval/settings.js';
import { bodyOf, type Link, type ToldRun } from '../src/notify/bodies.js';
import { deliver, DELIVERY_LIMITS, type Delivered } from '../src/notify/webhook.js';
import { parseDuration } from '../src/plan/duration.js';
import type { Notify } from '../src/plan/schema.js';
import { webhookOf, type Environment } from '../src/worker/connections.js';
import type { Notice } from '../workflows/lib/notices.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { alive, type ActivityDependencies } from './context.js';

/** What has been delivered, and what people should mend although it has kept nothing from being sent. */
export interface Notified extends Delivered {
  readonly warnings?: readonly string[];
}

export function notifyActivities(dependencies: ActivityDependencies) {
  return {
    /**
     * Tells one webhook, in order. Ends in a bounded time, whatever the receiver does, and says what it did not take.
     *
     * @param forMs for how long it tries
     */
    notify: (
      ref: RunRef,
      run: ToldRun,
      target: Notify,
      notices: readonly Notice[],
      forMs = DELIVERY_LIMITS.giveUpAfterMs,
    ): Promise<Notified> =>
      alive(dependencies, async (signal) => {
        const { environment } = dependencies;
        const warnings = new Set<string>();
        const deliveries = notices.map((notice) => {
          const links = linksFor(ref, run, notice, environment, (why) => warnings.add(why));
          return { key: `${run.runId}-${notice.sequence}`, body: bodyOf(target.form, run, notice, links) };
        });
        const limits = { ...DELIVERY_LIMITS, giveUpAfterMs: forMs };
        const delivered = await deliver(webhookOf(target.connection, environment), deliveries, limits, signal);
        return warnings.size === 0 ? delivered : { ...delivered, warnings: [...warnings] };
      }),
  };
}

/**
 * Links that approve what is asked: made here, so that the history never holds one. A question without links is a
 * question all the same.
 */
function linksFor(
  ref: RunRef,
  run: ToldRun,
  { event, waiting }: Notice,
  environment: Environment,
  warn: (why: string) => void,
): Link[] {
  const { gate, request, mayApprove } = waiting ?? {};
  if (event !== 'approval' || gate === undefined || request === undefined) return [];
  const signing = approvalSigning(environment);
  if (signing === undefined) return [];
  if ('why' in signing) {
    warn(`questions are sent without links that approve them: ${signing.why}; ${signing.nextStep}`);
    return [];
  }
  const { secret, base } = signing;
  const expires = Math.floor((Date.now() + parseDuration(ref.plan.traffic.approval.validFor)) / 1_000);
  const link = { workflowId: run.workflowId, runId: run.runId, gate, request, expires };
  if (mayApprove === undefined) return [{ url: linkUrl(base, signLink(link, secret)) }];
  return mayApprove.map((by) => ({ by, url: linkUrl(base, signLink({ ...link, by }, secret)) }));
}
