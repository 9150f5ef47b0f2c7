import { ApplicationFailure, condition, patched } from '@temporalio/workflow';
import { parseDuration } from '../../src/plan/duration.js';
import type { Plan } from '../../src/plan/schema.js';
import type { AskingEvent, TellingEvent, WebhookEvent } from '../../src/plan/webhook-events.js';
import type { WritesAt } from '../../src/postgres/where-writes-are.js';
import type { WebhookCall } from '../../src/webhooks/call.js';
import type { MigrationRun } from './migration-run.js';
import type { Saga } from './saga.js';
import { wasReset } from './was-reset.js';
import { WebhookLane } from './webhook-lane.js';

/** A webhook that has not followed what it was asked, and what the plan says of that. */
export interface NotFollowed {
  readonly why: string;
  /** Whether the run is to be rolled back. */
  readonly rollback: boolean;
}

/** How long the word of an answer may take from the worker to the run. */
const ANSWER_MS = 1_000;

/**
 * The webhooks that move traffic. They are asked before anything moves, one after another, and may refuse. They are told
 * what has moved, all at once, until they have taken it; that never keeps anything from going on. A plan without them
 * adds nothing to the history.
 */
export class TrafficWebhooks {
  #lanes: readonly WebhookLane[] = [];
  #generation = 0;
  /** Whether the run had been reset when it came to its last intent. */
  #intendedSinceReset = false;
  /** The epoch of the route, as the databases have told it since a reset. */
  #epoch = 0;
  /** The call that was asked last, until it has an answer: asked again after a pause, it is the same one. */
  #asked: WebhookCall | null = null;
  #told: WebhookEvent | null = null;

  constructor(
    private readonly run: MigrationRun,
    private readonly now: () => string,
  ) {}

