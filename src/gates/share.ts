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
const HITS_TO_FAIL = 3;

/**
 * pass: the share is at most the allowed one with 95 % confidence. fail: it is above it and above blue's, by evidence
 * that may be looked at again and again and that does not come from one moment (persistent-evidence.ts). Else
 * inconclusive, with how many requests are missing.
 */
export function judgeShare<Slice>(question: ShareQuestion<Slice>): ShareVerdict {
  const { share, green, blue, what, pieces } = question;
  const { surely, possibly, of } = green;
  const allowed = `${percent(share)} allowed`;
  const counted = `${count(surely)}${possibly === surely ? '' : ` to ${count(possibly)}`} of ${count(of)} ${what}`;
  if (of === 0) {
    return {
      outcome: 'inconclusive',
      because: `no requests yet; ${count(neededSample(0, share))} are needed (${what})`,
    };
  }
  const atLeast = `${counted}: at least ${percent(lowerBound(surely, of))} (95 %); ${allowed}`;
  // Before passing: a green that has become bad a minute ago has a good share over the whole of a long stage.
  if (surely >= HITS_TO_FAIL && pieces !== undefined) {
    const verdict = persistence(question, pieces, atLeast);
    if (verdict.outcome === 'fail') return verdict;
    if (!isAtMost(share, possibly, of) && surelyAbove(share, surely, of)) return verdict;
  }
  if (isAtMost(share, possibly, of)) {
    return { outcome: 'pass', because: `${counted}: at most ${percent(upperBound(possibly, of))} (95 %); ${allowed}` };
  }
  if (surely >= HITS_TO_FAIL && pieces === undefined && surelyAbove(share, surely, of)) {
    return blameGreen(atLeast, surely, of, blue);
  }
  const missing = Math.max(1, neededSample(possibly, share) - of);
  return {
    outcome: 'inconclusive',
    because: `${counted}; ${allowed}; ${count(missing)} more without a further one would pass`,
  };
}

/** Fails green by what its slices show together, and says what is missing where they don't. */
function persistence<Slice>(
  { share, green, blue, falseAlarm = FALSE_ALARM }: ShareQuestion<Slice>,
  pieces: Pieces<Slice>,
  atLeast: string,
): ShareVerdict {
  const shows = (evidence: readonly number[]): boolean => suffices(evidence, falseAlarm);
  if (blue?.isBeside === true) {
    if (!shows(evidenceAbove(pieces, share, false))) return inconclusive(`${atLeast}; but ${NOT_LONG}`);
    return blamed(atLeast, green, blue, shows(evidenceLarger(pieces)));
  }
  if (blue === undefined) {
    if (!shows(evidenceAbove(pieces, share, false))) return inconclusive(`${atLeast}; but ${NOT_LONG}`);
    return { outcome: 'fail', because: atLeast };
  }
  if (!shows(evidenceAbove(pieces, share, true))) return inconclusive(`${atLeast}; but ${NOT_LONG}`);
  if (blue.of === 0) return { outcome: 'fail', because: `${atLeast}; blue had too few reads to compare with` };
  const blueAtMost = roundedUp(upperBound(blue.hits, blue.of, falseAlarm));
  return blamed(atLeast, green, blue, blueAtMost <= share || shows(evidenceAbove(pieces, blueAtMost, true)));
}

/** To two digits: evidence is collected for each share by itself, and blue's changes with every read. */
function roundedUp(share: number): number {
  const unit = 10 ** (Math.floor(Math.log10(share)) - 1);
  return Math.min(1 - 1e-9, Math.ceil(share / unit) * unit);
}

const NOT_LONG = 'not for long enough: a few moments fail nothing';

function blameGreen(because: string, hits: number, of: number, blue: BlueCount | undefined): ShareVerdict {
  if (blue === undefined) return { outcome: 'fail', because };
  if (blue.of === 0) return { outcome: 'fail', because: `${because}; blue had too few reads to compare with` };
  return blamed(because, { surely: hits, of }, blue, surelyLarger(hits, of, blue.hits, blue.of));
}

function blamed(
  because: string,
  green: { readonly surely: number; readonly of: number },
  blue: BlueCount,
  isWorse: boolean,
): ShareVerdict {
  const onBlue = `${count(blue.hits)} of ${count(blue.of)} on blue`;
  if (isWorse) {
    const worseBy = percent(green.surely / green.of - blue.hits / blue.of);
    return { outcome: 'fail', because: `${because}; ${onBlue}: green is worse by ${worseBy}` };
  }
  return inconclusive(`${because}; but ${onBlue}: green is not surely worse, so it is not blamed`);
}

/** A whole number for people: 12,345. */
export function count(n: number): string {
  return String(n).replaceAll(/\B(?=(\d{3})+$)/g, ',');
}

/** A share for people: `0.0998 %`. */
export function percent(share: number): string {
  return `${Number((share * 100).toPrecision(3))} %`;
}

/** Nothing can be concluded, and why. */
export function inconclusive(because: string): ShareVerdict {
  return { outcome: 'inconclusive', because };
}
