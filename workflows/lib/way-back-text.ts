import { NEXT_STEP } from '../../src/failure-text.js';

/*
 * What a blocked way back says. Its tries are those of a promotion, whose errors tell whoever is to approve it again: here
 * nobody can, and it goes on by itself. Pure.
 */

const BLOCKED = /^the promotion could not go through: /;

/** The end of such a next step: `, then approve the promotion again; writes go on as before`. */
const APPROVAL = /[,;] (?:then |resume )(?:(?!; ).)*?\bapprove\b.*$/s;

/** What a try of the way back has failed by, without what only the promotion to green asks for. */
export function withoutApproval(message: string): string {
  const [reason = '', next] = message.split(NEXT_STEP, 2);
  const blocked = reason.replace(BLOCKED, "writes can't go back to blue yet: ");
  return next === undefined ? blocked : `${blocked}${NEXT_STEP}${next.replace(APPROVAL, '')}`;
}

/**
 * Why the way back waits, with what comes next and what `retire` would do: it is the one answer, beside a loss.
 *
 * @param more what else is known of it
 * @param writesAre where writes are for good once it is given up
 */
export function whyWayBackWaits(message: string, more: string, writesAre: string): string {
  const [reason = '', next] = withoutApproval(message).split(NEXT_STEP, 2);
  const first = next === undefined ? '' : `${next}; `;
  const given = `\`retire\` gives the rollback up, and writes stay ${writesAre}`;
  return `${reason}${more}${NEXT_STEP}${first}it is tried again by itself; ${given}`;
}
