import { differenceLowerBound, isAbove, isAtMost, lowerBound, neededSample, upperBound } from './binomial.js';

/** A question about a share of requests that must not be too large. */
export interface ShareQuestion {
  /** The largest share allowed. */
  readonly share: number;
  /** What was counted on green: at least `surely`, at most `possibly`. */
  readonly green: { readonly surely: number; readonly possibly: number; readonly of: number };
  /** The same on blue, if green is to blame only where it is worse than blue. */
  readonly blue?: { readonly hits: number; readonly of: number };
  /** What is counted, for people. */
  readonly what: string;
}

export interface ShareVerdict {
  readonly outcome: 'pass' | 'fail' | 'inconclusive';
  readonly because: string;
}

/**
 * Fewer hits than this fail nothing. A gate is looked at again and again from its first request on, and one unlucky
 * request among the first fifty would be "above 0.1 %" with 95 % confidence.
 */
const HITS_TO_FAIL = 3;

/**
 * pass: the share is at most the allowed one with 95 % confidence. fail: it is above it with 95 % confidence, and green
 * is worse than blue. Else inconclusive, with how many requests are missing.
 */
export function judgeShare({ share, green, blue, what }: ShareQuestion): ShareVerdict {
  const { surely, possibly, of } = green;
  const allowed = `${percent(share)} allowed`;
  const counted = `${count(surely)}${possibly === surely ? '' : ` to ${count(possibly)}`} of ${count(of)} ${what}`;
  if (of === 0) {
    return {
      outcome: 'inconclusive',
      because: `no requests yet; ${count(neededSample(0, share))} are needed (${what})`,
    };
  }
  if (isAtMost(share, possibly, of)) {
    return { outcome: 'pass', because: `${counted}: at most ${percent(upperBound(possibly, of))} (95 %); ${allowed}` };
  }
  if (surely >= HITS_TO_FAIL && isAbove(share, surely, of)) {
    const atLeast = `${counted}: at least ${percent(lowerBound(surely, of))} (95 %); ${allowed}`;
    return blameGreen(atLeast, surely, of, blue);
  }
  const missing = Math.max(1, neededSample(possibly, share) - of);
  return {
    outcome: 'inconclusive',
    because: `${counted}; ${allowed}; ${count(missing)} more without a further one would pass`,
  };
}

function blameGreen(because: string, hits: number, of: number, blue: ShareQuestion['blue']): ShareVerdict {
  if (blue === undefined) return { outcome: 'fail', because };
  if (blue.of === 0) return { outcome: 'fail', because: `${because}; blue had no reads to compare with` };
  const onBlue = `${count(blue.hits)} of ${count(blue.of)} on blue`;
  const more = differenceLowerBound(hits, of, blue.hits, blue.of);
  if (more > 0)
    return { outcome: 'fail', because: `${because}; ${onBlue}, so green is worse by at least ${percent(more)}` };
  return {
    outcome: 'inconclusive',
    because: `${because}; but ${onBlue}: blue is as bad, so green is not the cause`,
  };
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
