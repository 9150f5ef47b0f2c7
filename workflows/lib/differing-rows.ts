/** How many differing rows a message names. */
export const NAMED = 10;

/** The first differing rows by their keys, and where the others are: the history of a run outlives green and its schema. */
export function nameRows(examples: readonly string[]): string {
  const named = examples.slice(0, NAMED).join('; ');
  const others = examples.length - NAMED;
  return others > 0 ? `${named}; ${others} more in the run's history, in the result of this comparison` : named;
}
