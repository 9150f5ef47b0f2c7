import MurmurHash3 from 'imurmurhash';

/** Weights add up to this, always: a total that changed between stages would move users in and out of the cohort. */
export const TOTAL_WEIGHT = 100_000;

/** Whether a request is of nobody in particular: no user is given, or an empty id. Callers without types may give null. */
export function isNobody(user: string | null | undefined): user is '' | null | undefined {
  return user === undefined || user === null || user === '';
}

/**
 * Whether a user belongs to the cohort that reads from green, at `percent` of the users (in steps of 0.001 %).
 *
 * The same answer as OpenFeature's flagd gives for `{"fractional": [["green", percent * 1000], ["off", the rest]]}`:
 * murmur3-32 of the UTF-8 bytes of flag key and user, scaled to the total weight. A user's bucket never changes and the
 * cohort is all buckets below the weight, so the users of a smaller stage stay in every larger one. Nobody in particular
 * belongs to none.
 */
export function inCohort(flag: string, user: string, percent: number): boolean {
  return percent > 0 && !isNobody(user) && (percent >= 100 || bucketOf(flag, user) < weightOf(percent));
}

/** How many of the 100,000 buckets a share of the users has. */
export function weightOf(percent: number): number {
  return Math.round(percent * (TOTAL_WEIGHT / 100));
}

/** The bucket of a user, 0 to 99,999. The product has at most 49 bits, so a number holds it exactly. */
export function bucketOf(flag: string, user: string): number {
  return Math.floor((new MurmurHash3(bytesOf(`${flag}${user}`)).result() * TOTAL_WEIGHT) / 2 ** 32);
}

const ASCII = /^[ -~]*$/;

/** A text with one character for each of its UTF-8 bytes: the hash takes each character as one. */
function bytesOf(text: string): string {
  return ASCII.test(text) ? text : Buffer.from(text).toString('latin1');
}
