import { ApplicationFailure, type Context } from '@temporalio/activity';
import type { ActivityInboundCallsInterceptor, ActivityInterceptorsFactory } from '@temporalio/worker';
import type { Environment } from './connections.js';

/*
 * How many activities one worker runs at once. A run that waits holds three of them for days (the WAL that blue keeps,
 * blue's schema, the gates), and one that is full takes nothing new: no guard of another run, no rollback. A slot itself
 * costs next to nothing, so there are many; and copies, of which one run may have 64, never get more than half of them.
 */

const DEFAULT_SLOTS = 1_000;
const LEAST_SLOTS = 20;
const MOST_SLOTS = 100_000;

/** The one kind of which a run has more than a few at once. */
const COPY = 'copyParcel';
const SHARE_OF_COPIES = 0.5;
/** From this share on people are told. */
const NEARLY_FULL = 0.9;

/** @throws Error when VERDIGRIS_ACTIVITIES is no number of slots. */
export function activitySlots(environment: Environment): number {
  const text = environment['VERDIGRIS_ACTIVITIES'];
  if (text === undefined || text === '') return DEFAULT_SLOTS;
  const slots = Number(text);
  if (Number.isInteger(slots) && slots >= LEAST_SLOTS && slots <= MOST_SLOTS) return slots;
  throw new Error(
    `VERDIGRIS_ACTIVITIES is "${text}": write how many activities the worker may run at once, ${LEAST_SLOTS} to ${MOST_SLOTS}, or leave it out (${DEFAULT_SLOTS})`,
  );
}

/**
 * Counts what the worker runs. A copy beyond their share ends at once and is tried again soon, here or by another worker:
 * its slot is free meanwhile. A worker that is nearly full says so in its log.
 */
export class ActivitySlots {
  #running = 0;
  #copies = 0;
  #told = false;

  constructor(private readonly slots: number) {}

  readonly interceptor: ActivityInterceptorsFactory = (context) => ({ inbound: this.#counting(context) });

  #counting(context: Context): ActivityInboundCallsInterceptor {
    return {
      execute: async (input, next) => {
        const isCopy = context.info.activityType === COPY;
        if (isCopy && this.#copies >= Math.floor(this.slots * SHARE_OF_COPIES)) throw busy(this.#copies, this.slots);
        this.#running += 1;
        if (isCopy) this.#copies += 1;
        this.#tellWhenNearlyFull(context);
        try {
          return await next(input);
        } finally {
          this.#running -= 1;
          if (isCopy) this.#copies -= 1;
        }
      },
    };
  }

  #tellWhenNearlyFull(context: Context): void {
    const isNearlyFull = this.#running >= this.slots * NEARLY_FULL;
    if (isNearlyFull && !this.#told) {
      context.log.warn(
        `the worker runs ${this.#running} of the ${this.slots} activities that it may run at once, and takes nothing new when it is full: start another worker, or raise VERDIGRIS_ACTIVITIES`,
      );
    }
    this.#told = isNearlyFull;
  }
}

function busy(copies: number, slots: number): ApplicationFailure {
  return ApplicationFailure.create({
    type: 'WorkerBusy',
    message: `the worker runs ${copies} copies, as many as it may of ${slots} activities\nNext step: wait; or start another worker, or raise VERDIGRIS_ACTIVITIES`,
    nonRetryable: false,
    nextRetryDelay: '2s',
  });
}
