import { CancellationScope, condition } from '@temporalio/workflow';
import { isUrgent } from '../../src/plan/notice-events.js';
import type { Notify, Plan } from '../../src/plan/schema.js';
import type { Notified } from '../../activities/notify.js';
import { act } from './activities.js';
import { failureMessage, isCancelled } from './failure.js';
import type { MigrationRun } from './migration-run.js';
import { happened, noticeOf, type Notice, type Seen } from './notices.js';

/** How many notices are sent by one activity: about six events of the history, whatever their number. */
const TOGETHER = 20;
/** After so many sendings to one webhook they are thinned out: a run that goes to and fro must not fill its history. */
const OFTEN = 30;
/** After so long one more is free: a run of weeks is told as often at its end as at its beginning. */
const FREE_AFTER_MS = 6 * 3_600_000;
/** The longest wait between two sendings then, and for a receiver that stays away. */
const RARE_MS = 86_400_000;
/** So long one activity tries to be heard; the first wait for a receiver that is away is as long. */
const TRY_MS = 60_000;
/** How long the end of a run, whose outcome is known by then, waits for notices that are still on their way. */
const FLUSH_MS = 300_000;
/** What an activity may take beyond the time for which it tries: one request, and a worker that must take it first. */
const GRACE_MS = 30_000;
/** Notices that may wait for one webhook; the oldest are left out, and that is said. */
const KEPT = 200;

/**
 * Tells the plan's webhooks what happens. Each has a lane of its own: in order, one sending at a time, again until it has
 * been taken, beside the run, which never waits for it but at its very end, for a bounded time. Nothing that a receiver does or leaves undone moves the run.
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
    if (await condition(done, FLUSH_MS + GRACE_MS, { summary: 'the last notifications' })) return;
    this.#scope?.cancel();
    await condition(done);
  }
}

class Lane {
  /** What has not been delivered, in order: what was tried and not taken stays at its head. */
  readonly #waiting: Notice[] = [];
  /** The last notice that was there at the last try: nothing before it is worth a try of its own. */
  #tried = 0;
  #sendings = 0;
  #countedSince = 0;
  /** How often in a row the receiver has not taken everything. */
  #failures = 0;
  /** Why it has not, the last time. */
  #why = '';
  /** When it is to be over with the run, ms since 1970; null while the run goes on. */
  #endsAt: number | null = null;
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
    this.#leaveOldestOut();
  }

  end(): void {
    this.#endsAt = Date.now() + FLUSH_MS;
  }

  async work(): Promise<void> {
    try {
      for (;;) {
        await condition(() => this.#waiting.length > 0 || this.#endsAt !== null);
        if (this.#waiting.length === 0) return;
        await this.#untilTime();
        if (this.#endsAt !== null && this.#timeLeft() === 0) break;
        await this.#send(this.#waiting.splice(0, TOGETHER));
      }
    } catch (error) {
      if (!isCancelled(error)) throw error;
    } finally {
      this.#done = true;
    }
    if (this.#waiting.length > 0)
      this.#lost(`the run has ended before ${this.#waiting.length} notices could be delivered${this.#why}`);
  }

  /** Waits where much has been sent, or nobody has taken it; not with what is urgent and has not been tried, nor at the end. */
  async #untilTime(): Promise<void> {
    const wait = Math.min(RARE_MS, Math.max(this.#waitOfMany(), this.#waitOfAway()));
    if (wait === 0) return;
    const summary = `${this.#failures > 0 ? 'tell again' : 'many notices, told later'}: ${this.target.connection}`;
    await condition(() => this.#endsAt !== null || this.#hasUrgent(), wait, { summary });
  }

  #hasUrgent(): boolean {
    return this.#waiting.some(({ event, sequence }) => isUrgent(event) && sequence > this.#tried);
  }

  #waitOfMany(): number {
    if (this.#countedSince === 0) this.#countedSince = Date.now();
    const free = Math.floor((Date.now() - this.#countedSince) / FREE_AFTER_MS);
    this.#sendings = Math.max(0, this.#sendings - free);
    this.#countedSince += free * FREE_AFTER_MS;
    const over = this.#sendings++ - OFTEN;
    return over < 0 ? 0 : 60_000 * 2 ** over;
  }

  #waitOfAway(): number {
    return this.#failures === 0 ? 0 : TRY_MS * 2 ** (this.#failures - 1);
  }

  /** For how long the next activity may try, ms. */
  #timeLeft(): number {
    return this.#endsAt === null ? TRY_MS : Math.max(0, this.#endsAt - Date.now());
  }

  async #send(notices: Notice[]): Promise<void> {
    const isLast = this.#endsAt !== null;
    const newest = this.#waiting.at(-1) ?? notices.at(-1);
    let left = notices.length;
    let why = 'the run has ended';
    try {
      const { warnings = [], ...delivered } = await this.#deliver(notices);
      ({ undelivered: left, why } = delivered);
      this.run.warn(warnings);
    } catch (error) {
      if (isCancelled(error)) throw error;
      // The worker can't send at all: another one may, or the same one with what it lacks.
      why = failureMessage(error);
    } finally {
      this.#waiting.unshift(...notices.slice(notices.length - left));
    }
    this.#leaveOldestOut();
    this.#tried = (left === 0 ? notices.at(-1) : newest)?.sequence ?? this.#tried;
    if (left === 0) {
      if (this.#failures > 0) this.run.warn([`the webhook ${this.target.connection} takes what it is told again`]);
      this.#failures = 0;
      return;
    }
    this.#failures += 1;
    this.#why = `: ${why}`;
    if (isLast) this.#endsAt = Date.now();
    else
      this.run.warn([
        `the webhook ${this.target.connection} has not been told everything yet, and is told again: ${why}`,
      ]);
  }

  async #deliver(notices: readonly Notice[]): Promise<Notified> {
    const { workflowId, runId, name } = this.run.status;
    const summary = `tell ${this.target.connection}: ${notices.map(({ event }) => event).join(', ')}`.slice(0, 120);
    return act(summary).notify(
      ...([
        { plan: this.plan, runId },
        { name, workflowId, runId },
      ] as const),
      ...([this.target, notices, this.#timeLeft()] as const),
    );
  }

  #leaveOldestOut(): void {
    const over = this.#waiting.length - KEPT;
    if (over <= 0) return;
    this.#waiting.splice(0, over);
    this.#lost('more notices than can wait; the oldest are left out');
  }

  #lost(why: string): void {
    this.run.warn([`the webhook ${this.target.connection} has not been told everything: ${why}`]);
  }
}
