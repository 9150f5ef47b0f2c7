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
