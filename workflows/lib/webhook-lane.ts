import { CancellationScope, sleep } from '@temporalio/workflow';
import type { TrafficWebhook } from '../../src/plan/schema.js';
import { parseDuration } from '../../src/plan/duration.js';
import { WEBHOOK_EVENTS, WEBHOOK_SUBJECTS, type WebhookEvent } from '../../src/plan/webhook-events.js';
import type { CalledRun, WebhookCall } from '../../src/webhooks/call.js';
import type { Followed } from '../../src/webhooks/until-followed.js';
import { act, actFast } from './activities.js';
import { failureMessage, isCancelled } from './failure.js';

/** After so long people are told that a webhook has not been told; then after twice the time, and so on. */
const WARN_AFTER_MS = 30_000;
/** So seldom at last: a receiver that stays away for a standby window must not fill the history. */
const LONGEST_MS = 86_400_000;

/**
 * One webhook of a run, and the order of its calls. What it is asked, the run waits for. What it is told goes on beside
 * the run until it has been taken; a later call takes its place, and begins when the earlier one has really stopped.
 */
export class WebhookLane {
  #telling: Promise<void> = Promise.resolve();
  #scope: CancellationScope | null = null;
  #called = false;
  /** What it is to be told now. */
  #wanted: WebhookCall | null = null;
  #untold: string | null = null;

  constructor(
    private readonly run: CalledRun,
    readonly target: TrafficWebhook,
    private readonly warn: (why: string) => void,
  ) {}

  get name(): string {
    return this.target.connection;
  }

  hears(event: WebhookEvent): boolean {
    return this.target.on.includes(WEBHOOK_EVENTS[event]);
  }

  /**
   * Whether it is to be told of what has happened: it has been called, as far as the run remembers, or is called for the way
   * back alone.
   */
  get isConcerned(): boolean {
    const forward = WEBHOOK_SUBJECTS.filter((subject) => subject !== 'rollback');
    return this.#called || !forward.some((subject) => this.target.on.includes(subject));
  }

  /** What it was told last and has not taken, with the reason; null when it has taken everything. */
  get untold(): string | null {
    return this.#untold;
  }

  /** Asks, and waits for the answer. What it was being told is out of date now. */
  async ask(call: WebhookCall): Promise<Followed> {
    await this.stop();
    this.#untold = null;
    this.#called = true;
    const forMs = parseDuration(this.target.deadline);
    return answerOf(() => act(summaryOf('ask', this.name, call)).callWebhook(this.run, this.target, call, forMs));
  }

  /** Tells, beside whatever else goes on and whatever is cancelled. */
  tell(call: WebhookCall): void {
    const before = this.stop();
    this.#called = true;
    this.#wanted = call;
    this.#untold = `${call.event}: no answer yet`;
    this.#telling = CancellationScope.nonCancellable(async () => {
      await before;
      if (this.#wanted === call) await this.#untilTold(call);
    });
  }

  /** Ends what it is being told. Returns when no call is on its way any more, as far as a worker can know. */
  async stop(): Promise<void> {
    this.#wanted = null;
    this.#scope?.cancel();
    await this.#telling;
  }

  async #untilTold(call: WebhookCall): Promise<void> {
    const scope = new CancellationScope();
    this.#scope = scope;
    const untold = this.#untold;
    try {
      await scope.run(async () => {
        let forMs = Math.min(WARN_AFTER_MS, Math.max(1, parseDuration(this.target.deadline)));
        for (;;) {
          const followed = await this.#tellFor(call, forMs);
          // It was being stopped, and what it says now is of no concern: another call has taken its place.
          if (this.#wanted !== call) return;
          if (followed.outcome === 'done') break;
          this.#untold = `${call.event}: ${followed.why}`;
          const what = `"${call.event}" (${call.text})`;
          this.warn(`the webhook ${this.name} has not been told ${what}, and is told again: ${followed.why}`);
          // The worker can't call at all: another one may, or the same one with what it lacks.
          if (followed.outcome === 'failed') await sleep(forMs, { summary: `tell ${this.name} again` });
          forMs = Math.min(forMs * 2, LONGEST_MS);
        }
        if (this.#untold !== untold) this.warn(`the webhook ${this.name} has been told "${call.event}" now`);
        this.#untold = null;
      });
    } catch (error) {
      if (!isCancelled(error)) throw error;
    } finally {
      this.#scope = null;
    }
  }

  async #tellFor(call: WebhookCall, forMs: number): Promise<Followed> {
    return answerOf(() => actFast(summaryOf('tell', this.name, call)).callWebhook(this.run, this.target, call, forMs));
  }
}

/** A worker that lacks the address or the secret is what a person must mend, as an answer of the receiver can be. */
async function answerOf(calling: () => Promise<Followed>): Promise<Followed> {
  try {
    return await calling();
  } catch (error) {
    if (isCancelled(error)) throw error;
    return { outcome: 'failed', why: failureMessage(error) };
  }
}

function summaryOf(verb: string, name: string, call: WebhookCall): string {
  return `${verb} ${name}: ${call.event}, ${call.text}`.slice(0, 120);
}
