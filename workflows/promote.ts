import { patched, sleep } from '@temporalio/workflow';
import { firstLine } from '../src/failure-text.js';
import type { Stage } from '../src/plan/schema.js';
import { askedAnew } from './lib/approval-question.js';
import { failureMessage } from './lib/failure.js';
import type { RunRef } from './lib/run-ref.js';
import type { Saga } from './lib/saga.js';
import type { Story } from './lib/story.js';
import { comparison, type Comparison } from './compared-ahead.js';
import { moveWrites } from './move-writes.js';
import { afterInterruption, untilPoolersGoOn } from './poolers-go-on.js';
import { isStillQuiet, mayBegin, untilItMayBegin } from './promotion-begins.js';
import { endedBy, isBlocked, isOfOtherServer, type Ended } from './promotion-ended.js';
import { readyWebhooks, whileReady, whyAskAgain, type Ready } from './ready-webhooks.js';
import { watched } from './shift-traffic.js';
import { verifyEmptied } from './verify.js';
import { webhooksAgree } from './webhooks-lead.js';
import { writesBackToBlue } from './writes-back.js';

const APPROVAL = 'approval before writes move to green';

/**
 * Phase 6: writes move from blue to green, all at once. Why no write is lost is told in src/postgres/promote.ts, where
 * one transaction on blue decides. Here: what must be so before it is tried, the tries, and what follows when they have
 * ended otherwise: rows are compared (compared-ahead.ts), somebody approves it, its window and its load allow it
 * (promotion-begins.ts), webhooks agree (ready-webhooks.ts), writes move (move-writes.ts), else all of that again.
 */
export async function promote(story: Story, ref: RunRef, saga: Saga): Promise<void> {
  const { run } = story;
  run.enter('promote');
  saga.push({
    name: 'writes back to blue',
    critical: () => 'writes are not back',
    undo: () => writesBackToBlue(run, ref),
  });
  const rounds = new PromotionRounds(story, ref);
  while (!(await rounds.haveMoved())) continue;
  // Of a stage that is over.
  run.allClear('gates');
}

const NOT_COMPARED = -1;

/** What webhooks that have agreed are to hear, and how often the run had been resumed when they had. */
interface Readied {
  readonly ready: Ready;
  readonly resumes: number;
}

/** Rounds of all that leads to a promotion, until one of them has moved the writes. */
class PromotionRounds {
  readonly #lastStage: Stage | null;
  readonly #ahead: Comparison;
  /** What people are asked in the next round, with what the last one has ended with; null where nobody is asked. */
  #question: string | null;
  /** Once an approval was asked for, it is needed: one that counts no more is asked for again. */
  #isNeeded = false;
  /** How often gates had failed when rows were compared: once, and again whenever one has since. Below 0: not compared. */
  #comparedAt = NOT_COMPARED;
  #emptiedInARow = 0;

  constructor(
    private readonly story: Story,
    private readonly ref: RunRef,
  ) {
    this.#lastStage = ref.plan.traffic.stages.at(-1) ?? null;
    this.#ahead = comparison(story, ref);
    this.#question = ref.plan.traffic.approval.before.includes('promote') ? APPROVAL : null;
  }

