import { isAtMost, lowerBound, neededSample, upperBound } from './binomial.js';
import { evidenceAbove, evidenceLarger, FALSE_ALARM, suffices, type Pieces } from './persistent-evidence.js';
import { surelyAbove, surelyLarger } from './sequential.js';

/** A question about a share of requests that must not be too large. */
export interface ShareQuestion<Slice = never> {
  /** The largest share allowed. */
  readonly share: number;
  /** What was counted on green: at least `surely`, at most `possibly`. */
  readonly green: { readonly surely: number; readonly possibly: number; readonly of: number };
  /** The same on blue, if green is to blame only where it is worse than blue. */
  readonly blue?: BlueCount;
  /** What is counted, for people. */
  readonly what: string;
  /** The same counts in pieces of a few seconds, where they are known. */
  readonly pieces?: Pieces<Slice>;
  /** The chance to fail a green that keeps its limit, over all looks; FALSE_ALARM by default. Only with `pieces`. */
  readonly falseAlarm?: number;
}

export interface BlueCount {
  readonly hits: number;
  readonly of: number;
  /** Counted at the same time as green's and enough to be compared with slice by slice; otherwise before. */
  readonly isBeside?: boolean;
}

export interface ShareVerdict {
  readonly outcome: 'pass' | 'fail' | 'inconclusive' | 'error';
  readonly because: string;
}

/** Fewer hits than this fail nothing, however small the limit: one unlucky request may be the first of the stage. */
export const HITS_TO_FAIL = 3;

/**
 * pass: the share is at most the allowed one with 95 % confidence. fail: it is above it and above blue's, by evidence
 * that may be looked at again and again and that does not come from one moment (persistent-evidence.ts). Else
 * inconclusive, with how many requests are missing.
 */
export function judgeShare<Slice>(question: ShareQuestion<Slice>): ShareVerdict {
  const { share, green, what, pieces } = question;
  const { surely, possibly, of } = green;
  if (of === 0) {
    return said('inconclusive', () => `no requests yet; ${count(neededSample(0, share))} are needed (${what})`);
  }
  const allowed = `${percent(share)} allowed`;
  const counted = (): string =>
    `${count(surely)}${possibly === surely ? '' : ` to ${count(possibly)}`} of ${count(of)} ${what}`;
  const atLeast = (): string => `${counted()}: at least ${percent(lowerBound(surely, of))} (95 %); ${allowed}`;
  const isKept = isAtMost(share, possibly, of);
  // Before passing: a green that has become bad a minute ago has a good share over the whole of a long stage.
  if (surely >= HITS_TO_FAIL) {
    const missing = pieces === undefined ? missingInSum(question) : missingIn(question, pieces);
    if (missing === undefined) return said('fail', () => `${atLeast()}${besides(question)}`);
    if (!isKept && surelyAbove(share, surely, of)) return said('inconclusive', () => `${atLeast()}; but ${missing}`);
  }
  if (isKept) {
    return said('pass', () => `${counted()}: at most ${percent(upperBound(possibly, of))} (95 %); ${allowed}`);
  }
  return said('inconclusive', () => {
    const more = Math.max(1, neededSample(possibly, share) - of);
    return `${counted()}; ${allowed}; ${count(more)} more without a further one would pass`;
  });
}

/** A verdict whose reason is put into words when somebody asks for it: gates are asked twice a second, people seldom. */
function said(outcome: ShareVerdict['outcome'], because: () => string): ShareVerdict {
  return {
    outcome,
    get because() {
      return because();
    },
  };
}

/** What is missing for blaming green by sums alone; undefined where nothing is. */
function missingInSum<Slice>({ share, green, blue }: ShareQuestion<Slice>): string | undefined {
  const { surely, of } = green;
  if (!surelyAbove(share, surely, of)) return 'not surely';
  if (blue === undefined || blue.of === 0 || surelyLarger(surely, of, blue.hits, blue.of)) return undefined;
  return notWorse(blue);
}

/** What is missing for blaming green by what its slices show together; undefined where nothing is. */
function missingIn<Slice>(
  { share, blue, falseAlarm = FALSE_ALARM }: ShareQuestion<Slice>,
  pieces: Pieces<Slice>,
): string | undefined {
  const shows = (evidence: readonly number[]): boolean => suffices(evidence, falseAlarm);
  const isBeside = blue === undefined || blue.isBeside === true;
  if (!shows(evidenceAbove(pieces, share, !isBeside))) return 'not for long enough: a few moments fail nothing';
  if (blue === undefined || blue.of === 0) return undefined;
  if (isBeside) return shows(evidenceLarger(pieces)) ? undefined : notWorse(blue);
  const blueAtMost = roundedUp(upperBound(blue.hits, blue.of, falseAlarm));
  const isWorse = blueAtMost <= share || shows(evidenceAbove(pieces, blueAtMost, true));
  return isWorse ? undefined : notWorse(blue);
}

/** To two digits: evidence is collected for each share by itself, and blue's changes with every read. */
function roundedUp(share: number): number {
  const unit = 10 ** (Math.floor(Math.log10(share)) - 1);
  return Math.min(1 - 1e-9, Math.ceil(share / unit) * unit);
}

/** What blue was like, for people, where green has failed. */
function besides<Slice>({ green, blue }: ShareQuestion<Slice>): string {
  if (blue === undefined) return '';
  if (blue.of === 0) return '; blue had too few reads to compare with';
  const worseBy = percent(green.surely / green.of - blue.hits / blue.of);
  return `; ${onBlue(blue)}: green is worse by ${worseBy}`;
}

function notWorse(blue: BlueCount): string {
  return `${onBlue(blue)}: green is not surely worse, so it is not blamed`;
}

function onBlue({ hits, of }: BlueCount): string {
  return `${count(hits)} of ${count(of)} on blue`;
}

/** A whole number for people: 12,345. */
export function count(n: number): string {
  return String(n).replaceAll(/\B(?=(\d{3})+$)/g, ',');
}

/** A share for people: `0.0998 %`. */
export function percent(share: number): string {
  return `${Number((share * 100).toPrecision(3))} %`;
}

/** Names for people: the first few. */
export function listed(names: readonly string[]): string {
  return names.length <= 5 ? names.join(', ') : `${names.slice(0, 5).join(', ')} and ${names.length - 5} more`;
}

/** Nothing can be concluded, and why. */
export function inconclusive(because: string): ShareVerdict {
  return { outcome: 'inconclusive', because };
}
