import { CancelledFailure, CancellationScope, condition, patched, uuid4 } from '@temporalio/workflow';
import { parseDuration } from '../../src/plan/duration.js';
import { failureMessage, failureType, isCancelled } from './failure.js';
import type { MigrationRun, Opening } from './migration-run.js';
import { TrafficWebhooks } from './traffic-webhooks.js';

/** How long one durable wait for a person is; it is begun again until somebody answers. */
const ASK_AGAIN = '30 days';

/** The longest time between two reminders of a question: then it is at most some thirty events a month. */
const LONGEST_PATIENCE_MS = 7 * 86_400_000;

/** Hexadecimal digits: one in sixteen million is the same by chance, and it can still be read out. */
const MARK_LENGTH = 6;

/** What heavy steps give way to: room on blue's disk, the end of the plan's window, and blue's load when the next one begins. */
type YieldTo = 'WAL' | 'window' | 'load';

/** What is said to be waited for meanwhile. */
const WAITS_FOR = { WAL: 'retry', window: 'window', load: 'load' } as const;

const MENDED_BY_HAND = ['BackfillFailed', 'PartitionEmptied', 'IdentityMissing'];

export interface StepOptions {
  readonly yields?: boolean;
  readonly stopped?: (wait: () => Promise<void>) => Promise<void>;
  readonly interrupted?: (error: unknown) => Promise<void>;
  readonly ends?: (error: unknown) => boolean;
}

/**
 * The story of a run: what goes forward, in one scope that a rollback request cancels. Its steps can be paused, since
 * every activity can be stopped and begun again where it was.
 */
export class Story {
  readonly #scope = new CancellationScope();
  #step: CancellationScope | null = null;
  #interrupted: CancellationScope | null = null;
  #stepYields = false;
  readonly #yielding = new Map<YieldTo, { readonly why: string; readonly until?: string }>();
  #passes = 0;

  /** What leads traffic outside the databases. */
  readonly webhooks: TrafficWebhooks;

  constructor(readonly run: MigrationRun) {
    this.webhooks = new TrafficWebhooks(run, () => new Date(Date.now()).toISOString());
  }

  /** Runs the story; a rollback request or a Temporal cancel ends it with a cancellation. */
  async tell<T>(work: () => Promise<T>): Promise<T> {
    return this.#scope.run(work);
  }

  /** Ends the story: the running activity is cancelled and waited for. */
  abandon(): void {
    this.#scope.cancel();
  }

  /** Whether the story has been ended by a message or by a cancel. */
  get isAbandoned(): boolean {
    return this.#scope.consideredCancelled;
  }

  /** Stops the running step; it is begun again on resume. */
  interrupt(): void {
    this.#interrupted = this.#step;
    this.#step?.cancel();
  }

  /**
   * A name for one comparison of the two sides: the same when its step is begun again after a pause. A reset has it given a
   * second time; the activity adds the execution.
   */
  nextPass(): string {
    this.#passes += 1;
    return `pass ${this.#passes}`;
  }

