import { CancellationScope, condition } from '@temporalio/workflow';
import type { Notify, Plan } from '../../src/plan/schema.js';
import { act } from './activities.js';
import { failureMessage, isCancelled } from './failure.js';
import type { MigrationRun } from './migration-run.js';
import { happened, noticeOf, type Notice, type Seen } from './notices.js';

/** How many notices are sent by one activity: about six events of the history, whatever their number. */
const TOGETHER = 20;
/** After so many sendings to one webhook they are thinned out: a run that goes to and fro must not fill its history. */
const OFTEN = 30;
/** The longest wait between two sendings then. */
const RARE_MS = 86_400_000;
/** How long the end of a run waits for notices that are still on their way. */
const FLUSH_MS = 10_000;
/** Notices that may wait for one webhook; the oldest are left out, and that is said. */
const KEPT = 200;

/**
 * Tells the plan's webhooks what happens. Each has a lane of its own: in order, one sending at a time, beside the run,
 * which never waits for it but at its very end, for a bounded time. Nothing that a receiver does or leaves undone moves the run.
 */
export class Notifications {
  readonly #lanes: Lane[] = [];
  readonly #early: Notice[] = [];
  #scope: CancellationScope | null = null;
  #before: Seen | null = null;
  #sequence = 0;

  constructor(
    private readonly run: MigrationRun,
    private readonly now: () => string,
  ) {}

  /** Looks what has happened since the last look. Called after each change of the run. */
  look(): void {
    const seen = { status: this.run.status, evidence: [...this.run.evidence] };
    const news = happened(this.#before, seen);
    this.#before = seen;
    this.#early.push(...news.map(([event, text]) => noticeOf(++this.#sequence, this.now(), event, text, seen.status)));
    const { plan } = this.run;
    if (plan === null) return;
    this.#open(plan);
    for (const notice of this.#early.splice(0)) for (const lane of this.#lanes) lane.add(notice);
  }

  #open(plan: Plan): void {
    if (this.#lanes.length > 0) return;
    // Cancelled by the end of the flush alone: a rollback and its end are told too.
    for (const target of plan.notify ?? []) this.#lanes.push(new Lane(this.run, plan, target));
    void CancellationScope.nonCancellable(() => {
      this.#scope = new CancellationScope();
      return this.#scope.run(() => Promise.all(this.#lanes.map((lane) => lane.work())));
    }).catch(() => undefined);
  }

  /** At the end of the run: gives what is on its way some time, then says what has not arrived. */
  async flush(): Promise<void> {
    for (const lane of this.#lanes) lane.end();
    const done = (): boolean => this.#lanes.every((lane) => lane.isDone);
    if (done()) return;
    if (await condition(done, FLUSH_MS, { summary: 'the last notifications' })) return;
    this.#scope?.cancel();
    await condition(done);
  }
}

class Lane {
  readonly #waiting: Notice[] = [];
  #sendings = 0;
  #ending = false;
  #done = false;

  constructor(
    private readonly run: MigrationRun,
    private readonly plan: Plan,
    private readonly target: Notify,
  ) {}

  get isDone(): boolean {
    return this.#done;
  }

  add(notice: Notice): void {
    if (this.target.events !== undefined && !this.target.events.includes(notice.event)) return;
    this.#waiting.push(notice);
    if (this.#waiting.length <= KEPT) return;
    this.#waiting.shift();
    this.#lost('more notices than can wait; the oldest are left out');
  }

  end(): void {
    this.#ending = true;
  }

  async work(): Promise<void> {
    try {
      for (;;) {
        await condition(() => this.#waiting.length > 0 || this.#ending);
        if (this.#waiting.length === 0) return;
        await this.#notTooOften();
        await this.#send(this.#waiting.splice(0, TOGETHER));
      }
    } catch (error) {
      if (!isCancelled(error)) throw error;
      this.#lost(`the run has ended before ${this.#waiting.length + 1} or more notices could be delivered`);
    } finally {
      this.#done = true;
    }
  }

  async #notTooOften(): Promise<void> {
    const over = this.#sendings++ - OFTEN;
    if (over < 0) return;
    const wait = Math.min(60_000 * 2 ** over, RARE_MS);
    await condition(() => this.#ending, wait, { summary: `many notices: ${this.target.connection} is told later` });
  }

  async #send(notices: readonly Notice[]): Promise<void> {
    const { workflowId, runId, name } = this.run.status;
    const summary = `tell ${this.target.connection}: ${notices.map(({ event }) => event).join(', ')}`.slice(0, 120);
    try {
      const { undelivered, why } = await act(summary).notify(
        { plan: this.plan, runId },
        { name, workflowId, runId },
        this.target,
        notices,
      );
      if (undelivered > 0) this.#lost(`${undelivered} of ${notices.length} notices are given up: ${why}`);
    } catch (error) {
      if (isCancelled(error)) throw error;
      this.#lost(failureMessage(error));
    }
  }

  #lost(why: string): void {
    this.run.warn([`the webhook ${this.target.connection} has not been told everything: ${why}`]);
  }
}