  /** One round. @returns whether writes have moved */
  async haveMoved(): Promise<boolean> {
    const { run } = this.story;
    this.#isNeeded ||= this.#question !== null;
    const { voided } = run;
    /** A gate has failed in this round: all that leads to a promotion is done anew. */
    const isVoid = (): boolean => run.voided !== voided;
    if (this.#comparedAt !== voided) await this.#watched(this.#ahead.work);
    this.#comparedAt = voided;
    if (!isVoid()) await this.#untilItMayBegin();
    const readied = await this.#readied(isVoid);
    if (readied === null) return false;
    try {
      const ended = await this.#tried(readied, isVoid);
      return ended === 'promoted' || (await this.#movedAfter(ended, readied, isVoid));
    } catch (error) {
      // Nothing has happened: writes are on blue as before. Back to the approval, saying what stood in the way.
      if (!isBlocked(error)) throw error;
      // Whoever approves it then knows that all rows were compared again.
      if (isOfOtherServer(error)) this.#comparedAt = NOT_COMPARED;
      this.#question = failureMessage(error);
      run.warn([this.#question]);
      readied.ready.goBack();
      return false;
    }
  }

  #watched(work: () => Promise<void>): Promise<boolean> {
    return watched(this.story, this.ref, this.#lastStage, work);
  }

  /** What goes on while the run is paused or held. */
  readonly #whileStopped = async (wait: () => Promise<void>): Promise<void> => {
    while (!(await this.#watched(wait))) continue;
  };

  #untilItMayBegin(): Promise<void> {
    const { story, ref } = this;
    return untilItMayBegin(story, ref, this.#lastStage, this.#question, { stopped: this.#whileStopped }, this.#ahead);
  }

  /** Has the webhooks agree. @returns null where the tries may not begin: then the next round does */
  async #readied(isVoid: () => boolean): Promise<Readied | null> {
    const { story, ref } = this;
    const asks = !isVoid() && story.webhooks.hears('promoting');
    const answer = asks ? await webhooksAgree(story, ref, this.#lastStage) : null;
    if (answer !== null && answer !== 'gate failed') {
      this.#question = answer.why;
      story.run.warn([answer.why]);
      return null;
    }
    const { resumes } = story.run;
    const ready = readyWebhooks(story);
    // Webhooks that take hours to agree stay ready meanwhile: asked again behind it, they would take as long.
    if (asks && !isVoid() && this.#ahead.age() !== null) {
      await this.#watched(() => this.#ahead.work(whileReady(ready)));
    }
    const isQuiet = !asks || isVoid() || (await isStillQuiet(story, ref, this.#lastStage, ready));
    if (!isVoid() && isQuiet) return { ready, resumes };
    if (asks && answer === null) ready.goBack();
    this.#question = this.#askedAgain(isVoid);
    return null;
  }

  /** What people are asked when a gate has failed; null where nobody need be, or none has. */
  #askedAgain(isVoid: () => boolean): string | null {
    return isVoid() && this.#isNeeded ? this.#anew : null;
  }

  get #anew(): string {
    return this.#isNeeded ? askedAnew(APPROVAL) : 'a gate has failed: all that leads to a promotion is done anew';
  }

  #tried({ ready, resumes }: Readied, isVoid: () => boolean): Promise<Ended> {
    const { story, ref } = this;
    const { run } = story;
    const work = async (): Promise<Ended> => {
      const now = await mayBegin(story, ref, this.#ahead);
      const late = (isVoid() ? this.#anew : now.late) ?? whyAskAgain(story, resumes);
      if (late !== null) return { by: 'time', why: late };
      const limits = { notAfter: now.notAfter, isOver: () => story.isAbandoned };
      return endedBy(() => moveWrites(run, ref, 'blue', limits));
    };
    return story.step('promoting green', work, {
      interrupted: () => {
        ready.goBackWhileStopped();
        return afterInterruption(story, ref, this.#lastStage);
      },
      done: () => (run.wasPromoted ? 'promoted' : undefined),
      stopped: (wait) => {
        ready.goBackWhileStopped();
        return this.#whileStopped(wait);
      },
      ends: (error) =>
        isBlocked(error) && patched('a promotion that is blocked is approved anew, also where failures hold'),
    });
  }

  /** What follows when the tries have ended without a promotion. @returns whether writes have moved all the same */
  async #movedAfter(ended: Exclude<Ended, 'promoted'>, { ready }: Readied, isVoid: () => boolean): Promise<boolean> {
    const { story, ref } = this;
    const { run } = story;
    if (ended.by !== 'emptied') this.#emptiedInARow = 0;
    if (ended.by !== 'gate') run.warn([ended.why]);
    ready.goBack();
    switch (ended.by) {
      case 'gate': {
        const summary = 'a gate has failed: its watch says what follows';
        await this.#watched(() => sleep(LOOK_AGAIN_MS, { summary }));
        this.#question = this.#askedAgain(isVoid);
        return false;
      }
      case 'emptied':
        // What was approved still is: rows are compared once more, and it is tried again.
        this.#question = null;
        await this.#compareEmptied(ended.why, isVoid);
        return false;
      case 'restarted':
        this.#question = null;
        this.#comparedAt = NOT_COMPARED;
        return false;
      case 'poolers':
        this.#question = ended.why;
        await untilPoolersGoOn(story, ref, this.#lastStage);
        return run.wasPromoted;
      case 'time': {
        // A window that has closed is waited for; an approval that is too old, or void, is asked for again.
        const counts = run.isApproved('promote') && run.approvalExpired('promote') === undefined;
        this.#question = this.#isNeeded && !counts ? ended.why : null;
        return false;
      }
    }
  }

  async #compareEmptied(why: string, isVoid: () => boolean): Promise<void> {
    const { story, ref } = this;
    if (!patched('only tables whose partitions may have been emptied are compared again')) {
      this.#comparedAt = NOT_COMPARED;
      return;
    }
    const isOften = ++this.#emptiedInARow >= EMPTIED_TRIES;
    const heldFor = `${firstLine(why)}. That was so in ${EMPTIED_TRIES} tries in a row: ${STOP_THE_JOB}`;
    const stays = await this.#watched(async () => {
      if (isOften) await story.hold(heldFor);
      await verifyEmptied(story, ref);
    });
    if (isOften) this.#emptiedInARow = 0;
    if (!stays) this.#question = this.#askedAgain(isVoid);
  }
}

/** After so many tries in a row that a partition with another file has ended, somebody is to stop what does that. */
const EMPTIED_TRIES = 3;

const STOP_THE_JOB =
  'stop the job that gives partitions other files (TRUNCATE, VACUUM FULL, CLUSTER, pg_repack) until writes have moved, then resume';

/** How long the watch of the last stage gets to say that a gate has failed; it is asked again then. */
const LOOK_AGAIN_MS = 2_000;