  /**
   * Stops a step that yields, and keeps such steps from beginning, until it is called with null.
   *
   * @param to what needs room, or the window that has ended: each says for itself when it is over
   */
  yieldTo(why: string | null, to: YieldTo = 'WAL', until?: string): void {
    if (why === null) this.#yielding.delete(to);
    else this.#yielding.set(to, { why, ...(until === undefined ? {} : { until }) });
    if (why !== null && this.#stepYields) this.interrupt();
  }

  /**
   * One step: waits while the run is paused, does the work, does it again after a pause. A failure ends the story,
   * or holds the run until somebody resumes it, as the plan's `onFailure` says.
   *
   * @param options.yields the step is heavy, and stops while something more important needs room (see yieldTo)
   * @param options.interrupted what is done first when a pause has ended the work: with the error that it ended with
   * @param options.done the result where what was done then has done the work: the step ends with it
   * @param options.stopped what goes on while the run is paused or held: does the wait. Default: nothing
   * @param options.ends whether a failure ends the step although the plan has failures hold the run. Default: none does
   */
  async step<T>(
    now: string,
    work: () => Promise<T>,
    options: StepOptions & { readonly done?: () => T | undefined } = {},
  ): Promise<T> {
    for (;;) {
      const { stopped = (wait) => wait() } = options;
      if (this.run.paused || this.isHeld) await stopped(() => this.untilNotPaused());
      this.proceed();
      if (options.yields === true && this.#yielding.size > 0) {
        await this.#untilNotYielding();
        continue;
      }
      this.#stepYields = options.yields === true;
      this.run.doing(now);
      const scope = new CancellationScope();
      this.#step = scope;
      try {
        return await scope.run(work);
      } catch (error) {
        if (isCancelled(error)) {
          // A pause cancels the step alone; by the time its activity has stopped, the run may be resumed already.
          if (this.#scope.consideredCancelled || this.#interrupted !== scope) throw error;
          await options.interrupted?.(error);
          const done = options.done?.();
          if (done !== undefined) return done;
        } else if (this.isHeld || (this.holdsAfter(error) && options.ends?.(error) !== true)) {
          await stopped(() => this.hold(failureMessage(error)));
        } else throw error;
      } finally {
        this.#step = null;
        this.#stepYields = false;
        // What comes late from a step that is over is told by its end.
        this.run.progress([]);
      }
    }
  }

  /**
   * Whether the run holds after a failure that ends a step. A row of the application that is in the way can be corrected,
   * and so can a partition that was emptied on one side, or a table of blue that can't be published; the work goes on where
   * it was.
   */
  holdsAfter(error: unknown): boolean {
    const onFailure = this.run.plan?.onFailure;
    return onFailure === 'hold' || (onFailure === 'auto' && MENDED_BY_HAND.includes(failureType(error) ?? ''));
  }

  async #untilNotYielding(): Promise<void> {
    for (let first = this.#firstYield(); first !== undefined; first = this.#firstYield()) {
      const [to, { why, until }] = first;
      this.run.waitFor({ for: WAITS_FOR[to], why, ...(until === undefined ? {} : { until }) });
      await condition(() => this.#yielding.get(to)?.why !== why, ASK_AGAIN, { summary: why });
    }
    this.run.waitFor(null);
  }

  #firstYield(): [YieldTo, { readonly why: string; readonly until?: string }] | undefined {
    const [first] = this.#yielding;
    return first;
  }

  /** Stops here until somebody resumes the run (or rolls it back). */
  async hold(why: string): Promise<void> {
    this.run.warn([why]);
    this.run.waitFor({ for: 'resume', why, answer: answerWith(this.run, 'resume') });
    const before = this.run.resumes;
    const resumed = (): boolean => this.run.resumes > before;
    while (!(await condition(resumed, ASK_AGAIN, { summary: 'held: resume or roll back' }))) continue;
    this.run.waitFor(null);
  }

  /** Goes no further while the run is paused, or held by something beside the work. */
  async untilNotPaused(): Promise<void> {
    this.proceed();
    while (this.run.paused || this.isHeld) {
      const why = this.run.paused ? 'paused by message' : (this.run.status.held?.why ?? '');
      const summary = this.run.paused ? 'paused: resume or roll back' : 'held: resume or roll back';
      this.run.waitFor({ for: 'resume', why, answer: answerWith(this.run, 'resume') });
      const now = this.run.status.held;
      await condition(() => (!this.run.paused && !this.isHeld) || this.run.status.held !== now, ASK_AGAIN, { summary });
      this.run.waitFor(null);
    }
  }

  /** Whether something beside the work holds the run. */
  get isHeld(): boolean {
    return (this.run.status.held ?? null) !== null;
  }

  /**
   * Holds the run from beside its work: a stage goes on, but no other one begins, and nothing is promoted. Returns when
   * somebody resumes; whoever holds decides then whether the run goes on.
   */
  async holdUntilResumed(why: string): Promise<void> {
    this.run.warn([why]);
    this.run.hold({ why, answer: answerWith(this.run, 'resume') });
    // Copying is not broken off: its snapshot would be lost. Everything else goes on where it was.
    if (this.run.status.phase !== 'replicate') this.interrupt();
    const before = this.run.resumes;
    const resumed = (): boolean => this.run.resumes > before;
    while (!(await condition(resumed, ASK_AGAIN, { summary: 'held: resume or roll back' }))) continue;
  }

  /** Ends here when the story has been ended meanwhile: where the next thing could not be cancelled. */
  proceed(): void {
    if (this.isAbandoned) throw new CancelledFailure('the story has been ended');
  }

  /**
   * Waits for an approval by message.
   *
   * @param opens when the window of what is approved opens, asked when the question is; null where that is not waited for
   */
  async approval(gate: string, why: string, opens: () => Opening | null = () => null): Promise<void> {
    await this.untilNotPaused();
    const request = this.run.nextRequest(gate, markOfQuestion());
    this.run.askApproval(gate, why, answerWith(this.run, 'approve', { gate, request }), opens(), request);
    const approved = (): boolean => this.run.isApproved(gate);
    let patience = Math.max(1_000, parseDuration(this.run.plan?.traffic.approval.remindAfter ?? '7d'));
    const summary = `approve ${gate} (question ${request})`;
    if (patched('approvals that have ended are not shown as given')) {
      await this.#untilApproved(approved, patience, summary);
      this.run.waitFor(null);
      return;
    }
    while (!(await condition(approved, patience, { summary }))) {
      this.run.remindOfApproval();
      // Twice as long each time, so that a question that nobody answers does not fill the history.
      patience = Math.min(patience * 2, LONGEST_PATIENCE_MS);
    }
    this.run.waitFor(null);
  }

  /** Reminds, ever more rarely; and wakes when an approval ends before enough people have given theirs, since a query has no clock. */
  async #untilApproved(approved: () => boolean, patience: number, summary: string): Promise<void> {
    let remindAt = Date.now() + patience;
    for (;;) {
      const { times, until } = this.run.partlyApproved;
      const lapsesAt = until === undefined ? Infinity : Date.parse(until) + 1;
      const waits = Math.max(LEAST_WAIT_MS, Math.min(remindAt, lapsesAt) - Date.now());
      await condition(() => approved() || this.run.partlyApproved.times !== times, waits, { summary });
      if (approved()) return;
      if (Date.now() >= lapsesAt) this.run.approvalsLapsed();
      if (Date.now() < remindAt) continue;
      this.run.remindOfApproval();
      // Twice as long each time, so that a question that nobody answers does not fill the history.
      patience = Math.min(patience * 2, LONGEST_PATIENCE_MS);
      remindAt = Date.now() + patience;
    }
  }
}

/** How long the shown approvals may be late. */
const LEAST_WAIT_MS = 1_000;

/**
 * Has a question be another one than the same question of an earlier run of this name, or of this run before it was
 * reset: an answer that was meant for that one is refused. Drawn anew for each, since a reset keeps the run's first id.
 * Undefined in a run that has asked without.
 */
function markOfQuestion(): string | undefined {
  return patched('questions are those of their run') ? uuid4().slice(0, MARK_LENGTH) : undefined;
}

/** The command that answers, ready to be copied. */
export function answerWith(
  run: MigrationRun,
  message: string,
  more: { readonly gate?: string; readonly request?: string; readonly acceptLoss?: true } = {},
): string {
  const { workflowId, namespace = 'default' } = run.status;
  const input = { ...more, by: 'YOUR NAME', reason: 'WHY' };
  // Without it the command would ask another namespace, where a rehearsal may wait for the same.
  const where = namespace === 'default' ? '' : ` --namespace '${namespace}'`;
  return `temporal workflow update execute${where} --workflow-id '${workflowId}' --name ${message} --input '${JSON.stringify(input)}'`;
}
