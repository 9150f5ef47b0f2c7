import { linkUrl, signLink } from '../src/approval/link.js';
import { approvalSecret, approvalUrl } from '../src/approval/settings.js';
import { bodyOf, type Link, type ToldRun } from '../src/notify/bodies.js';
import { deliver, DELIVERY_LIMITS, type Delivered } from '../src/notify/webhook.js';
import { parseDuration } from '../src/plan/duration.js';
import type { Notify } from '../src/plan/schema.js';
import { webhookOf, type Environment } from '../src/worker/connections.js';
import type { Notice } from '../workflows/lib/notices.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { alive, type ActivityDependencies } from './context.js';

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
    ): Promise<Delivered> =>
      alive(dependencies, (signal) => {
        const { environment } = dependencies;
        const deliveries = notices.map((notice) => ({
          key: `${run.runId}-${notice.sequence}`,
          body: bodyOf(target.form, run, notice, linksFor(ref, run, notice, environment)),
        }));
        return deliver(
          webhookOf(target.connection, environment),
          deliveries,
          { ...DELIVERY_LIMITS, giveUpAfterMs: forMs },
          signal,
        );
      }),
  };
}

/** Links that approve what is asked: made here, so that the history never holds one. */
function linksFor(ref: RunRef, run: ToldRun, { event, waiting }: Notice, environment: Environment): Link[] {
  const [secret, base] = [approvalSecret(environment), approvalUrl(environment)];
  if (event !== 'approval' || secret === undefined || base === undefined) return [];
  const { gate, request, mayApprove } = waiting ?? {};
  if (gate === undefined || request === undefined) return [];
  const expires = Math.floor((Date.now() + parseDuration(ref.plan.traffic.approval.validFor)) / 1_000);
  const link = { workflowId: run.workflowId, runId: run.runId, gate, request, expires };
  if (mayApprove === undefined) return [{ url: linkUrl(base, signLink(link, secret)) }];
  return mayApprove.map((by) => ({ by, url: linkUrl(base, signLink({ ...link, by }, secret)) }));
}
