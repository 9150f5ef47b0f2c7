const TAB = 9;
const LINE_FEED = 10;
const CARRIAGE_RETURN = 13;
const SPACE = 32;
const STAR = 42;
const HYPHEN = 45;
const SLASH = 47;
const SEMICOLON = 59;

/**
 * Where the first word behind a place in a text is: after white space, comments and empty statements, which end where
 * PostgreSQL ends them. Not a pattern: one that may end a comment at any later end of one takes time without bound, and
 * finds words in the middle of a statement. The end of the text where there is none.
 */
export function firstWordAt(text: string, from = 0): number {
  let at = from;
  while (at < text.length) {
    const code = text.charCodeAt(at);
    // Nearly every text begins with a letter.
    if (code > SEMICOLON) return at;
    if (code === SPACE || code === SEMICOLON || (code >= TAB && code <= CARRIAGE_RETURN)) at += 1;
    else if (code === HYPHEN && text.charCodeAt(at + 1) === HYPHEN) at = endOfLine(text, at + 2);
    else if (code === SLASH && text.charCodeAt(at + 1) === STAR) at = endOfComment(text, at + 2);
    else return at;
  }
  return at;
}

/**
 * What a pattern finds in the first words behind a place in a text, or null.
 *
 * @param words with flag `y`: it is tried at the first word and nowhere else
 */
export function firstWords(words: RegExp, text: string, from = 0): RegExpExecArray | null {
  words.lastIndex = firstWordAt(text, from);
  return words.exec(text);
}

function endOfLine(text: string, from: number): number {
  let at = from;
  while (at < text.length) {
    const code = text.charCodeAt(at);
    if (code === LINE_FEED || code === CARRIAGE_RETURN) break;
    at += 1;
  }
  return at;
}

/** Comments can be nested. */
function endOfComment(text: string, from: number): number {
  let depth = 1;
  let at = from;
  while (at < text.length && depth > 0) {
    const code = text.charCodeAt(at);
    const next = text.charCodeAt(at + 1);
    if (code === STAR && next === SLASH) depth -= 1;
    else if (code === SLASH && next === STAR) depth += 1;
    else {
      at += 1;
      continue;
    }
    at += 2;
  }
  return at;
}
