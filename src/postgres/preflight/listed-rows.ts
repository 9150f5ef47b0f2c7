import { statementsOf, type Token } from './whole-rows.js';

/**
 * Whether a function gives rows by a list of their columns: the last statement of one in SQL, `RETURN QUERY SELECT a, b` and
 * `RETURN ROW(a, b)` in PL/pgSQL. One of its own variables, or `SELECT t.*`, has whatever columns the table has.
 */
export function listsColumns(language: string, text: string): boolean {
  const statements = statementsOf(text).filter((tokens) => tokens.length > 0);
  if (language === 'sql') return statements.slice(-1).some((tokens) => isList(tokens, 0, 0));
  return statements.some((tokens) =>
    tokens.some(({ text: word, depth }, at) => {
      if (word !== 'return') return false;
      const next = tokens[at + 1]?.text;
      if (next === 'query') return isList(tokens, at + 2, depth);
      return next === 'row' && tokens[at + 2]?.text === '(' && hasMany(tokens, at + 3, depth + 1);
    }),
  );
}

/** The list of the first SELECT, or RETURNING, at this depth. */
function isList(tokens: readonly Token[], from: number, depth: number): boolean {
  for (let at = from; at < tokens.length; at += 1) {
    const token = tokens[at];
    if (token?.depth === depth && (token.text === 'select' || token.text === 'returning')) {
      return hasMany(tokens, at + 1, depth);
    }
  }
  return false;
}

/** More than one item, and none that stands for all columns. */
function hasMany(tokens: readonly Token[], from: number, depth: number): boolean {
  let commas = 0;
  for (let at = from; at < tokens.length; at += 1) {
    const token = tokens[at];
    if (token === undefined || token.depth < depth || (token.depth === depth && token.text === 'from')) break;
    if (token.depth > depth) continue;
    if (token.text === ',') commas += 1;
    // Of a product its left side is a value: t.* has a point, and * alone begins an item.
    if (token.text === '*' && /^[.,]$|^select$|^returning$/.test(tokens[at - 1]?.text ?? '')) return false;
  }
  return commas > 0;
}
