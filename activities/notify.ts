import { linkUrl, signLink } from '../src/approval/link.js';
import { approvalSigning } from '../src/approval/settings.js';
import { bodyOf, shortBodyOf, type Link, type ToldRun } from '../src/notify/bodies.js';
import { deliver, DELIVERY_LIMITS, type Delivered } from '../src/notify/webhook.js';
import { parseDuration } from '../src/plan/duration.js';
import type { Notify } from '../src/plan/schema.js';
import { webhookOf } from '../src/worker/connections.js';
import type { Notice } from '../workflows/lib/notices.js';
import type { RunRef } from '../workflows/lib/run-ref.js';
import { alive, type ActivityDependencies } from './context.js';
import { executionId } from './execution-id.js';
import { temporalClock } from './temporal-clock.js';

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
        const signing = notices.some(asksForApproval) ? approvalSigning(environment) : undefined;
        if (signing !== undefined && 'why' in signing) {
          const { why, nextStep } = signing;
          warnings.add(`questions are sent without links that approve them: ${why}; ${nextStep}`);
        }
        const signs = signing !== undefined && 'secret' in signing;
        const makeLinks = signs ? linkMaker(ref, run, signing, (await temporalClock())()) : () => [];
        const messages = notices.map((notice) => ({
          key: keyOf(run, notice),
          body: bodyOf(target.form, run, notice, makeLinks(notice)),
          short: shortBodyOf(target.form, run, notice),
        }));
        const limits = { ...DELIVERY_LIMITS, giveUpAfterMs: forMs };
        const webhook = webhookOf(target.connection, environment);
        const { shortened = [], ...delivered } = await deliver(webhook, messages, limits, signal);
        for (const { key, why } of shortened) {
          const notice = notices.find((one) => keyOf(run, one) === key);
          warnings.add(
            `the webhook ${target.connection} has been told of notice ${notice?.sequence} (${notice?.event}) in a few words alone: sent whole, ${why}`,
          );
        }
        return warnings.size === 0 ? delivered : { ...delivered, warnings: [...warnings] };
      }),
  };
}

function keyOf(run: ToldRun, { sequence }: Notice): string {
  return `${executionId(run)}-${sequence}`;
}

function asksForApproval({ event, waiting }: Notice): boolean {
  return event === 'approval' && waiting?.gate !== undefined && waiting.request !== undefined;
}

/**
 * Makes links that approve what is asked: here, so that the history never holds one. A question without links is a
 * question all the same.
 *
 * @param now Temporal's clock, by which an approval counts, too: this machine's may be hours off
 */
function linkMaker(
  ref: RunRef,
  { workflowId, runId }: ToldRun,
  { secret, base }: { readonly secret: string; readonly base: string },
  now: number,
): (notice: Notice) => Link[] {
  const expires = Math.floor((now + parseDuration(ref.plan.traffic.approval.validFor)) / 1_000);
  return (notice) => {
    const { gate, request, mayApprove } = notice.waiting ?? {};
    if (!asksForApproval(notice) || gate === undefined || request === undefined) return [];
    const link = { workflowId, runId, gate, request, expires };
    if (mayApprove === undefined) return [{ url: linkUrl(base, signLink(link, secret)) }];
    return mayApprove.map((by) => ({ by, url: linkUrl(base, signLink({ ...link, by }, secret)) }));
  };
}
