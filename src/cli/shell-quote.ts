/** One word for a POSIX shell: what is not plainly harmless stands in single quotes. */
export function shellQuote(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A command line that a POSIX shell reads as exactly these words; options go on lines of their own. */
export function shellCommand(words: readonly string[]): string {
  return words
    .map((word, i) => (i > 0 && word.startsWith('--') ? `\\\n  ${shellQuote(word)}` : shellQuote(word)))
    .join(' ');
}
