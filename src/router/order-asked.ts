import { firstWordAt } from './first-words.js';

/** What rows are ordered by, where it can be found in the answer: a column by its name, or by its place, from 1. */
export type OrderKey = string | number;

/** A text in any quotes, a quoted name, a word, a number or a parameter; else one sign. */
const TOKEN =
  /e'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$((?:[a-z_\u0080-\uffff][\w\u0080-\uffff]*)?)\$[^]*?\$\1\$|[\w$\u0080-\uffff]+|[^]/isy;

/** A name or a number, and nothing that is computed; then the next one, or the end of the list. */
const KEY =
  /(?:"((?:[^"]|"")+)"|([\w\u0080-\uffff]+))(?: asc| desc)?(?: nulls (?:first|last))?(?: , |(?= (?:limit|offset|fetch|for) )|$)/giy;

/**
 * The order that a statement asks for: by an ORDER BY that is in no parentheses, text or comment. One of a subquery, a
 * window or an aggregate orders no rows of the answer. undefined where none is asked for.
 *
 * @returns the first keys, up to one that is computed, or named with its table: where an answer has a column of that name,
 * it may be another one
 */
export function orderAsked(text: string): OrderKey[] | undefined {
  const words = outermostWords(text);
  const isWord = (n: number, word: string): boolean => words[n]?.toLowerCase() === word;
  const at = words.findLastIndex((_, n) => isWord(n, 'order') && isWord(n + 1, 'by'));
  if (at === -1) return undefined;
  const list = words.slice(at + 2).join(' ');
  return Array.from(list.matchAll(KEY), ([, quoted, word = '']) => {
    if (quoted !== undefined) return quoted.replaceAll('""', '"');
    return /^\d+$/.test(word) ? Number(word) : word.toLowerCase();
  });
}

/** What stands in no parentheses, without comments; of what does, the closing ones. */
function outermostWords(text: string): string[] {
  const words: string[] = [];
  let depth = 0;
  for (let at = firstWordAt(text); at < text.length; at = firstWordAt(text, TOKEN.lastIndex)) {
    TOKEN.lastIndex = at;
    const word = TOKEN.exec(text)?.[0] ?? '';
    if (word === '(' || word === '[') depth += 1;
    if (word === ')' || word === ']') depth -= 1;
    if (depth === 0) words.push(word);
  }
  return words;
}
