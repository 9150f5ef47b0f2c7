/** Whether a name in a function, with a schema or without one, is what is looked for. */
export type IsCalled = (name: string, schema: string | undefined) => boolean;

/** A word or sign of a function. */
export interface Token {
  readonly text: string;
  /** How many parentheses are open around it. */
  readonly depth: number;
}

/** A comment, a name in quotes, a word, or one sign. What is in strings counts as text as well: EXECUTE is given such. */
const TOKEN = /--[^\n]*|\/\*[\s\S]*?(?:\*\/|$)|"((?:[^"]|"")*)"|[\w$\u0080-\uffff]+|\S/g;

/**
 * Whether a function's statements put whole rows of what is called so into a table by the order of their columns: `INSERT INTO ...
 * SELECT t.* FROM it t`, the rows that a DELETE returns, and, in the function of a trigger, OLD and NEW. Each token is looked
 * at a few times, however long the text is.
 */
export function putsWholeRows(
  statements: readonly (readonly Token[])[],
  isCalled: IsCalled,
  isTriggered: boolean,
): boolean {
  return statements.some((tokens) => {
    const isMoved = isReturnedWhole(tokens, isCalled);
    return tokens.some((_, at) => {
      if (!isAt(tokens, at, 'insert', 'into')) return false;
      const list = listOf(tokens, at);
      if (list === undefined) return false;
      const { items, end } = list;
      if (isTriggered && items.some((item) => isRowOfTrigger(tokens, item))) return true;
      return items.some((item) => {
        const star = starAt(tokens, item);
        if (star === undefined) return false;
        return isMoved || isFrom(tokens, end, isCalled, star.of);
      });
    });
  });
}

/** The statements of a function's text, without comments. Read once, and then asked about each table. */
export function statementsOf(text: string): Token[][] {
  const statements: Token[][] = [[]];
  let depth = 0;
  for (const [whole, quoted] of text.matchAll(TOKEN)) {
    if (whole.startsWith('--') || whole.startsWith('/*')) continue;
    if (whole === ';') {
      statements.push([]);
      depth = 0;
      continue;
    }
    if (whole === ')') depth -= 1;
    statements.at(-1)?.push({ text: quoted?.replaceAll('""', '"') ?? whole.toLowerCase(), depth });
    if (whole === '(') depth += 1;
  }
  return statements;
}

function isAt(tokens: readonly Token[], at: number, ...texts: readonly string[]): boolean {
  return texts.every((text, i) => tokens[at + i]?.text === text);
}

/** Where the items begin that an INSERT takes, and where its list ends. */
function listOf(tokens: readonly Token[], insert: number): { items: number[]; end: number } | undefined {
  const depth = tokens[insert]?.depth ?? 0;
  let at = insert + 2;
  for (; ; at += 1) {
    const token = tokens[at];
    if (token === undefined || token.depth < depth || token.text === 'insert') return undefined;
    if (token.depth === depth && (token.text === 'select' || token.text === 'values')) break;
  }
  const isValues = tokens[at]?.text === 'values';
  const first = isValues ? at + 2 : at + 1;
  const inside = isValues ? depth + 1 : depth;
  const items = [first];
  for (at = first; ; at += 1) {
    const token = tokens[at];
    if (token === undefined || token.depth < inside || token.text === 'insert') break;
    if (token.depth > inside) continue;
    if (token.text === 'from') break;
    if (token.text === ',') items.push(at + 1);
  }
  return { items, end: at };
}

/** `OLD.*`, or `($1).*` of a row that EXECUTE is given; not where it is compared with something. */
function isRowOfTrigger(tokens: readonly Token[], item: number): boolean {
  let at = isAt(tokens, item, '(') ? item + 1 : item;
  if (!/^(?:old|new|\$\d+)$/.test(tokens[at]?.text ?? '')) return false;
  at += isAt(tokens, at + 1, ')') ? 2 : 1;
  return isAt(tokens, at, '.', '*') && !/^(?:is|[=<>!])$/.test(tokens[at + 2]?.text ?? '');
}

/** `*` (of null) or `name.*` */
function starAt(tokens: readonly Token[], item: number): { readonly of: string | null } | undefined {
  if (isAt(tokens, item, '*')) return { of: null };
  const name = tokens[item]?.text;
  return name !== undefined && isAt(tokens, item + 1, '.', '*') ? { of: name } : undefined;
}

/** Whether FROM (or DELETE FROM) is followed by one of these, under the name that the star has. */
function isFrom(tokens: readonly Token[], from: number, isCalled: IsCalled, star: string | null): boolean {
  if (!isAt(tokens, from, 'from')) return false;
  let at = isAt(tokens, from + 1, 'only') ? from + 2 : from + 1;
  const schema = isAt(tokens, at + 1, '.') ? tokens[at]?.text : undefined;
  if (schema !== undefined) at += 2;
  const name = tokens[at]?.text;
  const alias = tokens[isAt(tokens, at + 1, 'as') ? at + 2 : at + 1]?.text;
  return name !== undefined && isCalled(name, schema) && (star === null || star === name || star === alias);
}

function isReturnedWhole(tokens: readonly Token[], isCalled: IsCalled): boolean {
  return tokens.some(({ depth }, at) => {
    if (!isAt(tokens, at, 'delete', 'from') || !isFrom(tokens, at + 1, isCalled, null)) return false;
    for (let next = at + 2; ; next += 1) {
      const token = tokens[next];
      if (token === undefined || token.depth < depth || token.text === 'delete') return false;
      if (token.depth === depth && token.text === 'returning') return starAt(tokens, next + 1) !== undefined;
    }
  });
}
