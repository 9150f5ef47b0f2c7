/** How many texts are remembered, and how long one may be. */
const MOST = 1_000;
const LONGEST = 2_000;

/**
 * A test of statements' texts that remembers for which of them it was false. An application has few, and each comes again
 * and again: to look one up costs less than to read it anew. When there are too many, all are forgotten.
 */
export function rememberingMisses(test: (text: string) => boolean): (text: string) => boolean {
  const misses = new Set<string>();
  return (text) => {
    // To look it up, all of it would have to be read.
    if (text.length > LONGEST) return test(text);
    if (misses.has(text)) return false;
    if (test(text)) return true;
    if (misses.size >= MOST) misses.clear();
    misses.add(text);
    return false;
  };
}
