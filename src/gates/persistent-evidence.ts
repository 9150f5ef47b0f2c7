import { logRatio, ODDS_RATIOS } from './sequential.js';
import type { Slices } from './slices.js';

/*
 * Evidence that a share is too large, collected in slices of a few seconds, which may be looked at at any time.
 *
 * Requests of one moment share their fate: a pause, a lost connection, a checkpoint make a hundred of them fail, and a
 * test that takes them for a hundred witnesses ends a healthy green. So the slice is the witness, and what one slice can
 * add is bounded: evidence takes several of them, one after the other.
 *
 * For each odds ratio the evidence is S <- (S + w) * min(likelihood ratio of the slice, most). Where the share keeps its
 * limit, each factor is 1 or less in the mean, and the weights w of all slices sum to 1: so S is a supermartingale that
 * begins at 1 at the most, and it reaches 1/a with a chance of at most a, over all looks together (Ville). The weights
 * let it begin at any slice: an hour of good slices does not hide a green that has become bad.
 */

/** The chance that a question (a gate in a stage) fails a green that keeps its limit: a plan of a hundred such questions has 1 in 10,000. */
export const FALSE_ALARM = 1e-6;

/** A slice makes the evidence at most so many times as strong: seven of them at least, half a minute, are needed. */
const MOST_OF_A_SLICE = 10;
/** Where blue has no reads at the same time, a trouble of both sides looks like one of green's: it takes twice as long. */
const MOST_WITHOUT_BLUE = Math.sqrt(MOST_OF_A_SLICE);
/** The same for a slice in which a large part of all of green's requests is hit, which no noise does: three are needed. */
const MOST_OF_AN_OUTAGE = 1_000;
const OUTAGE = { hits: 5, share: 0.5 } as const;

/** What one slice counted. */
export interface Piece {
  /** On green, at least. */
  readonly surely: number;
  readonly of: number;
  /** On blue, at most. */
  readonly blueHits: number;
  readonly blueOf: number;
}

/** The evidence by odds ratio: to be treated as a whole. */
export type Evidence = readonly number[];

/** Slices in which something is counted. */
export interface Pieces<Slice> {
  readonly slices: Slices<Slice>;
  /** What is counted, unique among the questions of a stage. */
  readonly name: string;
  readonly count: (slice: Slice) => Piece;
  /** Whether a slice full of hits is no outage: of one endpoint, which a single lock stops; of reads that blue answers
   *  while green catches up; of a share that is large on any day. */
  readonly noOutage?: boolean;
}

/** Evidence by which `a` is exceeded at most once in 1/a stages. */
export function suffices(evidence: Evidence, falseAlarm: number): boolean {
  return mean(evidence) * falseAlarm >= 1;
}

/** The evidence that green's share is above `share`. */
export function evidenceAbove<Slice>(
  { slices, name, count, noOutage = false }: Pieces<Slice>,
  share: number,
  withoutBlue: boolean,
): Evidence {
  const most = withoutBlue ? MOST_WITHOUT_BLUE : MOST_OF_A_SLICE;
  const mostOf = mostOfASlice(most, noOutage);
  const key = `${name} above ${share}${withoutBlue ? ' without blue' : ''}`;
  return slices.fold(key, NONE, (evidence, slice, number) => {
    const { surely, of } = count(slice);
    return grown(evidence, number, share, surely, of - surely, mostOf(surely, of));
  });
}

/**
 * The evidence that green's share is larger than blue's, compared slice by slice: what troubles both at the same time
 * shows nothing. Where the two are equal, each hit of a slice is green's with the chance of green's part of its requests.
 */
export function evidenceLarger<Slice>({ slices, name, count, noOutage = false }: Pieces<Slice>): Evidence {
  const mostOf = mostOfASlice(MOST_OF_A_SLICE, noOutage);
  return slices.fold(`${name} larger`, NONE, (evidence, slice, number) => {
    const { surely, of, blueHits, blueOf } = count(slice);
    // A slice with reads on one side only compares nothing.
    if (of === 0 || blueOf === 0) return grown(evidence, number, 0.5, 0, 0, 1);
    return grown(evidence, number, of / (of + blueOf), surely, blueHits, mostOf(surely, of));
  });
}

const NONE: Evidence = ODDS_RATIOS.map(() => 0);
const MOST_LOG = 600;

function grown(
  evidence: Evidence,
  number: number,
  share: number,
  hits: number,
  misses: number,
  most: number,
): Evidence {
  // 1/2 + 1/6 + 1/12 + ... = 1
  const weight = 1 / ((number + 1) * (number + 2));
  const mostLog = Math.log(most);
  return ODDS_RATIOS.map((ratio, index) => {
    const log = Math.min(mostLog, logRatio(share, ratio, hits, misses));
    return Math.min(Math.exp(MOST_LOG), ((evidence[index] ?? 0) + weight) * Math.exp(log));
  });
}

function mostOfASlice(usual: number, noOutage: boolean): (hits: number, of: number) => number {
  return (hits, of) => (!noOutage && hits >= OUTAGE.hits && hits >= OUTAGE.share * of ? MOST_OF_AN_OUTAGE : usual);
}

function mean(evidence: Evidence): number {
  return evidence.reduce((sum, one) => sum + one, 0) / ODDS_RATIOS.length;
}
