/*
 * What was counted in a stage, in parts of a minute in which there were requests. A series that appears with its past (it
 * was missed when the stage opened, or has got other labels) brings the requests of hours in one answer, and nothing in
 * the sum shows whence they are. But it comes once: a part with far more than all but a few others is doubted until as
 * many like it have come, which a batch each ten minutes does, and a load that has grown.
 */

export interface Counters {
  readonly hits: number;
  readonly of: number;
}

/** A part that is over, or the one that is not yet. Plain data. */
export interface Part extends Counters {
  /** By Prometheus' clock, s. */
  readonly from: number;
  readonly to: number;
  /** What was taken for something that comes back, or falls again, and is no more than usual: it may be of the stage. */
  readonly back: Counters;
  /** The most that one answer has added. */
  readonly most: Counters;
  /** By how many requests each answer has risen, with what came back. */
  readonly rises: readonly number[];
  /** How many answers were falls. */
  readonly falls: number;
  /** Since when it has far more than any before it, by Prometheus' clock, s: a minute from then on fails nothing. */
  readonly heldSince?: number;
}

export interface Parts {
  /** What is judged for good: of parts that are none of the largest, and of before there were parts. */
  readonly sure: Counters;
  readonly doubted: Counters;
  /** The largest ones of before the newest, largest first; left out by versions that did not keep them. */
  readonly largest?: readonly Part[];
  /** The last ones that are over, oldest first. The newest of them are not judged for good: what they have may fall again. */
  readonly over: readonly Part[];
  readonly current?: Part;
}

/** Prometheus reads its targets once a minute or more often: each part has what one reading brought. */
const PART_SECONDS = 60;
/** So many of the last ones tell what is usual. */
const NEWEST = 5;
/** A part may pass a gate when so many others have as much, or all where there are fewer. */
const LIKE_IT_TO_PASS = 2;
/** It may fail one when so many of before it have, or when it goes on for more than a minute. */
const LIKE_IT_TO_FAIL = 1;
/** What is usual is known from so many parts. */
const PARTS_KNOWN = 2;
/** A part with more than so many times what another has is not like it. */
const TIMES_USUAL = 10;
/** The same for each further minute in which nobody has asked. */
const TIMES_LATER = 2;
/** So few are no jump: without an error they pass no gate with a limit up to 10 %. */
const FEW = 28;
/** What was taken for something that comes back keeps its errors for so many parts. */
const BACK_PARTS = 3;
/** A part in which one answer falls for so many that rise, or fewer: what it has counted may be what comes back. */
const RISES_OF_A_FALL = 2;
/** What falls again is as large as what has come, but for what was counted meanwhile. */
const AS_LARGE = 0.1;

/** One answer: by how many requests it has risen, what of that was added, what may have come back, and whether it has fallen. */
interface Step {
  readonly from: number;
  readonly at: number;
  readonly rise: number;
  readonly added: Counters;
  readonly back: Counters;
  readonly hasFallen: boolean;
}

/** Puts an answer into its part. @returns whether it is of a held minute */
export function partsAfter(
  parts: Parts,
  { from, at, rise, added, back, hasFallen }: Step,
): { parts: Parts; isHeld: boolean } {
  const begun = parts.current ?? { from, to: from, ...NOTHING, back: NOTHING, most: NOTHING, rises: [], falls: 0 };
  const grown: Part = {
    ...{ from: begun.from, to: at, ...sumOf(begun, added), back: sumOf(begun.back, back) },
    most: added.of > begun.most.of ? added : begun.most,
    rises: rise > 0 ? [...begun.rises, rise] : begun.rises,
    falls: begun.falls + (hasFallen ? 1 : 0),
  };
  const heldSince = begun.heldSince ?? (isAlone(parts, grown) ? at : undefined);
  const current = heldSince === undefined ? grown : { ...grown, heldSince };
  const isOver = at - (heldSince ?? current.from) >= PART_SECONDS;
  const isHeld = heldSince !== undefined && !isOver;
  if (!isOver) return { parts: { ...parts, current }, isHeld };
  const { sure, doubted, largest = [], over } = parts;
  const isEmpty = current.of === 0 && current.hits === 0 && current.back.of === 0;
  const known = { sure, doubted, largest, over: isEmpty ? over : [...over, current] };
  return { parts: isEmpty ? known : withOver(known), isHeld };
}

/** Whether a part that is not over has far more than any of before it. */
function isAlone(parts: Parts, part: Part): boolean {
  const before = unjudged(parts).filter(isSteady);
  return before.length >= PARTS_KNOWN && exceeds(part, asMuchAs(before, LIKE_IT_TO_FAIL));
}

/** What is judged for good is added up: all but the largest, of which some may be doubted. */
function withOver({ sure, doubted, largest = [], over }: Parts): Parts {
  const kept = over.slice(-2 * NEWEST);
  const part = over.at(-NEWEST - 1);
  if (part === undefined) return { sure, doubted, largest, over };
  if (isTorn(part)) return { sure, doubted: sumOf(doubted, part), largest, over: kept };
  const sorted = [...largest, part].toSorted((a, b) => rateOf(b) - rateOf(a));
  const small = sorted.slice(LIKE_IT_TO_PASS + 1);
  return {
    sure: small.reduce<Counters>(sumOf, sure),
    doubted,
    largest: sorted.slice(0, LIKE_IT_TO_PASS + 1),
    over: kept,
  };
}

function unjudged({ largest = [], over }: Parts): readonly Part[] {
  return [...largest, ...over.slice(-NEWEST)];
}

