import { ASKING_EVENTS, type WebhookEvent } from '../plan/webhook-events.js';
import type { Delivery } from '../notify/signed-post.js';
import type { Side } from '../side.js';

/** One intent of a run, as its webhooks are called with it. However often it is sent, it is the same to the last byte. */
export interface WebhookCall {
  readonly event: WebhookEvent;
  /**
   * Higher with each intent of the run, also once its workflow was reset: ms since 1970 by Temporal's clock, or one more than
   * the last one. A call of a lower one is late, and must change nothing. A run that an earlier version has begun counted
   * from 1 until its worker was upgraded.
   */
  readonly generation: number;
  /** Of the writes, as in the route: raised by each move, and higher in each later run. */
  readonly epoch: number;
  /** ISO 8601: when the run came to it. */
  readonly at: string;
  /** Where writes are; with `promoted` and `rolledBack`, where they have moved. */
  readonly writesOn: Side;
  /** Which share of the users shall read from green when this call has been followed. */
  readonly greenReadPercent: number;
  /** One line for people. */
  readonly text: string;
}

export interface CalledRun {
  readonly name: string;
  readonly workflowId: string;
  readonly runId: string;
}

/** Whether the receiver may refuse. */
export function mayRefuse(event: WebhookEvent): boolean {
  return ASKING_EVENTS.some((asking) => asking === event);
}

/** What is sent. Made of nothing but its arguments: another worker that sends it again sends the same. */
export function deliveryOf(run: CalledRun, call: WebhookCall): Delivery {
  const { name, workflowId, runId } = run;
  const { event, generation, epoch, at, writesOn, greenReadPercent, text } = call;
  return {
    key: `${runId}-${generation}`,
    body: JSON.stringify({
      version: 1,
      event,
      generation,
      epoch,
      at,
      writesOn,
      greenReadPercent,
      mayRefuse: mayRefuse(event),
      text,
      run: { name, workflowId, runId },
    }),
  };
}
