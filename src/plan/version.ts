/** The form of a version: numbers with dots between them, a `v` before them if you like, and what Semantic Versioning appends. */
export const VERSION_PATTERN = /^[vV]?[0-9]+(\.[0-9]+)*(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$/;

/**
 * Whether a version is `least` or a later one, by the order of Semantic Versioning (https://semver.org, 11): part by part,
 * 1.10 after 1.9; a part that is missing is 0; a pre-release, 2.1.0-rc.1, before its release; what follows `+` does not
 * count. Undefined where one of the two is not of that form, so that nothing can be said.
 */
export function isAtLeast(version: string, least: string): boolean | undefined {
  const [a, b] = [partsOf(version), partsOf(least)];
  if (a === undefined || b === undefined) return undefined;
  return (inOrder(a.numbers, b.numbers, '0') || comparePreReleases(a.preRelease, b.preRelease)) >= 0;
}

interface Parts {
  readonly numbers: readonly string[];
  /** Empty for a release. */
  readonly preRelease: readonly string[];
}

function partsOf(version: string): Parts | undefined {
  if (!VERSION_PATTERN.test(version)) return undefined;
  const [known = ''] = version.replace(/^v/i, '').split('+', 1);
  const dash = known.indexOf('-');
  if (dash === -1) return { numbers: known.split('.'), preRelease: [] };
  return { numbers: known.slice(0, dash).split('.'), preRelease: known.slice(dash + 1).split('.') };
}

function comparePreReleases(a: readonly string[], b: readonly string[]): number {
  if (a.length === 0 || b.length === 0) return b.length - a.length;
  return inOrder(a, b, undefined);
}

/** Part by part. Where one list is shorter, `missing` stands for what it lacks, or else it comes first. */
function inOrder(a: readonly string[], b: readonly string[], missing: string | undefined): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    const [one, other] = [a[i] ?? missing, b[i] ?? missing];
    if (one === undefined || other === undefined) return one === undefined ? -1 : 1;
    const order = compareParts(one, other);
    if (order !== 0) return order;
  }
  return 0;
}

/** Numbers by their value, however long they are, and before words. */
function compareParts(a: string, b: string): number {
  const [isNumber, otherIsNumber] = [/^\d+$/.test(a), /^\d+$/.test(b)];
  if (isNumber && otherIsNumber) {
    const difference = BigInt(a) - BigInt(b);
    return difference < 0n ? -1 : difference > 0n ? 1 : 0;
  }
  if (isNumber !== otherIsNumber) return isNumber ? -1 : 1;
  return a < b ? -1 : a > b ? 1 : 0;
}
