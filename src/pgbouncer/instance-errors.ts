import { VerdigrisError } from '../errors.js';
import { ReadersLost } from '../file-readers.js';
import { promotionBlocked } from '../postgres/hold.js';
import { PoolerTaken } from '../postgres/pools.js';
import type { Mark } from './mark.js';
import type { PgBouncer } from './pgbouncer.js';

/*
 * Why one PgBouncer can't be brought to where it should be.
 */

/** Its mark says a later epoch. */
export function tooLate({ connection }: PgBouncer, known: Mark, mine: { readonly epoch: number }): VerdigrisError {
  return new VerdigrisError({
    type: 'StaleEpoch',
    message: `PgBouncer "${connection}" is at epoch ${known.epoch} (${known.side}); this worker acts for epoch ${mine.epoch}`,
    nextStep: 'nothing: whoever moved the writes since goes on',
  });
}

/** The migrations that have announced a pause there. */
export function inOtherPromotion({ connection }: PgBouncer, migrations: readonly string[]): PoolerTaken {
  return new PoolerTaken({
    type: 'PromotionBlocked',
    message: `PgBouncer "${connection}" is in the promotion of another migration, "${migrations.join('", "')}" (if no run of it lives: RELOAD, on its admin console, ends the settings of its pause)`,
    nextStep: 'wait: its turn comes when that promotion is over',
  });
}

/** Nobody's PAUSE of an entry is taken then, and every client waits. */
export function pausedAsAWhole({ connection }: PgBouncer): VerdigrisError {
  return promotionBlocked(
    `PgBouncer "${connection}" is paused as a whole (PAUSE or SUSPEND without a name), and not by Verdigris: RESUME without a name, on its admin console, ends it`,
  );
}

export function silent({ connection }: PgBouncer, ms: number): VerdigrisError {
  return promotionBlocked(`the console of PgBouncer "${connection}" has not answered within ${ms} ms`);
}

export function notLoaded({ connection, file }: PgBouncer): VerdigrisError {
  return new VerdigrisError({
    type: 'PoolNotReleased',
    message: `PgBouncer "${connection}" was told to RELOAD, but does not show what ${file} says`,
    nextStep:
      'see its log: its configuration must include that very file (%include; a mounted folder, not a mounted file) and its user must be able to read it',
    retryable: true,
  });
}

export function notWritten({ connection, file }: PgBouncer, cause: unknown): VerdigrisError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new VerdigrisError({
    type: 'PoolNotReleased',
    message: `the file ${file} of PgBouncer "${connection}" can't be changed: ${why}`,
    nextStep:
      cause instanceof ReadersLost
        ? cause.nextStep
        : 'see that it is there where the worker runs and that the worker may write it and its folder',
    retryable: true,
    cause,
  });
}