export interface Judged {
  /** Of the stage. */
  readonly sure: Counters;
  /** It may be of before it: its requests pass nothing, and its errors keep from passing. */
  readonly doubted: Counters;
  /** Whether there is enough to tell one from the other. */
  readonly isKnown: boolean;
  /** Whether the sum falls so often that nothing is known of it. */
  readonly isTorn: boolean;
}

/** What may be concluded from, with the hindsight of now. */
export function judgedParts(parts: Parts): Judged {
  const { over, current } = parts;
  const done = unjudged(parts);
  let { sure, doubted } = parts;
  for (const part of current === undefined ? done : [...done, current]) {
    const others = done.filter((other) => other !== part && isSteady(other));
    const isDoubted = (part !== current && isTorn(part)) || exceeds(part, asMuchAs(others, LIKE_IT_TO_PASS));
    if (isDoubted) doubted = sumOf(doubted, part);
    else sure = sumOf(sure, part);
  }
  for (const { back } of [...over, ...(current === undefined ? [] : [current])].slice(-1 - BACK_PARTS))
    doubted = sumOf(doubted, back);
  const steady = over.filter(isSteady).length;
  return { sure, doubted, isKnown: steady >= PARTS_KNOWN, isTorn: over.length > 0 && steady === 0 };
}

/** Requests a minute by the last parts that are over; undefined while there are too few of them. */
export function usualAMinute({ over }: Parts): number | undefined {
  const seen = over.filter(isSteady);
  return seen.length < PARTS_KNOWN ? undefined : medianRate(seen.slice(-NEWEST));
}

/**
 * Requests a minute that are no more than growth, by all that is known so far; undefined while nothing is. Where what is
 * usual is taken for what comes back, the small rises tell it: what comes back is large, and not in every answer.
 */
export function growthAMinute(parts: Parts): number | undefined {
  const { over, current } = parts;
  const last = usualAMinute(parts) === undefined && current !== undefined ? [...over, current] : over;
  const few = last.slice(-NEWEST);
  const paces = few
    .filter(({ rises }) => rises.length > 0)
    .map((part) => (lowerOf(part.rises, 1 / 4) * part.rises.length) / minutesOf(part));
  const known = [usualAMinute(parts) ?? medianRate(few), paces.length === 0 ? undefined : lowerOf(paces, 1 / 2)];
  const numbers = known.filter((one) => one !== undefined);
  return numbers.length === 0 ? undefined : Math.max(...numbers);
}

/** The requests of so many minutes, if one of them has so many times the usual ones. */
export function allowed(usual: number, times: number, minutes: number): number {
  return usual * (times + TIMES_LATER * Math.max(0, minutes - 1));
}

/**
 * A rise that falls again was none of the stage: labels that change show each series twice for a while.
 *
 * @param growth what may be growth, and falls by a restart; undefined while nobody knows
 * @returns the parts without it; undefined where nothing has come that is as large as what falls
 */
export function takenBack(parts: Parts, fell: Counters, growth: number | undefined): Parts | undefined {
  const { over, current } = parts;
  const all = current === undefined ? over : [...over, current];
  const place = all.findLastIndex(
    ({ most }, i) =>
      i >= all.length - 1 - BACK_PARTS &&
      most.of > Math.max(FEW, growth ?? 0) &&
      Math.abs(fell.of - most.of) <= most.of * AS_LARGE,
  );
  const part = all[place];
  if (part === undefined) return undefined;
  const less = { hits: Math.min(part.hits, part.most.hits), of: part.most.of };
  const without: Part = {
    ...{ ...part, hits: part.hits - less.hits, of: part.of - less.of, most: NOTHING },
    back: growth === undefined ? sumOf(part.back, less) : part.back,
  };
  return place === over.length
    ? { ...parts, current: without }
    : { ...parts, over: over.map((one, i) => (i === place ? without : one)) };
}

/** Requests a minute that so many have, or more; all of them where there are fewer, and any number where there are none. */
function asMuchAs(parts: readonly Part[], many: number): number {
  const rates = parts.map(rateOf).toSorted((a, b) => b - a);
  return rates[Math.min(many, rates.length) - 1] ?? Infinity;
}

function exceeds(part: Part, usual: number): boolean {
  return part.of > Math.max(FEW, allowed(usual, TIMES_USUAL, minutesOf(part)));
}

/** Undefined without requests. */
function medianRate(parts: readonly Part[]): number | undefined {
  const rates = parts.filter(hasRequests).map(rateOf);
  return rates.length === 0 ? undefined : lowerOf(rates, 1 / 2);
}

/** The number below which a part of them lies, the lower one of two. */
function lowerOf(numbers: readonly number[], part: number): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor((numbers.length - 1) * part)] ?? NaN;
}

function isTorn({ falls, rises }: Part): boolean {
  return falls * RISES_OF_A_FALL >= Math.max(1, rises.length);
}

function isSteady(part: Part): boolean {
  return hasRequests(part) && !isTorn(part);
}

function hasRequests({ of }: Part): boolean {
  return of > 0;
}

function rateOf(part: Part): number {
  return part.of / minutesOf(part);
}

function minutesOf({ from, to }: Part): number {
  return Math.max(1, (to - from) / PART_SECONDS);
}

export const NOTHING: Counters = { hits: 0, of: 0 };

/** Where a version that kept no parts has counted, that is taken as it is. */
export function noParts(counted: Counters): Parts {
  return { sure: { hits: counted.hits, of: counted.of }, doubted: NOTHING, over: [] };
}

export function sumOf(one: Counters, other: Counters): Counters {
  return { hits: one.hits + other.hits, of: one.of + other.of };
}
