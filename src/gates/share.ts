import { isAtMost, lowerBound, neededSample, upperBound } from './binomial.js';
import { surelyAbove, surelyLarger } from './sequential.js';

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
  /** The same count in pieces of a few seconds, where it is known: no single one of them fails a gate. Asked for only
   *  when it matters: a long stage has thousands. */
  readonly bursts?: () => readonly Burst[];
  /** How many such questions are asked side by side. Default 1. */
  readonly among?: number;
}

export interface Burst {
  readonly surely: number;
  readonly of: number;
}

export interface ShareVerdict {
  readonly outcome: 'pass' | 'fail' | 'inconclusive' | 'error';
  readonly because: string;
}

/** Fewer hits than this fail nothing, however small the limit: one unlucky request may be the first of the stage. */
const HITS_TO_FAIL = 3;

/**
 * pass: the share is at most the allowed one with 95 % confidence. fail: it is above it, by evidence that may be looked
 * at again and again (sequential.ts), that does not come from one moment, and that is worse than blue's. Else
 * inconclusive, with how many requests are missing.
 */
export function judgeShare({ share, green, blue, what, bursts, among = 1 }: ShareQuestion): ShareVerdict {
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
  if (surely >= HITS_TO_FAIL && surelyAbove(share, surely, of, among)) {
    const atLeast = `${counted}: at least ${percent(lowerBound(surely, of))} (95 %); ${allowed}`;
    const worst = (bursts?.() ?? []).reduce((most, burst) => (burst.surely > most.surely ? burst : most), NO_BURST);
    if (!surelyAbove(share, surely - worst.surely, of - worst.of, among)) {
      const when = `${count(worst.surely)} of them within a few seconds: one moment fails nothing`;
      return inconclusive(`${atLeast}; but ${when}`);
    }
    return blameGreen(atLeast, surely, of, blue, among);
  }
  const missing = Math.max(1, neededSample(possibly, share) - of);
  return {
    outcome: 'inconclusive',
    because: `${counted}; ${allowed}; ${count(missing)} more without a further one would pass`,
  };
}

function blameGreen(
  because: string,
  hits: number,
  of: number,
  blue: ShareQuestion['blue'],
  among: number,
): ShareVerdict {
  if (blue === undefined) return { outcome: 'fail', because };
  if (blue.of === 0) return { outcome: 'fail', because: `${because}; blue had no reads to compare with` };
  const onBlue = `${count(blue.hits)} of ${count(blue.of)} on blue`;
  if (surelyLarger(hits, of, blue.hits, blue.of, among)) {
    const worseBy = percent(hits / of - blue.hits / blue.of);
    return { outcome: 'fail', because: `${because}; ${onBlue}: green is worse by ${worseBy}` };
  }
  return inconclusive(`${because}; but ${onBlue}: green is not surely worse, so it is not blamed`);
}

const NO_BURST: Burst = { surely: 0, of: 0 };

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
