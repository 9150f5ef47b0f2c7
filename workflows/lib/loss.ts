import { firstLine } from '../../src/failure-text.js';

/*
 * What a rollback would lose, in words, by what makes it so. Whoever accepts a loss accepts what was named then: another
 * one, or a much larger one, is asked about anew. Pure.
 */

/**
 * `feed`: what was written since the feed to blue died. `behind`: what blue, whose feed lives, does not have yet. `late`:
 * the same, where it is not counted. The others are lost although the feed lives.
 */
type LossKind = Counted | 'late' | 'rows' | 'onlyOnGreen' | 'unmoved' | 'droppedOnBlue' | 'emptied';

type Counted = 'feed' | 'behind';

export type Loss = Readonly<Partial<Record<LossKind, string>>>;

/** All of it in one line; null when it is nothing. */
export function lossInWords(loss: Loss): string | null {
  const words = Object.values(loss);
  return words.length === 0 ? null : words.join('; ');
}

/** What has been accepted once `named` is accepted too: of two counts the larger one. */
export function withAccepted(accepted: Loss, named: Loss): Loss {
  const both = { ...accepted, ...named };
  return { ...both, ...larger('feed', accepted, named), ...larger('behind', accepted, named) };
}

function larger(kind: Counted, accepted: Loss, named: Loss): Loss {
  const [before, now] = [accepted[kind], named[kind]];
  return before !== undefined && now !== undefined && mostOf(before) >= mostOf(now) ? { [kind]: before } : {};
}

/** Whether everything that is named now has been accepted. */
export function isAccepted(accepted: Loss, named: Loss): boolean {
  return (Object.entries(named) as [LossKind, string][]).every(([kind, words]) => {
    const before = accepted[kind];
    if (before === undefined) return false;
    if (kind === 'late') return true;
    return kind === 'feed' || kind === 'behind' ? isWithin(before, words) : before === words;
  });
}

/** In which words that was accepted which a try names, and counts; undefined where it does not count it. */
export function countAccepted(accepted: Loss, named: Loss): string | undefined {
  if (named.feed !== undefined) return accepted.feed;
  return named.behind === undefined ? undefined : accepted.behind;
}

/** So many writes more, and more than twice as many, are a loss that somebody should hear of first. */
const CLEARLY_MORE = 1_000;

function isWithin(accepted: string, now: string): boolean {
  const before = mostOf(accepted);
  return mostOf(now) <= Math.max(2 * before, before + CLEARLY_MORE);
}

/** How many writes it may be, by the words of src/postgres/standby-loss.ts: any number where they could not be counted. */
function mostOf(words: string): number {
  const found = /\babout (\d+) writes?\b/.exec(words);
  return found === null ? Number.POSITIVE_INFINITY : Number(found[1]);
}

/** What a failed try of the way back says that it would lose. */
export function feedLossOf(message: string): Loss {
  return { feed: namedIn(message) ?? firstLine(message) };
}

/** What a try that is blocked since blue is late says that it would lose if it were forced; null where it does not say. */
export function countedLateLossOf(message: string): Loss | null {
  const behind = namedIn(message);
  return behind === undefined ? null : { behind };
}

function namedIn(message: string): string | undefined {
  return /a rollback would lose (.*)/.exec(firstLine(message))?.[1];
}

/** Whether a try that has failed so may go through with a loss: one that is blocked only where blue does not follow. */
export function isHelpedByLoss(type: string | undefined, message: string): boolean {
  return type === 'PromotionBlocked' && IS_BEHIND.test(message);
}

/** What is in the way of a forced try as well: somebody, a server that is away, a lock, a fence, what is to be looked at first, a pooler. */
const IN_ANY_WAY = [
  'PromotionBlocked',
  'ConnectionFailed',
  'LockNotHad',
  'FenceTampered',
  'NotOpened',
  'PartitionEmptied',
  'PoolNotReleased',
];

/** What isHelpedByLoss() took for helped beside it under an earlier version: whatever is not known to be of no help. */
export function wasHeldToBeHelped(type: string | undefined): boolean {
  return type === undefined || !IN_ANY_WAY.includes(type);
}

/** The words of src/postgres for that. */
const IS_BEHIND =
  /\b(is too far behind|did not catch up within|has no subscription|the feed \S+ is (not through|disabled))\b/;

/** What somebody accepts who has the way back forced where it is only late, and nobody says by how much. */
export const LATE: Loss = { late: 'what blue does not have by then' };

/** What a way back with a loss may have left behind where green, which is lost by then, can't be asked. */
export const NOT_COUNTED = 'what it may lack of green (not known: green does not answer)';
