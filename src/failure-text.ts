/*
 * The text of a failure: what has happened in its first line, findings in lines of their own, and behind NEXT_STEP what its
 * reader should do now. Workflow code reads such texts as well: nothing of Node, no clock.
 */

export const NEXT_STEP = '\nNext step: ';

/** What has happened, without findings and without what to do. */
export function firstLine(text: string): string {
  return text.split('\n', 1)[0] ?? '';
}

/** The same of whatever was thrown. */
export function reasonOf(error: unknown): string {
  return firstLine(error instanceof Error ? error.message : String(error));
}

/** What has happened, with its findings. */
export function withoutNextStep(text: string): string {
  return text.split(NEXT_STEP, 1)[0] ?? '';
}

/** Of what somebody else says (PostgreSQL quotes a value that does not cast whole), characters: Temporal takes 2 MB of a failure. */
export const LONGEST_QUOTED = 2_000;

/** The beginning of a text that has more than `most` characters. */
export function shortened(text: string, most: number): string {
  if (text.length <= most) return text;
  // Half of a pair of surrogates is no text that every reader takes.
  return `${text.slice(0, most - 4).replace(/[\uD800-\uDBFF]$/, '')} ...`;
}
