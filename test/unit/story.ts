/** What a search has found, with the steps that lead there. */
export function wrong(what: string, story: readonly string[]): Error {
  return new Error(`${what}, after: ${story.join('; ')}`);
}