  /** From here on they are called: traffic is about to move. The rollback ends when they have been told of it. */
  begin(plan: Plan, saga: Saga): void {
    const { name, workflowId, runId } = this.run.status;
    this.#lanes = (plan.traffic.webhooks ?? []).map(
      (target) => new WebhookLane({ name, workflowId, runId }, target, (why) => this.run.warn([why])),
    );
    if (!this.areThere) return;
    saga.pushLast({ name: 'webhooks lead to blue', undo: () => this.#untilToldOfRollback() });
    this.run.onMoved = () => this.tell(this.run.status.writesOn === 'green' ? 'promoted' : 'rolledBack');
  }

  get areThere(): boolean {
    return this.#lanes.length > 0;
  }

  /** Whether any is called with that. Where none is, not even a turn of the event loop may be added to the story. */
  hears(event: WebhookEvent): boolean {
    return this.#lanes.some((lane) => lane.hears(event));
  }

  /**
   * Whether `know` comes before whatever they are called with. What a run that was reset remembers of the writes may be over,
   * and what it says to receivers counts: they would be led to a side that does not serve.
   */
  get mustKnow(): boolean {
    return this.areThere && wasReset();
  }

  /** @throws ApplicationFailure WritesOnGreen: they are called with nothing of the time before the promotion then */
  know({ writesOn, epoch }: WritesAt): void {
    if (writesOn === 'green') {
      throw ApplicationFailure.nonRetryable(
        `green has the writes (epoch ${epoch}): the workflow was reset to a point before the promotion, and the webhooks are told nothing of that time\n` +
          `Next step: ask \`${this.run.doctor('--who-is-primary')}\`, end the run, and let \`${this.run.doctor('--clean')}\` remove what is left.`,
        'WritesOnGreen',
      );
    }
    this.#epoch = epoch;
  }

  /**
   * Asks one after another, in the order of the plan.
   *
   * @param know asks where writes are (`know`), before anything is asked anew since the workflow was reset meanwhile
   * @returns null when all have followed; otherwise who has not. What others have done then is not taken back here.
   */
  async ask(event: AskingEvent, greenReadPercent: number, know: () => Promise<void>): Promise<NotFollowed | null> {
    const isSame = this.#asked?.event === event && this.#asked.greenReadPercent === greenReadPercent;
    const again = isSame && !this.#isOvertaken;
    const call = again && this.#asked !== null ? this.#asked : this.#next(event, greenReadPercent);
    this.#asked = call;
    for (const lane of this.#lanes.filter((one) => one.hears(event))) {
      const followed = await lane.ask(call);
      if (this.#isOvertaken) {
        if (patched('what was being asked before a reset is asked anew only while blue has the writes')) await know();
        return this.ask(event, greenReadPercent, know);
      }
      if (followed.outcome === 'done') continue;
      this.#asked = null;
      const { deadline, onRefuse } = lane.target;
      const said = {
        refused: `refuses: ${followed.why}`,
        failed: `can't be asked: ${followed.why}`,
        late: `has not followed within ${deadline}: ${followed.why}`,
      }[followed.outcome];
      return {
        why: `${call.text}: the webhook ${lane.name} ${said}`,
        rollback: followed.outcome === 'refused' && onRefuse === 'rollback',
      };
    }
    this.#asked = null;
    return null;
  }

  /** Tells what is. Returns at once. */
  tell(event: TellingEvent, greenReadPercent = this.run.status.greenReadPercent): void {
    if (event === 'rolledBack' && this.#told === event) return;
    // Whom a run that was reset has called since, it does not remember.
    const lanes = this.#lanes.filter((lane) => lane.hears(event) && (lane.isConcerned || wasReset()));
    if (lanes.length === 0) return;
    const call = this.#next(event, event === 'rolledBack' ? 0 : greenReadPercent);
    for (const lane of lanes) lane.tell(call);
  }

  /** Which webhooks have not taken what they were told, with the reason. */
  get untold(): string[] {
    return this.#lanes.flatMap(({ name, untold }) => (untold === null ? [] : [`${name} has not been told ${untold}`]));
  }

  /** At the end of the run nothing is on its way any more. */
  async end(): Promise<void> {
    await Promise.all(this.#lanes.map((lane) => lane.stop()));
    this.run.warn(this.untold.map((what) => `the run has ended, and the webhook ${what}`));
  }

  async #untilToldOfRollback(): Promise<void> {
    const isTold = (): boolean => this.untold.length === 0;
    if (isTold()) return;
    // The last call may begin at the end of that time, and its answer is what people want to know.
    const longest = Math.max(
      ...this.#lanes.map(({ target }) => parseDuration(target.deadline) + parseDuration(target.timeout)),
    );
    if (await condition(isTold, longest + ANSWER_MS, { summary: 'webhooks are told that blue serves' })) return;
    throw ApplicationFailure.nonRetryable(
      `${this.untold.join('; ')}. Lead the traffic behind it to blue by hand`,
      'WebhookNotDelivered',
    );
  }

  /** Whether what was called last is of the time before a reset: its receiver may have followed something later since. */
  get #isOvertaken(): boolean {
    return !this.#intendedSinceReset && wasReset();
  }

  #next(event: WebhookEvent, greenReadPercent: number): WebhookCall {
    const { status } = this.run;
    const { writesOn } = status;
    const epoch = Math.max(this.run.epoch, this.#epoch);
    // A reset sets this memory back, and neither Temporal's clock nor what receivers have followed.
    const now = patched('generations of webhooks go by the clock') ? Date.now() : 0;
    this.#generation = Math.max(this.#generation + 1, now);
    this.#intendedSinceReset = wasReset();
    this.#asked = null;
    this.#told = event;
    return {
      ...{ event, generation: this.#generation, epoch, at: this.now(), writesOn, greenReadPercent },
      text: textOf(event, writesOn, greenReadPercent),
    };
  }
}

function textOf(event: WebhookEvent, writesOn: string, percent: number): string {
  switch (event) {
    case 'stage':
      return `reads of ${percent} % of the users go to green`;
    case 'readsBack':
      return percent === 0 ? 'all reads back to blue' : `reads of no more than ${percent} % of the users go to green`;
    case 'promoting':
      return 'writes are about to move to green';
    case 'notPromoted':
      return 'writes stay on blue for now';
    case 'promoted':
      return 'writes have moved to green';
    case 'rollingBack':
      return `a rollback has begun, writes are on ${writesOn}`;
    case 'rolledBack':
      return 'everything back to blue';
  }
}
