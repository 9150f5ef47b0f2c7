import { parseDuration } from '../src/plan/duration.js';
import type { TrafficWebhook } from '../src/plan/schema.js';
import { deliveryOf, mayRefuse, type CalledRun, type WebhookCall } from '../src/webhooks/call.js';
import { untilFollowed, type Followed } from '../src/webhooks/until-followed.js';
import { signingWebhookOf } from '../src/worker/connections.js';
import { alive, type ActivityDependencies } from './context.js';

/** Activities of the webhooks that move traffic. */
export function trafficWebhookActivities(dependencies: ActivityDependencies) {
  return {
    /**
     * Calls one webhook until it has followed, at most for `forMs`. Begun again by another worker, it sends the same
     * bytes with the same key.
     *
     * @throws ApplicationFailure ConnectionUnknown when this worker has no address or no secret for it
     */
    callWebhook: (run: CalledRun, target: TrafficWebhook, call: WebhookCall, forMs: number): Promise<Followed> =>
      alive(dependencies, async (signal, report) => {
        const { environment, redact } = dependencies;
        const limits = { mayRefuse: mayRefuse(call.event), timeoutMs: parseDuration(target.timeout), forMs };
        const webhook = signingWebhookOf(target.connection, environment);
        const followed = await untilFollowed(webhook, deliveryOf(run, call), limits, signal, (why) =>
          report({ webhook: target.connection, event: call.event, waiting: redact(why) }),
        );
        // A receiver may quote what it was sent, or was not: its words are not trusted with a secret.
        return followed.outcome === 'done' ? followed : { ...followed, why: redact(followed.why) };
      }),
  };
}
