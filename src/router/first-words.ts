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
    if (isSkipped(code)) at += 1;
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

/**
 * Whether one of these words is the first behind any semicolon of a text, quoted ones and those in comments too. Read from
 * the end, so that each place is looked at once: from one semicolon after the other, a run of them, or of comments in
 * each other, would be read to its end as often as it is long.
 *
 * @param words with flag `g`
 */
export function followSemicolon(words: RegExp, text: string): boolean {
  const first = text.indexOf(';');
  if (first === -1) return false;
  const places = new Set(Array.from(text.matchAll(words), ({ index }) => index));
  if (places.size === 0) return false;
  const { length } = text;
  /** Where a comment ends that is open at a place, which counts from the first semicolon. */
  const ends = new Int32Array(length - first + 1).fill(length);
  /** Whether the first word behind a place is one of them. */
  const leads = new Uint8Array(length - first + 1);
  const endOf = (at: number): number => ends[at - first] ?? length;
  const isLed = (at: number): number => leads[at - first] ?? 0;
  let lineEnd = length;
  for (let at = length - 1; at >= first; at--) {
    const code = text.charCodeAt(at);
    const next = text.charCodeAt(at + 1);
    const opens = code === SLASH && next === STAR;
    if (code === LINE_FEED || code === CARRIAGE_RETURN) lineEnd = at;

    if (code === STAR && next === SLASH) ends[at - first] = at + 2;
    else ends[at - first] = opens ? endOf(endOf(at + 2)) : endOf(at + 1);

    if (isSkipped(code)) leads[at - first] = isLed(at + 1);
    else if (opens) leads[at - first] = isLed(endOf(at + 2));
    else if (code === HYPHEN && next === HYPHEN) leads[at - first] = isLed(lineEnd);
    else if (places.has(at)) leads[at - first] = 1;

    if (code === SEMICOLON && isLed(at) === 1) return true;
  }
  return false;
}

/** White space and the end of an empty statement. */
function isSkipped(code: number): boolean {
  return code === SPACE || code === SEMICOLON || (code >= TAB && code <= CARRIAGE_RETURN);
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
